"""Channels that go into, round and out of the bodies of If, Loop and Scan."""

from typing import Any

import numpy as np
import onnx
import pytest

from onnxsparse import Model
from onnxsparse.channels.groups import solve
from tests.channels.cutting import HALF, between, halve, shapes, sound
from tests.graphs import INT64, model, node, value


def branch(*nodes: onnx.NodeProto, inputs: tuple[onnx.ValueInfoProto, ...] = (), outputs: str = "r") -> onnx.GraphProto:
    """A body; what it makes has 2x16x8x8 elements."""
    made = [value(name, "2x16x8x8") if name != "k" else value(name, "", onnx.TensorProto.BOOL) for name in outputs.split()]
    return onnx.helper.make_graph(list(nodes), "body", inputs, made)


@pytest.mark.parametrize("taken", [True, False])
def test_branches_are_cut_with_what_they_read_and_make(taken: bool) -> None:
    """Both read the same outer value; one has a convolution of its own, whose weight is the main graph's."""
    then = branch(node("Conv", "a w", "t"), node("Add", "t a", "r"))
    other = branch(node("Mul", "a s", "r"))
    op = node("If", "c", "b", then_branch=then, else_branch=other)
    built = between(op, weights={"c": np.array(taken), "w": "16x16x1x1", "s": "16x1x1"})
    smaller, proof = halve(built)
    assert shapes(smaller, "first", "w", "s", "last") == {**HALF, "w": (8, 8, 1, 1), "s": (8, 1, 1)}
    sound(smaller, proof)


def test_what_a_loop_carries_is_cut_all_the_way_round() -> None:
    count, going = value("i", "", INT64), value("g", "", onnx.TensorProto.BOOL)
    body = branch(
        node("Identity", "g", "k"),
        node("Conv", "state w", "t"),
        node("Add", "t a", "r"),
        inputs=(count, going, value("state", "2x16x8x8")),
        outputs="k r",
    )
    built = between(node("Loop", "n _ a", "b", body=body), weights={"n": np.int64(3), "w": "16x16x1x1"})
    built.proto.graph.output[0].CopyFrom(value("y", "2x4x8x8"))
    smaller, proof = halve(built)
    assert shapes(smaller, "first", "w", "last") == {**HALF, "w": (8, 8, 1, 1)}
    assert [d.dim_value for d in smaller.proto.graph.node[1].attribute[0].g.input[2].type.tensor_type.shape.dim] == [2, 8, 8, 8]
    sound(smaller, proof)


def undeclared(*nodes: onnx.NodeProto) -> Model:
    """A loop as torch.jit writes it: its body says nothing of shapes, nor does anything behind it."""
    inner = [value("i", "", INT64), value("c", "", onnx.TensorProto.BOOL), value("s", None)]
    body = branch(*nodes, node("Identity", "c", "k"), inputs=tuple(inner), outputs="k r")
    body.output[1].CopyFrom(value("r", None))
    weights = {"n": np.int64(3), "w": "16x16x1x1", "v": "16x16x1x1"}
    built = between(node("Loop", "n _ a", "l", body=body), node("Relu", "l", "m"), node("Conv", "m v", "b"), weights=weights)
    built.proto.graph.output[0].CopyFrom(value("y", "2x4x8x8"))
    return built


def test_what_a_loop_carries_keeps_its_shape() -> None:
    smaller, proof = halve(undeclared(node("Conv", "s w", "t"), node("Relu", "t", "r")))
    assert shapes(smaller, "first", "w", "v") == {"first": (8, 3, 1, 1), "w": (8, 8, 1, 1), "v": (8, 8, 1, 1)}
    sound(smaller, proof)


def test_what_grows_in_a_loop_has_no_shape() -> None:
    solution = solve(undeclared(node("Conv", "s w", "t"), node("Concat", "s t", "r", axis=2)))
    assert not solution.groups
    assert {f.node: f.reason for f in solution.frozen()}["a"].startswith("leaves a body with another number of axes")


def test_a_body_with_live_shapes_is_patched_inside() -> None:
    nodes = [node("Shape", "a", "s"), node("Relu", "a", "t"), node("Reshape", "t s", "r")]
    op = node("If", "c", "b", then_branch=branch(*nodes), else_branch=branch(node("Relu", "a", "r")))
    smaller, proof = halve(between(op, weights={"c": np.array(True)}))
    assert shapes(smaller, *HALF) == HALF
    sound(smaller, proof)


def test_what_goes_into_a_scan_stays() -> None:
    body = onnx.helper.make_graph(
        [node("Add", "s e", "r"), node("Identity", "r", "o")],
        "body",
        [value("s", "16x8x8"), value("e", "16x8x8")],
        [value("r", "16x8x8"), value("o", "16x8x8")],
    )
    nodes = [
        node("Conv", "x first", "a"),
        node("Scan", "zero a", "end b", body=body, num_scan_inputs=1),
        node("Conv", "b last", "y"),
    ]
    weights: dict[str, Any] = {"first": "16x3x1x1", "last": "4x16x1x1", "zero": np.zeros((16, 8, 8), np.float32)}
    built = model(nodes, {"x": "2x3x8x8"}, ["y"], weights)
    assert {f.node: f.reason for f in solve(built).frozen()}["a"] == "goes into the body of Scan (end)"
