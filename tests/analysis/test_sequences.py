"""Shapes through sequences of tensors, optional values and loops."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxsparse import layers
from onnxsparse.analysis.layers import Survey
from tests.graphs import BOOL, FLOAT, INT64, model, node

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
        {"sizes": np.array([2, 4, 2]), "one": np.array(1), "w": "2x5"},
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
        {"axes": np.array([0]), "one": np.array([1]), "w": "8x5"},
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
    assert layers(model(nodes, {"x": "4x8"}, ["y"], weights, opset=18)).totals.macs == expected


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


@pytest.mark.parametrize(("position", "rows"), [(-1, 12), (0, 4), (1, 12), (2, 8)])
def test_a_tensor_is_inserted_before_a_position(position: int, rows: int) -> None:
    """[4x8, 8x8] with a 12x8 before the last, before the first, before the second, at the end: what stands at index 1 then."""
    nodes = [
        node("Concat", "x x", "d", axis=0),  # 8x8
        node("Concat", "x x x", "e", axis=0),  # 12x8
        node("SequenceConstruct", "x d", "s"),
        node("SequenceInsert", "s e at", "t"),
        node("SequenceAt", "t one", "a"),
        node("MatMul", "a w", "y"),
    ]
    weights = {"at": np.array(position), "one": np.array(1), "w": "8x5"}
    assert layers(model(nodes, {"x": "4x8"}, ["y"], weights)).totals.macs == rows * 8 * 5


def test_a_sequence_of_unknown_length_leaves_shapes_open() -> None:
    """It splits along an axis whose size is not known."""
    nodes = [
        node("SplitToSequence", "x", "s", axis=1),
        node("ConcatFromSequence", "s", "c", axis=1),
        node("MatMul", "c w", "y"),
    ]
    built = model(nodes, {"x": "4x?"}, ["y"], {"w": "8x5"})
    assert layers(built).totals.macs is None
    assert layers(built.bind(["4x8"])).totals.macs == 4 * 8 * 5


def test_an_optional_without_an_element_leaves_the_rest_known() -> None:
    nodes = [
        node("Optional", "", "o", type=helper.make_tensor_type_proto(FLOAT, [2, 3])),
        node("OptionalHasElement", "o", "has"),
        node("Cast", "has", "f", to=FLOAT),
        node("Add", "x f", "s"),
        node("MatMul", "s w", "y"),
    ]
    assert layers(model(nodes, {"x": "4x8"}, ["y"], {"w": "8x5"}, opset=18)).totals.macs == 4 * 8 * 5


def test_a_loop_stacks_what_each_round_gives_out() -> None:
    body = helper.make_graph(
        [node("Identity", "go", "on"), node("Relu", "h", "k"), node("FusedMatMul", "k w", "o", domain="com.microsoft")],
        "body",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", INT64, []), ("go", BOOL, []), ("h", FLOAT, None))],
        [helper.make_tensor_value_info(n, t, s) for n, t, s in (("on", BOOL, []), ("k", FLOAT, None), ("o", FLOAT, None))],
    )
    nodes = [node("Loop", "n yes x", "last all", body=body), node("MatMul", "all v", "y")]
    weights = {"n": np.array(3), "yes": np.array(True), "w": "8x5", "v": "5x2"}
    built = model(nodes, {"x": "4x8"}, ["y"], weights, domains={"com.microsoft": 1})
    assert Survey(built).shapes.get("", "all") == (3, 4, 5)
    assert layers(built).totals.macs == 3 * 4 * 8 * 5 + 3 * 4 * 5 * 2
