"""Axes that a norm or a softmax reduces over: they stay, or are cut with `cut_norms`."""

import onnx
import pytest

from onnxsparse import Model
from onnxsparse.channels.groups import solve
from tests.channels.cutting import HALF, between, halve, ints, shapes, sound
from tests.graphs import model, node, value


def norms() -> Model:
    nodes = [
        node("MatMul", "x w", "a"),
        node("LayerNormalization", "a s b", "n"),
        node("ReduceMean", "n", "m", axes=[-1]),
        node("Sub", "n m", "d"),
        node("Softmax", "d", "p", axis=-1),
        node("MatMul", "p v", "y"),
    ]
    return model(nodes, {"x": "2x5x8"}, ["y"], {"w": "8x12", "s": "12", "b": "12", "v": "12x4"})


def test_axes_that_a_norm_looks_over_stay_unless_asked() -> None:
    solution = solve(norms())
    assert not solution.groups
    assert "LayerNormalization reduces over it (n)" in {f.reason for f in solution.frozen()}


def test_norms_over_what_is_left() -> None:
    smaller, proof = halve(norms(), cut_norms=True)
    assert shapes(smaller, "w", "s", "b", "v") == {"w": (8, 6), "s": (6,), "b": (6,), "v": (6, 4)}
    sound(smaller, proof)


def test_moments_of_positions_leave_channels_alone() -> None:
    smaller, proof = halve(between(node("MeanVarianceNormalization", "a", "b")))
    assert shapes(smaller, *HALF) == HALF
    assert proof.holds  # onnx's full check trips over its own function body of the op
    assert proof.sensitive


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_of_either_kind_over_what_is_left(op: str, opset: int) -> None:
    """Before version 13 it is over channels and positions together."""
    smaller, proof = halve(between(node(op, "a", "b", axis=1), opset=opset), cut_norms=True)
    assert shapes(smaller, *HALF) == HALF
    sound(smaller, proof)


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (node("LRN", "a", "b", size=3), "LRN reduces over it"),
        (node("Mystery", "a", "b", domain="acme"), "no rule for Mystery"),
        (node("TopK", "a k", "b i", axis=1), "TopK searches along it"),
        (node("MaxPool", "a", "b i", kernel_shape=[2, 2]), "is counted in the indices of MaxPool"),
        (node("Split", "a", " ".join(f"b{i}" for i in range(16)), axis=1), "becomes an axis of size 1"),
        (node("MeanVarianceNormalization", "a", "b", axes=[1]), "MeanVarianceNormalization reduces over it"),
    ],
)
def test_what_cannot_be_cut_says_why(op: onnx.NodeProto, reason: str) -> None:
    built = between(op, weights={"k": ints([16])}, domains={"acme": 1})
    frozen = {f.node: f.reason for f in solve(built).frozen()}
    assert frozen["a"].startswith(reason)
    assert frozen.get("y", "is an output of the model (y)") == "is an output of the model (y)"


@pytest.mark.parametrize(("op", "parameters"), [("SkipLayerNormalization", "g b b"), ("SkipSimplifiedLayerNormalization", "g b")])
def test_onnxruntimes_fused_norms_over_what_is_left(op: str, parameters: str) -> None:
    """Both what is normalised and the sum before it are read; the last layer is a FusedMatMul."""
    ms = "com.microsoft"
    nodes = [
        node("MatMul", "x w", "a"),
        node("MatMul", "a u", "c"),
        node(op, f"a c {parameters}", "n _ _ t", domain=ms, epsilon=1e-5),
        node(op, f"t n {parameters}", "m", domain=ms),
        node("FusedMatMul", "m v", "y", domain=ms, transB=1, alpha=0.5),
    ]
    held = {"w": "8x12", "u": "12x12", "g": "12", "b": "12", "v": "4x12"}
    built = model(nodes, {"x": "2x5x8"}, ["y"], held, domains={ms: 1})
    built.proto.graph.output[0].CopyFrom(value("y", "2x5x4"))
    assert not solve(built).groups
    smaller, proof = halve(built, cut_norms=True)
    assert shapes(smaller, "w", "u", "g", "b", "v") == {"w": (8, 6), "u": (6, 6), "g": (6,), "b": (6,), "v": (4, 6)}
    sound(smaller, proof)
