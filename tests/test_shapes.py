"""Shapes of every value: through ops that onnx does not define, through sequences, and round by round until nothing is new."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from onnxsparse import layers
from onnxsparse.facts import Survey
from onnxsparse.model import Model
from tests.graphs import FLOAT, INT32, INT64, UINT8, model, node, proto, single, sizes

MS = "com.microsoft"


def ms(op: str, order: str, inputs: Mapping[str, Any], weights: Mapping[str, Any] | None = None, **options: Any) -> Model:
    return single(op, order, inputs, weights, domain=MS, **options)


def integers(*values: int, dtype: type[np.generic] = np.int64) -> np.ndarray:
    return np.array(values, dtype)


ZERO, SCALE, BYTES = np.uint8(0), np.float32(0.1), np.ones((4, 3, 3, 3), np.uint8)

KEPT = {"p": "2x4x7x8", "v": "2x4x7x8"}
"""A past of 7 keys and values: batch 2, 4 heads of 8."""

CASES: list[tuple[str, Callable[[], Model], list[str]]] = [
    (
        "attention with a past of 7",
        lambda: ms(
            "Attention", "x w b _ p", {"x": "2x5x32", "p": "2x2x4x7x8"}, {"w": "32x96", "b": "96"}, num_heads=4, outputs="y q"
        ),
        ["2x5x32", "2x2x4x12x8"],
    ),
    (
        "quantized attention",
        lambda: ms(
            "QAttention",
            "x w b s s _ z z",
            {"x": ("2x5x32", UINT8)},
            {"w": np.ones((32, 96), np.uint8), "b": "96", "s": SCALE, "z": ZERO},
            num_heads=4,
        ),
        ["2x5x32"],
    ),
    (
        "multi-head attention with a past",
        lambda: ms(
            "MultiHeadAttention",
            "q k w _ _ _ p v",
            {"q": "2x5x32", "k": "2x5x32", "w": "2x5x32", **KEPT},
            num_heads=4,
            outputs="y a b",
        ),
        ["2x5x32", "2x4x12x8", "2x4x12x8"],
    ),
    (
        "multi-head attention over another sequence, in heads",
        lambda: ms("MultiHeadAttention", "q k v", {"q": "2x5x32", "k": "2x4x9x8", "v": "2x4x9x8"}, num_heads=4, outputs="y"),
        ["2x5x32"],
    ),
    (
        "grouped-query attention: the values say that 9 of 12 kept rows are in use",
        lambda: ms(
            "GroupQueryAttention",
            "q k w p v n t",
            {"q": "2x1x32", "k": "2x1x16", "w": "2x1x16", "p": "2x2x12x8", "v": "2x2x12x8"},
            {"n": integers(8, 8, dtype=np.int32), "t": integers(9, dtype=np.int32)},
            num_heads=4,
            kv_num_heads=2,
            outputs="y a b",
        ),
        ["2x1x32", "2x2x12x8", "2x2x12x8"],
    ),
    (
        "matrices transposed over the batch",
        lambda: ms("FusedMatMul", "a b", {"a": "6x3x4x5", "b": "3x4x5x7"}, transBatchA=1),
        ["3x4x6x7"],
    ),
    (
        "transposed over the batch, and then",
        lambda: ms("FusedMatMul", "a b", {"a": "5x3x6", "b": "7x3x5"}, transBatchA=1, transA=1, transBatchB=1, transB=1),
        ["3x6x7"],
    ),
    (
        "a convolution with what is added to it",
        lambda: ms("FusedConv", "x w _ z", {"x": "1x3x6x6", "z": "1x4x4x4"}, {"w": "4x3x3x3"}, activation="Relu"),
        ["1x4x4x4"],
    ),
    (
        "a quantized convolution, channels last",
        lambda: ms(
            "QLinearConv",
            "x s z w s z s z",
            {"x": ("1x8x6x3", UINT8)},
            {"s": SCALE, "z": ZERO, "w": BYTES},
            channels_last=1,
            strides=[2, 1],
            pads=[1, 0, 1, 0],
        ),
        ["1x4x4x4"],
    ),
    (
        "a quantized matrix product, as a float",
        lambda: ms(
            "MatMulIntegerToFloat",
            "a b s s",
            {"a": ("2x5x3", UINT8)},
            {"b": np.ones((3, 4), np.uint8), "s": SCALE},
        ),
        ["2x5x4"],
    ),
    (
        "embeddings",
        lambda: ms(
            "EmbedLayerNormalization",
            "i s w p t g b m",
            {"i": ("2x5", INT32), "s": ("2x5", INT32), "m": ("2x5", INT32)},
            {"w": "10x32", "p": "9x32", "t": "2x32", "g": "32", "b": "32"},
            outputs="y n e",
        ),
        ["2x5x32", "2", "2x5x32"],
    ),
    (
        "a sum that is normalised",
        lambda: ms("SkipLayerNormalization", "x s g", {"x": "2x5x8", "s": "5x8"}, {"g": "8"}, outputs="y _ _ n"),
        ["2x5x8", "2x5x8"],
    ),
    ("a Gelu with a bias", lambda: ms("BiasGelu", "x b", {"x": "2x5x8"}, {"b": "8"}), ["2x5x8"]),
    (
        "rotary embeddings",
        lambda: ms("RotaryEmbedding", "x i c s", {"x": "2x5x32", "i": ("2x5", INT64)}, {"c": "20x4", "s": "20x4"}, num_heads=4),
        ["2x5x32"],
    ),
    (
        "padding by values",
        lambda: ms("Pad", "x p", {"x": "2x5"}, {"p": integers(0, 1, 2, -1)}),
        ["4x5"],
    ),
    ("a new axis", lambda: ms("ExpandDims", "x a", {"x": "2x5"}, {"a": np.array(-1, np.int32)}), ["2x5x1"]),
    (
        "a pool of integers, channels last",
        lambda: ms(
            "QLinearAveragePool",
            "x s z s z",
            {"x": ("1x7x9x3", UINT8)},
            {"s": SCALE, "z": ZERO},
            kernel_shape=[2, 2],
            strides=[2, 2],
            channels_last=1,
        ),
        ["1x3x4x3"],
    ),
]


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


def test_what_a_file_records_is_no_evidence_against_what_follows_from_its_sizes() -> None:
    nodes = [node("Gelu", "x", "a", domain=MS), node("MatMul", "a w", "y")]
    info = [helper.make_tensor_value_info("a", FLOAT, [1, 9, 9])]
    assert macs(nodes, "2x4x8", {"w": "8x6"}, domains={MS: 1}, value_info=info) == 2 * 4 * 8 * 6


SEQUENCES: list[tuple[str, list[onnx.NodeProto], Mapping[str, Any], int]] = [
    (
        "inserted and joined",
        [
            node("SequenceEmpty", "", "e"),
            node("SequenceInsert", "e x", "s"),
            node("SequenceInsert", "s x zero", "t"),
            node("ConcatFromSequence", "t", "c", axis=1),  # 4x16
            node("MatMul", "c w", "y"),
        ],
        {"zero": np.array(0), "w": "16x3"},
        4 * 16 * 3,
    ),
    (
        "split evenly, the last part smaller",
        [
            node("SplitToSequence", "x three", "s", axis=1),  # 4x3, 4x3, 4x2
            node("SequenceAt", "s last", "a"),
            node("MatMul", "a w", "y"),
        ],
        {"three": np.array(3), "last": np.array(-1), "w": "2x5"},
        4 * 2 * 5,
    ),
    (
        "split by sizes, one erased, stacked",
        [
            node("SplitToSequence", "x sizes", "s", axis=1),  # 4x2, 4x4, 4x2
            node("SequenceErase", "s one", "t"),
            node("ConcatFromSequence", "t", "c", axis=0, new_axis=1),  # 2x4x2
            node("MatMul", "c w", "y"),
        ],
        {"sizes": integers(2, 4, 2), "one": np.array(1), "w": "2x5"},
        2 * 4 * 2 * 5,
    ),
    (
        "split into slices, whichever is taken",
        [
            node("SplitToSequence", "x", "s", axis=0, keepdims=0),  # four of 8
            node("ArgMax", "x", "m", axis=0, keepdims=0),
            node("Gather", "m zero", "i"),
            node("SequenceAt", "s i", "a"),
            node("MatMul", "a w", "y"),
        ],
        {"zero": np.array(0), "w": "8x5"},
        8 * 5,
    ),
    (
        "counted",
        [
            node("SequenceConstruct", "x x x", "s"),
            node("SequenceLength", "s", "n"),
            node("Unsqueeze", "n axes", "r"),
            node("Concat", "r one", "repeats", axis=0),
            node("Tile", "x repeats", "t"),  # 12x8
            node("MatMul", "t w", "y"),
        ],
        {"axes": integers(0), "one": integers(1), "w": "8x5"},
        12 * 8 * 5,
    ),
    (
        "through an optional value and an Identity",
        [
            node("SequenceConstruct", "x x", "s"),
            node("Identity", "s", "i"),
            node("Optional", "i", "o"),
            node("OptionalGetElement", "o", "g"),
            node("ConcatFromSequence", "g", "c", axis=0),  # 8x8
            node("MatMul", "c w", "y"),
        ],
        {"w": "8x5"},
        8 * 8 * 5,
    ),
]


@pytest.mark.parametrize(("nodes", "weights", "expected"), [case[1:] for case in SEQUENCES], ids=[case[0] for case in SEQUENCES])
def test_shapes_go_through_sequences(nodes: list[onnx.NodeProto], weights: Mapping[str, Any], expected: int) -> None:
    assert macs(nodes, "4x8", weights, opset=18) == expected


def test_an_if_passes_on_a_sequence_that_both_branches_make() -> None:
    branches = [
        helper.make_graph(
            [node("SequenceConstruct", order, name)], name, [], [helper.make_tensor_sequence_value_info(name, FLOAT, None)]
        )
        for order, name in (("x x", "s"), ("x x", "t"))
    ]
    nodes = [
        node("If", "c", "s2", then_branch=branches[0], else_branch=branches[1]),
        node("ConcatFromSequence", "s2", "j", axis=1),
        node("MatMul", "j w", "y"),
    ]
    built = model(nodes, {"x": "4x8", "c": ("", onnx.TensorProto.BOOL)}, ["y"], {"w": "16x3"})
    assert layers(built).totals.macs == 4 * 16 * 3
