"""The width of every tensor in mixed models, and the bytes that follow, worked out by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxsparse import Model, layers
from onnxsparse.cost.backends.base import Precision
from onnxsparse.cost.estimate import Deployment, deploy
from tests.commands import Run
from tests.graphs import FLOAT16, INT64, Array, model, node, proto, value, weight

MS = "com.microsoft"
FLOATS_16 = Precision(activation_bits=16, coefficient_bits=16)
"""With floats of 16 bits, a tensor that the file says has 8 is told apart from a float."""

SCALES: dict[str, "str | Array | np.generic"] = {"s": np.float32(0.1), "z8": np.uint8(0), "z16": np.uint16(0), "zi8": np.int8(0)}


def qdq(source: str, end: str, zero_point: str, output_dtype: int | None = None) -> list[onnx.NodeProto]:
    """A value through a quantizer, unnamed."""
    ends = f"s {zero_point}".strip()
    quantize = node("QuantizeLinear", f"{source} {ends}", f"{end}_q", name="")
    if output_dtype is not None:
        quantize.attribute.add(name="output_dtype", type=onnx.AttributeProto.INT, i=output_dtype)
    return [quantize, node("DequantizeLinear", f"{end}_q {ends}", end, name="")]


def quantized_weight(name: str, zero_point: str = "zi8") -> onnx.NodeProto:
    return node("DequantizeLinear", f"{name}_q s {zero_point}".strip(), name, name="")


def int8(shape: str) -> Array:
    return (weight(shape) * 20).astype(np.int8)


def narrow_type(built: Model, name: str, element_type: int) -> Model:
    """A copy with a weight of another type."""
    built = built.copy()
    built.weights[name] = built.weights[name].astype(helper.tensor_dtype_to_np_dtype(element_type))
    return built


def bytes_of(found: Deployment) -> dict[str, tuple[int, int, int]]:
    """Item → bytes read, written, and of dense coefficients."""
    costs = {row.item.node: row.cost for row in found.rows}
    return {n: (c.input_bytes, c.output_bytes, c.coefficient_bytes) for n, c in costs.items() if c is not None}


def three_convs() -> Model:
    """x of 4 channels (8 bit) → 6 → 6 (16 bit) → 2 (float), 8×8 each; the weights int8, int8 and float."""
    nodes = [
        *qdq("x", "xd", "z8"),
        quantized_weight("v"),
        node("Conv", "xd v", "a"),
        node("Relu", "a", "ar"),
        *qdq("ar", "ad", "z8"),
        quantized_weight("w"),
        node("Conv", "ad w", "b"),
        *qdq("b", "bd", "z16"),
        node("Conv", "bd u", "y"),
    ]
    weights = {**SCALES, "v_q": int8("6x4x1x1"), "w_q": int8("6x6x1x1"), "u": "2x6x1x1"}
    return model(nodes, {"x": "1x4x8x8"}, ["y"], weights, opset=21, ir_version=10)


def blocked_int4() -> Model:
    """x (float) · a 16×8 matrix of int4 in blocks of 8."""
    nodes = [node("DequantizeLinear", "w_q sb", "w", axis=0, block_size=8), node("MatMul", "x w", "y")]
    weights = {"w_q": np.ones((16, 8), np.int8), "sb": np.full((2, 8), 0.1, np.float32)}
    return narrow_type(model(nodes, {"x": "4x16"}, ["y"], weights, opset=21, ir_version=10), "w_q", TensorProto.INT4)


def packed_int4() -> Model:
    packed = {"b": np.full((8, 1, 16), 0x99, np.uint8), "bs": np.full(8, 0.1, np.float32)}
    matmul = node("MatMulNBits", "x b bs", "y", domain=MS, K=32, N=8, bits=4, block_size=32)
    return model([matmul], {"x": "4x32"}, ["y"], packed, domains={MS: 1}, value_info=[value("y", "4x8")])


def qat() -> Model:
    """A float weight that becomes an int8 in the graph, an activation that becomes uint16 without a zero point."""
    nodes = [
        *qdq("x", "xd", "", output_dtype=TensorProto.UINT16),
        *qdq("w", "wd", "zi8"),
        node("Conv", "xd wd", "y"),
    ]
    return model(nodes, {"x": "1x4x8x8"}, ["y"], {**SCALES, "w": "6x4x1x1"}, opset=21, ir_version=10)


def two_readers(first: str, second: str) -> Model:
    """One convolution's result, read by two others: through a quantizer, or ("") as a float."""
    nodes = [node("Conv", "x v", "a")]
    for end, zero_point in (("p", first), ("q", second)):
        nodes += qdq("a", f"a{end}", zero_point) if zero_point else []
        nodes.append(node("Conv", f"a{end} w" if zero_point else "a w", end))
    weights = {**SCALES, "v": "4x4x1x1", "w": "4x4x1x1"}
    return model(nodes, {"x": "1x4x8x8"}, ["p", "q"], weights, opset=21, ir_version=10)


