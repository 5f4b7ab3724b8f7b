"""MACs of every linear op against formulas worked out by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxsparse import layers
from onnxsparse.ir.model import Model
from tests.bodies import if_model, loop_model
from tests.graphs import FLOAT, INT64, UINT8, conv, model, node, proto, single, weight

MS = "com.microsoft"


def int8(shape: str) -> np.ndarray:
    values: np.ndarray = np.clip(weight(shape) * 40, -127, 127).astype(np.int8)
    return values


def matmul(a: str, b: str, **options: object) -> Model:
    return single("MatMul", "a b", {"a": a}, {"b": b}, **options)


def product(a: str, b: str) -> Model:
    return single("MatMul", "a b", {"a": a, "b": b})


def gemm(a: str, b: str, **options: object) -> Model:
    return single("Gemm", "a b", {"a": a}, {"b": b}, **options)


def einsum(equation: str, *shapes: str) -> Model:
    names = "abcd"[: len(shapes)]
    return single("Einsum", " ".join(names), dict(zip(names, shapes, strict=True)), equation=equation)


def recurrent(op: str, gates: int, directions: int, *, layout: int = 0, x: str = "7x2x5", hidden: int = 6) -> Model:
    w = {"w": f"{directions}x{gates * hidden}x5", "r": f"{directions}x{gates * hidden}x{hidden}"}
    way = "bidirectional" if directions == 2 else "forward"
    return single(op, "x w r", {"x": x}, w, hidden_size=hidden, direction=way, layout=layout)


def conv_transpose(x: str, w: str, **options: object) -> Model:
    return single("ConvTranspose", "x w", {"x": x}, {"w": w}, **options)


BNB4: dict[str, str | np.ndarray] = {"b": np.full(7 * 64 // 2, 0x77, np.uint8), "s": np.ones(14, np.float32)}
"""A 7×64 weight of code 7, in blocks of 32."""


CASES: list[tuple[str, Callable[[], Model], int]] = [
    ("conv 2d", lambda: conv(x="1x3x8x8", w="4x3x3x3", pads=1), 4 * 3 * 3 * 3 * 8 * 8),
    ("conv without padding", lambda: conv(x="1x3x8x8", w="4x3x3x3"), 4 * 3 * 9 * 6 * 6),
    ("conv with stride", lambda: conv(x="1x3x9x9", w="4x3x3x3", strides=2), 4 * 3 * 9 * 4 * 4),
    ("conv with dilation", lambda: conv(x="1x3x9x9", w="4x3x3x3", dilations=2), 4 * 3 * 9 * 5 * 5),
    ("conv SAME_UPPER", lambda: conv(x="1x3x9x9", w="4x3x3x3", strides=2, auto_pad="SAME_UPPER"), 4 * 27 * 5 * 5),
    ("conv of a batch", lambda: conv(x="5x3x8x8", w="4x3x1x1"), 5 * 4 * 3 * 64),
    ("conv 1d", lambda: conv(x="2x8x50", w="16x8x5"), 2 * 16 * 8 * 5 * 46),
    ("conv 3d", lambda: conv(x="1x2x4x6x8", w="3x2x3x3x3", pads=1), 3 * 2 * 27 * 4 * 6 * 8),
    ("conv with groups", lambda: conv(x="1x8x8x8", w="12x4x3x3", group=2), 12 * 4 * 9 * 36),
    ("depthwise", lambda: conv(x="2x8x8x8", w="8x1x3x3", group=8), 8 * 9 * 2 * 36),
    ("depthwise with multiplier", lambda: conv(x="1x8x8x8", w="16x1x3x3", group=8), 16 * 9 * 36),
    ("oblong kernel", lambda: conv(x="1x3x8x10", w="4x3x1x7"), 4 * 3 * 7 * 8 * 4),
    ("conv transpose", lambda: conv_transpose(x="1x64x8x8", w="64x32x4x4", strides=[2, 2]), 64 * 32 * 16 * 64),
    ("conv transpose with groups", lambda: conv_transpose(x="3x8x5x5", w="8x2x3x3", group=4), 3 * 8 * 2 * 9 * 25),
    ("conv transpose 1d", lambda: conv_transpose(x="1x4x10", w="4x6x3"), 4 * 6 * 3 * 10),
    ("gemm", lambda: gemm("3x20", "20x7"), 3 * 20 * 7),
    ("gemm transB", lambda: gemm("3x20", "7x20", transB=1), 3 * 20 * 7),
    ("gemm transA", lambda: gemm("20x3", "20x7", transA=1), 3 * 20 * 7),
    ("matmul", lambda: matmul("5x20", "20x7"), 5 * 20 * 7),
    ("matmul of a sequence", lambda: matmul("2x5x20", "20x7"), 2 * 5 * 20 * 7),
    ("matmul with batched weight", lambda: matmul("3x5x20", "3x20x7"), 3 * 5 * 20 * 7),
    ("matmul, weight broadcast over the batch", lambda: matmul("4x3x5x20", "3x20x7"), 4 * 3 * 5 * 20 * 7),
    ("matmul, activation broadcast", lambda: matmul("5x20", "3x20x7"), 3 * 5 * 20 * 7),
    ("matmul, constant left", lambda: single("MatMul", "a b", {"b": "2x20x7"}, {"a": "5x20"}), 2 * 5 * 20 * 7),
    ("matmul by a vector", lambda: matmul("5x20", "20"), 5 * 20),
    ("vector by matmul", lambda: matmul("20", "20x7"), 20 * 7),
    ("matmul of activations", lambda: product("2x4x5x16", "2x4x16x5"), 2 * 4 * 5 * 16 * 5),
    ("einsum as matmul", lambda: einsum("bij,bjk->bik", "2x3x4", "2x4x5"), 2 * 3 * 4 * 5),
    ("einsum attention scores", lambda: einsum("bhid,bhjd->bhij", "2x3x7x8", "2x3x9x8"), 2 * 3 * 7 * 9 * 8),
    ("einsum with ellipsis", lambda: einsum("...ij,jk->...ik", "2x6x3x4", "4x5"), 2 * 6 * 3 * 4 * 5),
    ("einsum without arrow", lambda: einsum("ij,jk", "3x4", "4x5"), 3 * 4 * 5),
    ("einsum of three", lambda: einsum("ij,jk,kl->il", "2x3", "3x4", "4x5"), 2 * 3 * 4 + 2 * 4 * 5),
    ("einsum transposes only", lambda: einsum("ij->ji", "3x4"), 0),
    ("lstm", lambda: recurrent("LSTM", 4, 1), 7 * 2 * 4 * 6 * (5 + 6)),
    ("lstm both ways", lambda: recurrent("LSTM", 4, 2), 7 * 2 * 2 * 4 * 6 * (5 + 6)),
    ("gru both ways", lambda: recurrent("GRU", 3, 2), 7 * 2 * 2 * 3 * 6 * (5 + 6)),
    ("rnn", lambda: recurrent("RNN", 1, 1), 7 * 2 * 6 * (5 + 6)),
    ("lstm, batch first", lambda: recurrent("LSTM", 4, 1, layout=1, x="2x7x5"), 7 * 2 * 4 * 6 * (5 + 6)),
    (
        "matmul integer",
        lambda: single("MatMulInteger", "a b", {"a": ("5x20", UINT8)}, {"b": int8("20x7")}),
        5 * 20 * 7,
    ),
    (
        "conv integer",
        lambda: single("ConvInteger", "x w", {"x": ("1x3x8x8", UINT8)}, {"w": int8("4x3x3x3")}),
        4 * 27 * 36,
    ),
    (
        "qlinear conv",
        lambda: single(
            "QLinearConv",
            "x s z w s z2 s z",
            {"x": ("1x3x8x8", UINT8)},
            {"s": np.float32(0.1), "z": np.uint8(0), "z2": np.int8(0), "w": int8("4x3x3x3")},
        ),
        4 * 27 * 36,
    ),
    (
        "qlinear matmul",
        lambda: single(
            "QLinearMatMul",
            "a s z b s z2 s z",
            {"a": ("2x5x20", UINT8)},
            {"s": np.float32(0.1), "z": np.uint8(0), "z2": np.int8(0), "b": int8("20x7")},
        ),
        2 * 5 * 20 * 7,
    ),
    (
        "attention 23 in heads",
        lambda: single("Attention", "q k v", {"q": "2x4x10x16", "k": "2x4x12x16", "v": "2x4x12x8"}, opset=23, ir_version=10),
        2 * 4 * 10 * 12 * (16 + 8),
    ),
    (
        "attention 23 with heads as attributes",
        lambda: single(
            "Attention",
            "q k v",
            {"q": "2x10x64", "k": "2x12x32", "v": "2x12x32"},
            opset=23,
            ir_version=10,
            q_num_heads=4,
            kv_num_heads=2,
        ),
        2 * 4 * 10 * 12 * (16 + 16),
    ),
    (
        "attention of com.microsoft",
        lambda: single("Attention", "x w b", {"x": "2x10x32"}, {"w": "32x96", "b": "96"}, domain=MS, num_heads=4),
        2 * 10 * 32 * 96 + 2 * 10 * 10 * (32 + 32),
    ),
    (
        "multi-head attention",
        lambda: single("MultiHeadAttention", "q k v", {"q": "2x10x32", "k": "2x12x32", "v": "2x12x48"}, domain=MS, num_heads=4),
        2 * 10 * 12 * (32 + 48),
    ),
    (
        "multi-head attention, packed",
        lambda: single("MultiHeadAttention", "q", {"q": "2x10x4x3x8"}, domain=MS, num_heads=4),
        2 * 10 * 10 * (32 + 32),
    ),
    (
        "matmul of 4-bit weights",
        lambda: single(
            "MatMulNBits",
            "a b s",
            {"a": "3x64"},
            {"b": np.zeros((7, 2, 16), np.uint8), "s": np.ones(14, np.float32)},
            domain=MS,
            K=64,
            N=7,
            bits=4,
            block_size=32,
        ),
        3 * 64 * 7,
    ),
    (
        "matmul of 4-bit floats",
        lambda: single("MatMulBnb4", "a b s", {"a": "3x64"}, BNB4, domain=MS, K=64, N=7, block_size=32, quant_type=1),
        3 * 64 * 7,
    ),
    (
        "matmul of 4-bit floats, backwards",
        lambda: single("MatMulBnb4", "a b s", {"a": "3x7"}, BNB4, domain=MS, K=64, N=7, block_size=32, quant_type=0, transB=0),
        3 * 64 * 7,
    ),
    (
        "causal conv",
        lambda: single("CausalConvWithState", "x w", {"x": "2x8x10"}, {"w": "8x1x3"}, domain=MS, outputs="y s"),
        8 * 3 * 2 * 10,
    ),
    (
        "causal conv, channels last on two axes",
        lambda: single(
            "CausalConvWithState", "x w", {"x": "2x10x4x2"}, {"w": "8x1x3"}, domain=MS, outputs="y s", channels_last=1
        ),
        8 * 3 * 2 * 10,
    ),
    (
        "an embedding of 4-bit integers has none",
        lambda: single(
            "GatherBlockQuantized",
            "t i s",
            {"i": ("2x5", INT64)},
            {"t": np.zeros((20, 16), np.uint8), "s": "20x1"},
            domain=MS,
            block_size=32,
        ),
        0,
    ),
    (
        "deformable conv",
        lambda: single("DeformConv", "x w o", {"x": "1x4x8x8", "o": "1x18x6x6"}, {"w": "6x4x3x3"}, opset=19, ir_version=9),
        6 * 4 * 9 * 36,
    ),
    (
        "fused conv",
        lambda: single("FusedConv", "x w", {"x": "1x3x8x8"}, {"w": "4x3x3x3"}, domain=MS, activation="Relu"),
        4 * 27 * 36,
    ),
    (
        "fused matmul transposed",
        lambda: single("FusedMatMul", "a b", {"a": "2x20x5", "b": "2x20x7"}, domain=MS, transA=1),
        2 * 5 * 20 * 7,
    ),
    ("no multiply-accumulates", lambda: single("Relu", "x", {"x": "1x3x8x8"}), 0),
    ("pooling has none", lambda: single("AveragePool", "x", {"x": "1x3x8x8"}, kernel_shape=[2, 2]), 0),
]


@pytest.mark.parametrize(("build", "macs"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_macs(build: Callable[[], Model], macs: int) -> None:
    assert layers(build()).totals.macs == macs


def test_there_are_forty_closed_forms() -> None:
    assert len(CASES) >= 40


def test_the_larger_branch_of_an_if_counts_and_is_said() -> None:
    found = layers(if_model())
    assert found.totals.macs == 4 * 8 * 16 + 4 * 16 * 8
    assert [layer.node for layer in found] == ["y.else_branch/h", "y.else_branch/e"]
    assert {layer.within for layer in found} == {"y"}
    assert found.notes == ("y: only its larger branch, else_branch, is counted",)


def test_an_if_on_a_constant_counts_the_branch_that_runs() -> None:
    assert layers(if_model(condition_is_input=False)).totals.macs == 4 * 8 * 8


def test_a_loop_counts_its_constant_trips() -> None:
    found = layers(loop_model(np.array(5, np.int64)))
    assert found.totals.macs == 5 * 4 * 8 * 8
    assert found[0].weights[0].uses == 5 * 4


def test_a_loop_of_unknown_length_has_unknown_macs() -> None:
    found = layers(loop_model(None))
    assert found[0].macs is None
    assert found.totals.macs is None
    assert "not constant" in found.notes[0]


def test_a_scan_counts_the_scanned_length() -> None:
    body = helper.make_graph(
        [node("MatMul", "e w", "o")],
        "body",
        [helper.make_tensor_value_info("e", FLOAT, [4, 8])],
        [helper.make_tensor_value_info("o", FLOAT, [4, 6])],
    )
    scan = model([node("Scan", "x", "y", body=body, num_scan_inputs=1)], {"x": "9x4x8"}, ["y"], {"w": "8x6"})
    assert layers(scan).totals.macs == 9 * 4 * 8 * 6


def test_a_function_counts_at_every_call() -> None:
    body = [node("MatMul", "a b", "h", name="product"), node("Relu", "h", "o")]
    function = helper.make_function("local", "Dense", ["a", "b"], ["o"], body, [helper.make_opsetid("", 17)])
    calls = [node("Dense", "x w", "h", name="first", domain="local"), node("Dense", "h w", "y", name="second", domain="local")]
    built = model(calls, {"x": "4x8"}, ["y"], {"w": "8x8"}, domains={"local": 1}, functions=[function])
    found = layers(built)
    assert [(layer.node, layer.within) for layer in found] == [("first/product", "first"), ("second/product", "second")]
    assert found.totals.macs == 2 * 4 * 8 * 8
    assert found.totals.weights == 64


def test_an_unknown_op_has_no_macs_and_is_listed() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Mystery", "h", "y", name="magic", domain="acme")]
    found = layers(model(nodes, {"x": "4x8"}, ["y"], {"w": "8x8"}, domains={"acme": 1}))
    assert found.unknown_ops == ("acme:Mystery",)
    assert found.unknown[0].node == "magic"
    assert found.totals.macs == 4 * 8 * 8


def test_a_recorded_shape_helps_after_an_unknown_op() -> None:
    nodes = [node("Mystery", "x", "h", domain="acme"), node("MatMul", "h w", "y")]
    info = [helper.make_tensor_value_info("h", FLOAT, [4, 8])]
    with_shape = model(nodes, {"x": "4x8"}, ["y"], {"w": "8x8"}, domains={"acme": 1}, value_info=info)
    without = model(nodes, {"x": "4x8"}, ["y"], {"w": "8x8"}, domains={"acme": 1})
    assert layers(with_shape).totals.macs == 4 * 8 * 8
    assert layers(without)[0].macs is None


def test_constants_alone_are_not_inference_work() -> None:
    nodes = [node("MatMul", "a b", "w"), node("MatMul", "x w", "y")]
    found = layers(model(nodes, {"x": "4x8"}, ["y"], {"a": "8x3", "b": "3x8"}))
    assert found.totals.macs == 4 * 8 * 8
    assert "computes on constants alone" in found.notes[0]


@pytest.mark.parametrize(("name", "gmacs"), [("resnet50", 4.089), ("vgg19", 19.632), ("densenet121", 2.834)])
def test_known_networks(name: str, gmacs: float) -> None:

    from onnxsparse import load

    path = Path(onnx.__file__).parent / f"backend/test/data/light/light_{name}.onnx"
    macs = layers(load(path)).totals.macs
    assert macs is not None
    assert round(macs / 1e9, 3) == gmacs


def test_shapes_are_found_through_live_shape_arithmetic() -> None:
    """Shape → Gather → Mul → Concat → Reshape, as exporters flatten: 2×3×4×5 becomes 2×60."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("ReduceProd", "s", "all", keepdims=1),
        node("Div", "all n", "rest"),
        node("Concat", "n rest", "target", axis=0),
        node("Reshape", "x target", "flat"),
        node("MatMul", "flat w", "y"),
    ]
    weights = {"zero": np.array([0], np.int64), "w": "60x7"}
    assert layers(model(nodes, {"x": "2x3x4x5"}, ["y"], weights)).totals.macs == 2 * 60 * 7


