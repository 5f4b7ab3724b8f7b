"""What follows from constants, in the main graph and in bodies, under each of the exceptions."""

import numpy as np
import onnx
from onnx import helper

from onnxsparse.analysis.context import main_context
from tests.graphs import model, node, value


def loop(inside: list[onnx.NodeProto]) -> onnx.NodeProto:
    """A Loop of three trips whose body gives out `z`."""
    inputs = [onnx.ValueInfoProto(name="i"), onnx.ValueInfoProto(name="go")]
    body = helper.make_graph([node("Identity", "go", "on"), *inside], "body", inputs, [value("on", None), value("z", "2")])
    return helper.make_node("Loop", ["trips", "start"], ["looped"], body=body)


def constants(nodes: list[onnx.NodeProto], **exceptions: bool) -> set[str]:
    weights = {"w": "2", "trips": np.array(3), "start": np.array(True)}
    built = model(nodes, {"x": "2", "w2": "2"}, ["y"], {**weights, "w2": "2"})
    return set(main_context(built).follow_constants(**exceptions)) - {"w", "trips", "start"}


def test_a_value_follows_from_constants_unless_an_input_or_chance_reaches_it() -> None:
    nodes = [node("Neg", "w", "a"), node("RandomNormalLike", "w", "b"), node("Add", "a b", "c"), node("Add", "a x", "y")]
    assert constants(nodes) == {"a"}


def test_a_default_counts_only_where_asked() -> None:
    nodes = [node("Neg", "w2", "a"), node("Add", "a x", "y")]
    assert constants(nodes) == set()
    assert constants(nodes, defaults=True) == {"w2", "a"}


def test_sizes_count_only_where_asked() -> None:
    nodes = [node("Shape", "x", "s"), node("Size", "s", "n"), node("Add", "x w", "y")]
    assert constants(nodes) == set()
    assert constants(nodes, sizes=True) == {"s", "n"}


def test_a_body_counts_only_where_asked_and_only_if_it_captures_nothing() -> None:
    closed = [loop([node("Constant", "", "z", value_floats=[1.0, 2.0])]), node("Add", "x w", "y")]
    capturing = [loop([node("Neg", "w", "z")]), node("Add", "x w", "y")]
    assert constants(closed) == constants(capturing, bodies=True) == set()
    assert constants(closed, bodies=True) == {"looped"}


def test_a_body_sees_the_constants_of_the_graph_around_it() -> None:
    built = model(
        [loop([node("Neg", "w", "z")]), node("Add", "looped x", "y")], {"x": "2"}, ["y"], {"w": "2", "trips": np.array(3)}
    )
    (body,) = main_context(built).bodies[0].values()
    assert {"w", "z"} <= body.constants
    assert "i" not in body.constants