def operators() -> Model:
    """onnxruntime's own operators on uint8: a convolution, then an addition, integers from end to end."""
    nodes = [
        node("QLinearConv", "x s z8 w_q s zi8 s z8", "a"),
        node("QLinearAdd", "a s z8 x s z8 s z8", "b", domain=MS),
        node("DequantizeLinear", "b s z8", "y", name=""),
    ]
    weights = {**SCALES, "w_q": int8("4x4x1x1")}
    return model(nodes, {"x": ("1x4x8x8", TensorProto.UINT8)}, ["y"], weights, domains={MS: 1})


def float16_tail() -> Model:
    """Half floats are floats: the target's width. The indices in between are int64."""
    nodes = [node("ArgMax", "x", "i", axis=1, keepdims=1), node("GatherElements", "x i", "y", axis=1)]
    return model(nodes, {"x": ("2x8", FLOAT16)}, ["y"])


def eight_bit_floats() -> Model:
    nodes = [*qdq("x", "xd", "f8"), quantized_weight("w", ""), node("MatMul", "xd w", "y")]
    f8 = numpy_helper.to_array(helper.make_tensor("f8", TensorProto.FLOAT8E4M3FN, [], [0.0]))
    weights = {**SCALES, "f8": f8, "w_q": int8("8x8")}
    return narrow_type(model(nodes, {"x": "4x8"}, ["y"], weights, opset=21, ir_version=10), "w_q", TensorProto.FLOAT8E4M3FN)


def views_between() -> Model:
    """A quantized value is reshaped as a float on its way."""
    nodes = [*qdq("x", "xd", "z8"), node("Reshape", "xd t", "r"), node("MatMul", "r w", "y")]
    return model(nodes, {"x": "4x2x4"}, ["y"], {**SCALES, "t": np.array([4, 8]), "w": "8x3"})


def integers_cast_to_floats() -> Model:
    nodes = [node("Cast", "w_q", "w", to=TensorProto.FLOAT), node("MatMul", "x w", "y")]
    return model(nodes, {"x": "4x8"}, ["y"], {"w_q": int8("8x8")})


def quantized_output() -> Model:
    """The model's output leaves behind a quantizer of 8 bits, as a float."""
    nodes = [node("Conv", "x w", "c"), *qdq("c", "y", "z8")]
    return model(nodes, {"x": "1x4x8x8"}, ["y"], {**SCALES, "w": "2x4x1x1"})