def test_sizes_come_from_the_binding() -> None:
    built = proto([node("Conv", "x w", "y", pads=[1] * 4)], {"x": "Nx3xHxW"}, ["y"], {"w": "4x3x3x3"})
    assert layers(Model.from_proto(built))[0].macs is None
    bound = Model.from_proto(built).bind(["x:2,3,8,10"])
    assert layers(bound).totals.macs == 2 * 4 * 27 * 80


def test_onnxruntimes_own_ops_are_inferred_through_and_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that symbolic inference knows, and one that nobody does, where it would write its scraps to the working folder."""
    monkeypatch.chdir(tmp_path)
    nodes = [node("SkipLayerNormalization", "x x g", "h", domain=MS), node("MatMul", "h w", "y")]
    weights: dict[str, str | np.ndarray] = {"g": "8", "w": "8x6"}
    assert layers(model(nodes, {"x": "2x4x8"}, ["y"], weights, domains={MS: 1})).totals.macs == 2 * 4 * 8 * 6
    nodes = [node("Mystery", "x", "h", domain=MS), node("MatMul", "h w", "y")]
    assert layers(model(nodes, {"x": "2x4x8"}, ["y"], {"w": "8x6"}, domains={MS: 1})).totals.macs is None
    assert not list(tmp_path.iterdir())
