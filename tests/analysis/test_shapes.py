"""Shapes of every value: through ops that onnx does not define, through sequences, and round by round until nothing is new."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from onnxsparse import layers
from onnxsparse.analysis.layers import Survey
from onnxsparse.ir.model import Model
from tests.analysis.shape_cases import CASES, KEPT, MS, SCALE, ZERO, integers, ms
from tests.graphs import FLOAT, INT32, UINT8, model, node, proto, sizes


def run(built: Model) -> list[tuple[int, ...]]:
    """The outputs' shapes in onnxruntime, on inputs of ones."""
    feeds = {}
    for value in built.proto.graph.input:
        tensor = value.type.tensor_type
        feeds[value.name] = np.ones([d.dim_value for d in tensor.shape.dim], helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    session = ort.InferenceSession(built.to_bytes(), providers=["CPUExecutionProvider"])
    return [value.shape for value in session.run(None, feeds)]


@pytest.mark.parametrize(("build", "shapes"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_an_op_of_onnxruntime_has_the_shapes_that_it_has_at_run_time(build: Callable[[], Model], shapes: list[str]) -> None:
    built = build()
    made = [name for name in built.proto.graph.node[0].output if name]
    del built.proto.graph.output[1:]
    built.proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made[1:])
    found = Survey(built).shapes
    expected = [tuple(sizes(shape)) for shape in shapes]
    assert [found.get("", name) for name in made] == expected
    assert run(built) == expected


def macs(nodes: list[onnx.NodeProto], x: str, weights: Mapping[str, Any], **options: Any) -> int | None:
    return layers(model(nodes, {"x": x}, ["y"], weights, **options)).totals.macs


def test_a_normalisation_that_the_standard_domain_has_not_is_passed_without_the_domain_of_onnxruntime() -> None:
    nodes = [
        node("MatMul", "x w0", "a"),
        node("SimplifiedLayerNormalization", "a g", "r", axis=-1),
        node("MatMul", "r w1", "h"),
        node("MatMul", "h w2", "y"),
    ]
    assert macs(nodes, "1x6x16", {"w0": "16x16", "g": "16", "w1": "16x64", "w2": "64x8"}) == 6 * (256 + 1024 + 512)


def test_rounds_go_on_while_they_find_something() -> None:
    """A fused op, shape arithmetic on its result, a fused op on what that shaped: each needs what another one found."""
    nodes = [
        node("FusedMatMul", "x w0", "a", domain=MS, transA=1),  # 5x6
        node("Shape", "a", "s"),
        node("ReduceProd", "s", "n", keepdims=1),
        node("Concat", "one n", "t", axis=0),
        node("Reshape", "a t", "r"),  # 1x30
        node("FusedMatMul", "r w1", "b", domain=MS, transB=1),  # 1x7
        node("MatMul", "b w2", "y"),
    ]
    weights = {"w0": "4x6", "one": integers(1), "w1": "7x30", "w2": "7x3"}
    assert macs(nodes, "4x5", weights, domains={MS: 1}) == 4 * 5 * 6 + 30 * 7 + 7 * 3


def test_open_sizes_stay_open_and_ranks_known_through_fused_ops() -> None:
    nodes = [node("SkipLayerNormalization", "x x g", "a", domain=MS), node("FusedMatMul", "a w", "y", domain=MS)]
    built = proto(nodes, {"x": "Nx?x8"}, ["y"], {"g": "8", "w": "8x6"}, domains={MS: 1})
    found = Survey(Model.from_proto(built)).shapes
    assert found.get("", "y") == (1, None, 6)  # a batch is 1 where nobody says


def test_the_sizes_within_the_window_of_a_shape_are_known_beside_open_ones() -> None:
    nodes = [
        node("Shape", "x", "s", start=2),  # 8, 6
        node("ReduceSum", "s", "n", keepdims=0),
        node("Range", "zero n one", "r"),
        node("Cast", "r", "y", to=FLOAT),
    ]
    held = {"zero": np.array(0), "one": np.array(1)}
    assert Survey(model(nodes, {"x": "2x?x8x6"}, ["y"], held)).shapes.get("", "y") == (14,)


def test_what_a_file_records_is_no_evidence_against_what_follows_from_its_sizes() -> None:
    nodes = [node("Gelu", "x", "a", domain=MS), node("MatMul", "a w", "y")]
    info = [helper.make_tensor_value_info("a", FLOAT, [1, 9, 9])]
    assert macs(nodes, "2x4x8", {"w": "8x6"}, domains={MS: 1}, value_info=info) == 2 * 4 * 8 * 6


ATTENTION: list[tuple[str, Callable[[], Model], int]] = [
    ("with a past", CASES[0][1], 2 * 5 * 32 * 96 + 2 * 5 * 12 * (32 + 32)),
    (
        "quantized, with a past of 7",
        lambda: ms(
            "QAttention",
            "x w b s s _ z z p",
            {"x": ("2x5x32", UINT8), "p": "2x2x4x7x8"},
            {"w": np.ones((32, 96), np.uint8), "b": "96", "s": SCALE, "z": ZERO},
            num_heads=4,
        ),
        2 * 5 * 32 * 96 + 2 * 5 * 12 * (32 + 32),
    ),
    ("of many heads, with a past", CASES[2][1], 2 * 5 * 12 * (32 + 32)),
    ("over another sequence, in heads", CASES[3][1], 2 * 5 * 9 * (32 + 32)),
    ("of grouped heads, over the 9 keys that the value says", CASES[4][1], 2 * 1 * 9 * (32 + 32)),
    (
        "of one query over 7 + 1 keys",
        lambda: ms(
            "DecoderMaskedMultiHeadAttention",
            "q k w _ _ p v",
            {"q": "2x1x32", "k": "2x1x32", "w": "2x1x32", **KEPT},
            num_heads=4,
        ),
        2 * 1 * 8 * (32 + 32),
    ),
    (
        "of grouped heads, Q, K and V packed",
        lambda: ms(
            "GroupQueryAttention",
            "q _ _ _ _ n t",
            {"q": "2x5x64"},  # 4 + 2 + 2 heads of 8
            {"n": integers(4, 4, dtype=np.int32), "t": integers(5, dtype=np.int32)},
            num_heads=4,
            kv_num_heads=2,
        ),
        2 * 5 * 5 * (32 + 32),
    ),
]


@pytest.mark.parametrize(("build", "expected"), [case[1:] for case in ATTENTION], ids=[case[0] for case in ATTENTION])
def test_attention_counts_the_keys_of_the_past(build: Callable[[], Model], expected: int) -> None:
    assert layers(build()).totals.macs == expected


def test_keys_in_a_buffer_of_unknown_filling_are_unknown() -> None:
    inputs = {"q": "2x1x32", "k": "2x1x16", "p": "2x2x12x8", "n": ("2", INT32), "t": ("1", INT32)}
    built = ms("GroupQueryAttention", "q k k p p n t", inputs, num_heads=4, kv_num_heads=2)
    found = layers(built)
    assert found.totals.macs is None
    assert Survey(built).shapes.get("", "y") == (2, 1, 32)


def test_values_that_formulas_read_follow_from_shapes() -> None:
    """The number of keys is the length of a mask, as generators of text write it: 12 kept, of which 9 with the new one."""
    nodes = [
        node("Shape", "m", "s"),
        node("Gather", "s one", "l", axis=0),
        node("Cast", "l", "t", to=INT32),
        node("GroupQueryAttention", "q k k p p n t", "y", domain=MS, num_heads=4, kv_num_heads=2),
    ]
    inputs = {"q": "2x1x32", "k": "2x1x16", "p": "2x2x12x8", "m": "2x9", "n": ("2", INT32)}
    assert layers(model(nodes, inputs, ["y"], {"one": np.array(1)}, domains={MS: 1})).totals.macs == 2 * 9 * (32 + 32)


@pytest.mark.parametrize("imported", ["", "ai.onnx"])
@pytest.mark.parametrize("used", ["", "ai.onnx"])
def test_the_standard_domain_has_two_names(imported: str, used: str) -> None:
    """onnxruntime runs all four. The axes of a ReduceSum are an input from opset 13 on only."""
    nodes = [node("ReduceSum", "x axes", "m", keepdims=0), node("MatMul", "m w", "y")]
    built = proto(nodes, {"x": "1x8x4x4"}, ["y"], {"w": "8x4", "axes": integers(2, 3)})
    built.opset_import[0].domain = imported
    for each in built.graph.node:
        each.domain = used
    assert layers(Model.from_proto(built)).totals.macs == 8 * 4
