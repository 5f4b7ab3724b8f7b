"""Pads that no convolution or pool can take in."""

from typing import Any

import numpy as np
import onnx
import pytest

from tests.folding.folded import folded
from tests.folding.padded import BEHIND, LONG, W, X, assert_folds, assert_stays
from tests.graphs import Array, model, node, value

CONV = node("Conv", "h w", "y")


@pytest.mark.parametrize(
    ("pad", "weights"),
    [
        (node("Pad", "x p", "h", mode="reflect"), {"p": LONG}),
        (node("Pad", "x p", "h", mode="edge"), {"p": LONG}),
        (node("Pad", "x p v", "h"), {"p": LONG, "v": np.float32(1)}),
        (node("Pad", "x p v", "h"), {"p": LONG, "v": np.float32(np.nan)}),
        (node("Pad", "x p", "h"), {"p": np.array([0, 1, 0, 0, 0, 0, 1, 1]), "w": "6x5x3x3"}),
        (node("Pad", "x p", "h"), {"p": np.array([1, 0, 0, 0, 0, 0, 1, 1])}),
        (node("Pad", "x p", "h"), {"p": np.array([0, 0, -1, 0, 0, 0, 1, 1])}),
    ],
    ids=["mirrored", "repeated", "ones", "NaN", "channels", "batch", "cropped"],
)
def test_other_pads_stay(pad: onnx.NodeProto, weights: dict[str, str | Array]) -> None:
    assert_stays(model([pad, CONV], X, ["y"], {**W, **weights}))


def test_an_attribute_with_another_value_stays() -> None:
    pad = node("Pad", "x", "h", pads=BEHIND, value=1.0)
    assert_stays(model([pad, CONV], X, ["y"], W, opset=10))


def test_sizes_and_values_that_come_in_stay() -> None:
    size, zero = ("8", onnx.TensorProto.INT64), ("", onnx.TensorProto.FLOAT)
    assert_stays(model([node("Pad", "x p", "h"), CONV], {**X, "p": size}, ["y"], W))
    assert_stays(model([node("Pad", "x p v", "h"), CONV], {**X, "v": zero}, ["y"], {"p": LONG, **W}))
    computed = [node("Neg", "n", "p"), node("Pad", "x p", "h"), CONV]
    built = model(computed, X, ["y"], {"n": -LONG, **W})
    assert folded(built, constants=False)[1].notes == ["nothing to fold"]
    assert_folds(built, "Conv")


QDQ = {"s": np.float32(0.1), "z": np.uint8(3)}


@pytest.mark.parametrize(
    ("nodes", "outputs", "weights"),
    [
        ([node("Conv", "h w", "y", auto_pad="SAME_UPPER")], ["y"], {}),
        ([node("Conv", "h w", "y", auto_pad="SAME_LOWER", strides=[2, 2])], ["y"], {}),
        ([node("Conv", "h w", "y", auto_pad="VALID", pads=[1, 1, 1, 1])], ["y"], {}),
        ([CONV], ["y", "h"], {}),
        ([CONV, node("Relu", "h", "z")], ["y", "z"], {}),
        ([CONV, node("Conv", "h w", "z", auto_pad="SAME_UPPER")], ["y", "z"], {}),
        ([node("Conv", "u h", "y")], ["y"], {"u": "2x4x16x16"}),
        ([node("Conv", "h h", "y")], ["y"], {}),
        ([node("ConvTranspose", "h w", "y")], ["y"], {"w": "4x6x3x3"}),
        ([node("MaxPool", "h", "y", kernel_shape=[3, 3])], ["y"], {}),
        ([node("LpPool", "h", "y", kernel_shape=[3, 3])], ["y"], {}),
        ([node("GlobalAveragePool", "h", "y")], ["y"], {}),
        ([node("Relu", "h", "r"), node("Conv", "r w", "y")], ["y"], {}),
        (
            [node("QuantizeLinear", "h s z", "q"), node("DequantizeLinear", "q s z", "d"), node("Conv", "d w", "y")],
            ["y"],
            QDQ,
        ),
    ],
    ids=[
        "SAME_UPPER",
        "SAME_LOWER",
        "VALID and pads at once",
        "a model output",
        "read elsewhere",
        "read by one that cannot",
        "read as a weight",
        "read as input and weight",
        "ConvTranspose",
        "MaxPool",
        "LpPool",
        "GlobalAveragePool",
        "something between",
        "quantizers between",
    ],
)
def test_a_pad_stays_before(nodes: list[onnx.NodeProto], outputs: list[str], weights: dict[str, str | Array]) -> None:
    assert_stays(model([node("Pad", "x p", "h"), *nodes], X, outputs, {"p": LONG, **W, **weights}))


def test_a_pad_that_a_body_reads_stays() -> None:
    bodies: dict[str, Any] = {}
    for name in ("then_branch", "else_branch"):
        bodies[name] = onnx.helper.make_graph([node("Conv", "h w", name)], name, [], [value(name, None)])
    nodes = [node("Pad", "x p", "h"), node("If", "c", "y", **bodies)]
    assert_stays(model(nodes, {**X, "c": ("", onnx.TensorProto.BOOL)}, ["y"], {"p": LONG, **W}))


def test_nothing_reads_it() -> None:
    assert_stays(model([node("Pad", "x p", "h"), node("Relu", "x", "y")], X, ["y"], {"p": LONG}))