# item → bytes read, written, of coefficients; floats have 2 bytes
BY_HAND = [
    (
        three_convs,
        {
            "a": (4 * 64, 6 * 64, 24),
            "b": (6 * 64, 6 * 64 * 2, 36),
            "y": (6 * 64 * 2, 2 * 64 * 2, 12 * 2),
        },
    ),
    (blocked_int4, {"y": (4 * 16 * 2, 4 * 8 * 2, 16 * 8 // 2)}),
    (packed_int4, {"y": (4 * 32 * 2, 4 * 8 * 2, 32 * 8 // 2)}),
    (qat, {"y": (4 * 64 * 2, 6 * 64 * 2, 24)}),
    # stored once, at the widest that is read: a float beside 8 bits is a float of 2 bytes
    (lambda: two_readers("z8", "z8"), {"a": (512, 256, 32), "p": (256, 512, 32), "q": (256, 512, 32)}),
    (lambda: two_readers("z8", "z16"), {"a": (512, 512, 32), "p": (512, 512, 32), "q": (512, 512, 32)}),
    (lambda: two_readers("z8", ""), {"a": (512, 512, 32), "p": (512, 512, 32), "q": (512, 512, 32)}),
    (operators, {"a": (256, 256, 16), "b": (512, 256, 0)}),
    (float16_tail, {"i": (2 * 8 * 2, 2 * 8, 0), "y": (2 * 8 * 2 + 2 * 8, 2 * 2, 0)}),
    (eight_bit_floats, {"y": (32, 32 * 2, 64)}),
    (views_between, {"y": (32, 12 * 2, 24 * 2)}),
    (integers_cast_to_floats, {"y": (32 * 2, 32 * 2, 64)}),
    (quantized_output, {"c": (256 * 2, 128, 8 * 2)}),
]


@pytest.mark.parametrize(("build", "expected"), BY_HAND, ids=[getattr(b, "__name__", "") for b, _ in BY_HAND])
def test_bytes_by_hand(build: Callable[[], Model], expected: dict[str, tuple[int, int, int]]) -> None:
    assert bytes_of(deploy(build(), "roofline", FLOATS_16)) == expected


def test_encoded_coefficients_have_their_width() -> None:
    """Of 1000 int4, 100 are not zero: 2.75 · 100 / 2 + 0.13 / 8 · 1000 = 153.75 bytes, 500 dense."""
    nodes = [node("DequantizeLinear", "w_q s", "w"), node("MatMul", "x w", "y")]
    codes = np.zeros((100, 10), np.int8)
    codes[:10] = 3
    built = model(nodes, {"x": "4x100"}, ["y"], {"w_q": codes, "s": np.float32(0.1)}, opset=21, ir_version=10)
    assert bytes_of(deploy(narrow_type(built, "w_q", TensorProto.INT4)))["y"][2] == 154
    assert bytes_of(deploy(built))["y"][2] == 292  # as int8: 275 + 16.25


def test_activation_bits_speak_of_floats_alone() -> None:
    """Of three_convs, y alone is a float activation, u alone a float weight."""
    eight, sixteen = deploy(three_convs()), deploy(three_convs(), precision=FLOATS_16)
    before, after = bytes_of(eight), bytes_of(sixteen)
    assert before["y"] == (6 * 64 * 2, 2 * 64, 12)
    assert after["y"] == (6 * 64 * 2, 2 * 64 * 2, 24)
    assert (before["a"], before["b"]) == (after["a"], after["b"])


def test_memory_follows_the_widths() -> None:
    """Worst at b: x 256, y 128 and, alive, a (384) and b (768 bytes)."""
    found = deploy(three_convs())
    assert found.memory_bytes == [256 + 128 + 384, 256 + 128 + 384 + 768, 256 + 128 + 768]
    assert found.mem_a_mb == 1536 / 1e6


def test_a_weight_in_a_body_has_its_width() -> None:
    inner = [quantized_weight("w"), node("MatMul", "x w", "t")]
    then = helper.make_graph(inner, "then", [], [value("t", "4x8")])
    other = helper.make_graph([node("Relu", "x", "e")], "else", [], [value("e", "4x8")])
    built = model(
        [node("If", "c", "y", then_branch=then, else_branch=other)],
        {"x": "4x8", "c": ("", TensorProto.BOOL)},
        ["y"],
        {**SCALES, "w_q": int8("8x8")},
    )
    assert [use.bits for layer in layers(built) for use in layer.weights] == [8]
    assert bytes_of(deploy(built, "roofline", FLOATS_16))["y"][2] == 64


def test_what_crosses_to_the_host_has_its_width() -> None:
    nodes = [node("Conv", "x w", "a", name="conv"), node("Flatten", "a", "f"), *qdq("f", "g", "z16"), node("TopK", "g k", "v i")]
    weights = {**SCALES, "w": "8x3x1x1", "k": np.array([5])}
    found = deploy(model(nodes, {"x": "1x3x8x8"}, ["v", "i"], weights, opset=21, ir_version=10)).tail
    assert found is not None
    assert [c.bytes for c in found.crossings] == [2 * 8 * 64]


def test_the_command_tells_a_16_bit_file_from_an_8_bit_one(run: Run, tmp_path: Path) -> None:
    """Inputs of the first: 1 byte each; of the second 2, whatever --activation-bits says of floats."""
    for zero_point in ("z8", "z16"):
        nodes = [*qdq("x", "xd", zero_point), node("Conv", "xd w", "c"), *qdq("c", "y", zero_point)]
        built = proto(nodes, {"x": "1x4x8x8"}, ["y"], {**SCALES, "w": "4x4x1x1"}, opset=21, ir_version=10)
        onnx.save(built, tmp_path / f"{zero_point}.onnx")
    found = {}
    for zero_point in ("z8", "z16"):
        for bits in (8, 16):
            assert run("report", tmp_path / f"{zero_point}.onnx", "--activation-bits", bits, "--json", "-") == 0
            (layer,) = json.loads(run.out)["layers"]
            found[zero_point, bits] = (layer["input_bytes"], layer["output_bytes"])
    assert found == {("z8", 8): (256, 256), ("z8", 16): (256, 256), ("z16", 8): (512, 512), ("z16", 16): (512, 512)}


def test_token_numbers_have_the_width_of_their_type() -> None:
    """4 int64 in, 4 · 8 floats of a byte out."""
    found = deploy(model([node("Gather", "table x", "y")], {"x": ("4", INT64)}, ["y"], {"table": "100x8"}))
    assert bytes_of(found)["y"] == (4 * 8, 4 * 8, 0)
