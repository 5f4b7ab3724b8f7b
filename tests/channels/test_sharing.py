"""Tensors that several nodes share, and sizes that the graph computes from the channels."""

from typing import Any

import numpy as np
import pytest

from onnxsparse.runtime.session import runner
from tests.channels.cutting import halve, ints, shapes, sound
from tests.graphs import model, node, value, weight


def test_what_is_added_to_a_fused_convolution_is_cut_with_it() -> None:
    """The third op's residual is the first one's result: both keep the same channels."""
    ms = "com.microsoft"
    nodes = [
        node("FusedConv", "x w0 b0", "a", domain=ms, activation="Relu", pads=[1] * 4),
        node("FusedConv", "a w1 b1", "c", domain=ms, activation="Relu", pads=[1] * 4),
        node("FusedConv", "c w2 _ a", "d", domain=ms, activation="Relu", pads=[1] * 4),
        node("Conv", "d w3", "y"),
    ]
    weights = {"w0": "8x3x3x3", "b0": "8", "w1": "6x8x3x3", "b1": "6", "w2": "8x6x3x3", "w3": "5x8x1x1"}
    built = model(nodes, {"x": "1x3x6x6"}, ["y"], weights, domains={ms: 1})
    built.proto.graph.output[0].CopyFrom(value("y", "1x5x6x6"))
    smaller, proof = halve(built)
    assert shapes(smaller, "w0", "w1", "w2", "w3") == {
        "w0": (4, 3, 3, 3),
        "w1": (3, 4, 3, 3),
        "w2": (4, 3, 3, 3),
        "w3": (5, 4, 1, 1),
    }
    kept = [row for row in range(8) if any(np.array_equal(built.weights["w0"][row], new) for new in smaller.weights["w0"])]
    assert np.array_equal(smaller.weights["b0"], built.weights["b0"][kept])
    assert np.array_equal(smaller.weights["w3"], built.weights["w3"][:, kept])
    sound(smaller, proof)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_live_shape_arithmetic_is_told_the_old_sizes(opset: int) -> None:
    """Flatten written as Shape → Gather → Concat → Reshape, and a target from the channels' own size; at two batch sizes."""
    nodes = [
        node("Conv", "x w", "a"),
        node("Shape", "a", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Gather", "s one", "c", axis=0),
        node("Concat", "n c minus", "t", axis=0),
        node("Reshape", "a t", "b"),
        node("Transpose", "b", "d", perm=[0, 2, 1]),
        node("MatMul", "d v", "y"),
    ]
    weights: dict[str, Any] = {"w": "8x3x1x1", "v": "8x5", "zero": ints([0]), "one": ints([1]), "minus": ints([-1])}
    built = model(nodes, {"x": "Nx3x4x4"}, ["y"], weights, opset=opset)
    built.proto.graph.output[0].CopyFrom(value("y", "Nx16x5"))
    smaller, proof = halve(built)
    assert shapes(smaller, "w", "v") == {"w": (4, 3, 1, 1), "v": (4, 5)}
    sound(smaller, proof)
    for batch in (1, 3):
        made = runner(smaller).run({"x": weight(f"{batch}x3x4x4")})
        assert made["y"].shape == (batch, 16, 5)


SHARED_GAIN = {"w0": "8x3x1x1", "w1": "8x8x1x1", "gain": "8x1x1", "last": "4x8x1x1"}


def test_a_shared_tensor_is_cut_once_where_its_users_agree() -> None:
    """The sum of a and c couples the channels of both products with the gain."""
    nodes = [
        node("Conv", "x w0", "a"),
        node("Conv", "a w1", "b"),
        node("Mul", "b gain", "c"),
        node("Add", "a c", "d"),
        node("Mul", "d gain", "e"),
        node("Conv", "e last", "y"),
    ]
    smaller, proof = halve(model(nodes, {"x": "1x3x6x6"}, ["y"], SHARED_GAIN))
    assert shapes(smaller, "gain") == {"gain": (4, 1, 1)}
    assert [t.name for t in smaller.proto.graph.initializer] == ["w0", "w1", "gain", "last"]
    sound(smaller, proof)


def test_a_shared_tensor_is_copied_where_its_users_keep_other_channels() -> None:
    nodes = [
        node("Conv", "x w0", "a"),
        node("Mul", "a gain", "b"),
        node("Conv", "b w1", "c"),
        node("Mul", "c gain", "d"),
        node("Conv", "d last", "y"),
    ]
    smaller, proof = halve(model(nodes, {"x": "1x3x6x6"}, ["y"], SHARED_GAIN), seed=1)
    copies = {"gain_cut", "gain_cut_1"}
    assert {name for n in smaller.proto.graph.node if n.op_type == "Mul" for name in n.input} == {"a", "c", *copies}
    unused = {"gain"}  # the uncut tensor may stay in the file
    assert {t.name for t in smaller.proto.graph.initializer} - unused == {"w0", "w1", "last", *copies}
    sound(smaller, proof)
