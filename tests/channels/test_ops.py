"""A table of what each op couples: the axes that are cut together."""

from collections.abc import Mapping

import numpy as np
import onnx
import pytest

from onnxsparse import Model
from tests.channels.cutting import HALF, between, halve, ints, shapes, sound
from tests.graphs import FLOAT, model, node, value

ROWS: dict[str, tuple[Model, Mapping[str, tuple[int, ...]]]] = {
    "Relu": (between(node("Relu", "a", "b")), HALF),
    "BatchNormalization": (
        between(node("BatchNormalization", "a s s s v", "b"), weights={"s": "16", "v": np.ones(16, np.float32)}),
        {**HALF, "s": (8,), "v": (8,)},
    ),
    "InstanceNormalization": (between(node("InstanceNormalization", "a s s", "b"), weights={"s": "16"}), {**HALF, "s": (8,)}),
    "PRelu": (between(node("PRelu", "a s", "b"), weights={"s": "16x1x1"}), {**HALF, "s": (8, 1, 1)}),
    "Add a bias": (between(node("Add", "a s", "b"), weights={"s": "1x16x1x1"}), {**HALF, "s": (1, 8, 1, 1)}),
    "Mul by a map over positions": (between(node("Mul", "a s", "b"), weights={"s": "8x8"}), {**HALF, "s": (8, 8)}),
    "Where": (
        between(node("Where", "c a s", "b"), weights={"c": np.ones((1, 16, 1, 1), np.bool_), "s": "16x1x1"}),
        {**HALF, "c": (1, 8, 1, 1), "s": (8, 1, 1)},
    ),
    "Clip": (between(node("Clip", "a _ s", "b"), weights={"s": np.float32(0.5)}), HALF),
    "a residual": (
        between(node("Conv", "a w", "c"), node("Add", "a c", "b"), weights={"w": "16x16x1x1"}),
        {**HALF, "w": (8, 8, 1, 1)},
    ),
    "depthwise": (
        between(node("Conv", "a w", "b", group=16, pads=[1] * 4), weights={"w": "16x1x3x3"}),
        {**HALF, "w": (8, 1, 3, 3)},
    ),
    "a depthwise multiplier": (
        between(node("Conv", "a w", "c", group=16), node("Conv", "c v", "b"), weights={"w": "32x1x1x1", "v": "16x32x1x1"}),
        {"w": (16, 1, 1, 1)},
    ),
    "grouped": (
        between(node("Conv", "a w", "c", group=4), node("Conv", "c v", "b"), weights={"w": "16x4x1x1", "v": "16x16x1x1"}),
        {"first": (8, 3, 1, 1), "v": (8, 8, 1, 1)},
    ),
    "ConvTranspose": (
        between(node("ConvTranspose", "a w s", "b", kernel_shape=[1, 1]), weights={"w": "16x16x1x1", "s": "16"}),
        {**HALF, "w": (8, 8, 1, 1), "s": (8,)},
    ),
    "a grouped ConvTranspose": (
        between(node("ConvTranspose", "a w", "b", group=4, kernel_shape=[1, 1]), weights={"w": "16x4x1x1"}),
        {"first": (8, 3, 1, 1), "last": (4, 8, 1, 1)},
    ),
    "Concat": (
        between(node("Conv", "x w", "c"), node("Concat", "a c", "b", axis=1), weights={"w": "6x3x1x1", "last": "4x22x1x1"}),
        {"first": (8, 3, 1, 1), "w": (3, 3, 1, 1), "last": (4, 11, 1, 1)},
    ),
    "Split": (
        between(node("Split", "a", "c d", axis=1), node("Mul", "c d", "b"), weights={"last": "4x8x1x1"}),
        {"first": (8, 3, 1, 1), "last": (4, 4, 1, 1)},
    ),
    "Split with sizes": (
        between(node("Split", "a z", "c d", axis=1), node("Concat", "d c", "b", axis=1), weights={"z": ints([4, 12])}),
        {**HALF, "z": (2,)},
    ),
    "Split before version 13": (
        between(node("Split", "a", "c d", axis=1, split=[4, 12]), node("Concat", "d c", "b", axis=1), opset=11),
        HALF,
    ),
    "Slice": (
        between(
            node("Slice", "a s e z", "b"),
            weights={"s": ints([2]), "e": ints([14]), "z": ints([1]), "last": "4x12x1x1"},
        ),
        {"last": (4, 6, 1, 1)},
    ),
    "Slice backwards": (
        between(
            node("Slice", "a s e z t", "b"),
            weights={"s": ints([-1]), "e": ints([-(2**63) + 1]), "z": ints([1]), "t": ints([-1])},
        ),
        HALF,
    ),
    "Slice of every other": (
        between(
            node("Slice", "a s e z t", "b"),
            weights={"s": ints([0]), "e": ints([16]), "z": ints([1]), "t": ints([2]), "last": "4x8x1x1"},
        ),
        {"first": (8, 3, 1, 1), "last": (4, 4, 1, 1)},
    ),
    "Gather by constants": (
        between(node("Gather", "a i", "b", axis=1), weights={"i": np.random.default_rng(3).permutation(16)}),
        {**HALF, "i": (8,)},
    ),
    "Pad with channels": (
        between(node("Pad", "a p", "b"), weights={"p": ints([0, 2, 0, 0, 0, 4, 0, 0]), "last": "4x22x1x1"}),
        {"first": (8, 3, 1, 1)},
    ),
    "Pad positions": (between(node("Pad", "a p", "b"), weights={"p": ints([0, 0, 1, 1, 0, 0, 1, 1])}), HALF),
    "Transpose": (
        between(
            node("Transpose", "a", "c", perm=[0, 2, 3, 1]),
            node("MatMul", "c w", "d"),
            node("Transpose", "d", "b", perm=[0, 3, 1, 2]),
            weights={"w": "16x16"},
        ),
        {**HALF, "w": (8, 8)},
    ),
    "a channel shuffle": (
        between(
            node("Reshape", "a s", "c"),
            node("Transpose", "c", "d", perm=[0, 2, 1, 3, 4]),
            node("Reshape", "d t", "b"),
            weights={"s": ints([2, 4, 4, 8, 8]), "t": ints([2, 16, 8, 8])},
        ),
        HALF,
    ),
    "Flatten": (
        model(
            [node("Conv", "x first", "a"), node("Flatten", "a", "b"), node("Gemm", "b last s", "y", transB=1)],
            {"x": "2x3x4x4"},
            ["y"],
            {"first": "8x3x1x1", "last": "5x128", "s": "5"},
        ),
        {"first": (4, 3, 1, 1), "last": (5, 64)},
    ),
    "squeeze and excitation": (
        between(
            node("GlobalAveragePool", "a", "p"),
            node("Conv", "p w", "q"),
            node("Conv", "q v", "r"),
            node("Mul", "a r", "b"),
            weights={"w": "4x16x1x1", "v": "16x4x1x1"},
        ),
        {**HALF, "w": (2, 8, 1, 1), "v": (8, 2, 1, 1)},
    ),
    "MaxPool": (between(node("MaxPool", "a", "b", kernel_shape=[2, 2])), HALF),
    "RoiAlign": (
        between(
            node("RoiAlign", "a r i", "b", output_height=3, output_width=3),
            weights={"r": np.array([[0, 0, 4, 4], [1, 1, 6, 6]], np.float32), "i": ints([0, 1])},
        ),
        HALF,
    ),
    "GridSample": (between(node("GridSample", "a g", "b"), weights={"g": "2x4x4x2"}), HALF),
    "Trilu of positions": (between(node("Trilu", "a", "b")), HALF),
    "Resize by scales": (between(node("Resize", "a _ s", "b"), weights={"s": np.array([1, 1, 2, 2], np.float32)}), HALF),
    "Resize by sizes": (between(node("Resize", "a _ _ s", "b"), weights={"s": ints([2, 16, 4, 4])}), HALF),
    "Expand": (
        between(node("GlobalAveragePool", "a", "p"), node("Expand", "p s", "b"), weights={"s": ints([2, 16, 3, 3])}),
        {**HALF, "s": (4,)},
    ),
    "Tile": (between(node("Tile", "a t", "b"), weights={"t": ints([1, 2, 1, 1]), "last": "4x32x1x1"}), {"last": (4, 16, 1, 1)}),
    "DepthToSpace": (
        between(node("DepthToSpace", "a", "b", blocksize=2), weights={"last": "4x4x1x1"}),
        {"first": (8, 3, 1, 1), "last": (4, 2, 1, 1)},
    ),
    "DepthToSpace CRD": (
        between(node("DepthToSpace", "a", "b", blocksize=2, mode="CRD"), weights={"last": "4x4x1x1"}),
        {"first": (8, 3, 1, 1), "last": (4, 2, 1, 1)},
    ),
    "SpaceToDepth": (between(node("SpaceToDepth", "a", "b", blocksize=2), weights={"last": "4x64x1x1"}), {"last": (4, 32, 1, 1)}),
    "ReduceSum over channels": (
        between(node("ReduceSum", "a z", "b"), weights={"z": ints([1]), "last": "4x1x1x1"}),
        {"first": (8, 3, 1, 1)},
    ),
    "ReduceMean over positions": (between(node("ReduceMean", "a", "b", axes=[2, 3])), HALF),
    "Einsum": (
        between(node("Einsum", "a w", "b", equation="nchw,dc->ndhw"), weights={"w": "16x16"}),
        {**HALF, "w": (8, 8)},
    ),
    "ScatterND along the batch": (
        between(
            node("ScatterND", "a i u", "b"),
            weights={"i": ints([[1]]), "u": "1x16x8x8"},
        ),
        {**HALF, "u": (1, 8, 8, 8)},
    ),
    "Dropout": (between(node("Dropout", "a", "b")), HALF),
    "Cast": (between(node("Cast", "a", "c", to=onnx.TensorProto.DOUBLE), node("Cast", "c", "b", to=FLOAT)), HALF),
    "GroupNormalization beside another": (
        between(
            node("GroupNormalization", "a s s", "c", num_groups=4),
            node("Conv", "c w", "d"),
            node("GroupNormalization", "d s s", "e", num_groups=4),
            node("Add", "e c", "b"),
            weights={"w": "16x16x1x1", "s": "16"},
            opset=21,
            ir_version=10,
        ),
        {**HALF, "w": (8, 8, 1, 1), "s": (8,)},
    ),
    "GroupNormalization by whole groups": (
        between(
            node("GroupNormalization", "a s s", "b", num_groups=4),
            weights={"s": "16"},
            opset=21,
            ir_version=10,
        ),
        {**HALF, "s": (8,)},
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_op_couples_what_it_must(name: str) -> None:
    """Every axis that has to go with another went, and the outputs are those of the original without the channels."""
    built, expected = ROWS[name]
    if name.startswith("GroupNormalization"):  # onnx's inference stops there
        built.proto.graph.output[0].CopyFrom(value("y", "2x4x8x8"))
    smaller, proof = halve(built)
    assert shapes(smaller, *expected) == expected
    sound(smaller, proof)


@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_of_other_ranks(rank: int) -> None:
    kernel, size = "x".join(["3"] * rank), "x".join(["6"] * rank)
    nodes = [node("Conv", "x w b", "a"), node("Relu", "a", "r"), node("Conv", "r v", "y")]
    built = model(nodes, {"x": f"1x3x{size}"}, ["y"], {"w": f"8x3x{kernel}", "b": "8", "v": f"4x8x{kernel}"})
    smaller, proof = halve(built)
    assert (smaller.weights.shape("w")[0], smaller.weights.shape("v")[1]) == (4, 4)
    sound(smaller, proof)
