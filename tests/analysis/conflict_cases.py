"""Nodes that no sizes, or other sizes than N = 2, suit, and nodes that N = 2 suits: names, nodes, inputs, weights, reasons."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from tests.graphs import node

MS = "com.microsoft"
ints = np.array


REFUSED: list[tuple[str, list[onnx.NodeProto], Mapping[str, str], Mapping[str, Any], str]] = [
    ("Gemm", [node("Gemm", "x w", "y")], {"x": "Nx3"}, {"w": "4x5"}, "cannot multiply 2x3 by 4x5: 3 meets 4"),
    ("Gemm transposed", [node("Gemm", "x w", "y", transB=1)], {"x": "Nx3"}, {"w": "5x4"}, "multiply 2x3 by 4x5: 3 meets 4"),
    ("Gemm's bias", [node("Gemm", "x w c", "y")], {"x": "Nx4"}, {"w": "4x5", "c": "3"}, "a bias of 3 to 2x5: 3 meets 5"),
    ("MatMul", [node("MatMul", "x w", "y")], {"x": "7xNx3"}, {"w": "4x5"}, "multiply 7x2x3 by 4x5: 3 meets 4"),
    ("MatMul's batch", [node("MatMul", "x w", "y")], {"x": "Nx6x3"}, {"w": "5x3x4"}, "2x6x3 by 5x3x4: 2 meets 5"),
    ("Conv", [node("Conv", "x w", "y")], {"x": "Nx3x8x8"}, {"w": "4x5x3x3"}, "3 channels meet 5"),
    ("Conv in groups", [node("Conv", "x w", "y", group=2)], {"x": "Nx3x8x8"}, {"w": "4x2x3x3"}, "3 channels meet 4"),
    ("a kernel not in groups", [node("Conv", "x w", "y", group=2)], {"x": "Nx4x8x8"}, {"w": "3x2x3x3"}, "3 channels of a kernel"),
    (
        "SpaceToDepth",
        [node("SpaceToDepth", "x", "y", blocksize=2)],
        {"x": "Nx3x5x4"},
        {},
        "cannot divide 5 positions into blocks of 2",
    ),
    (
        "a skip of another length",
        [node("SkipLayerNormalization", "x s g", "y", domain=MS)],
        {"x": "3xNx8"},
        {"s": "3x4x8", "g": "8"},
        "cannot normalise 3x2x8 with 3x4x8: 2 meets 4",
    ),
    (
        "an initial state",
        [node("LSTM", "x w r _ _ h", "y", hidden_size=8)],
        {"x": "5xNx3"},
        {"w": "1x32x3", "r": "1x32x8", "h": "1x1x8"},
        "an initial state of 1x1x8: 2 meets 1",
    ),
    (
        "heads of MultiHeadAttention",
        [node("MultiHeadAttention", "x k v", "y", domain=MS, num_heads=3)],
        {"x": "1xNx16", "k": "1x6x16", "v": "1x6x16"},
        {},
        "the last axis of 1x2x16 into 3 heads",
    ),
    (
        "keys and values of MultiHeadAttention",
        [node("MultiHeadAttention", "x k v", "y", domain=MS, num_heads=4)],
        {"x": "1x5x16", "k": "1xNx16", "v": "1x6x16"},
        {},
        "cannot attend from 1x5x16 to 1x2x16 and 1x6x16: 2 meets 6",
    ),
    ("a slope", [node("PRelu", "x s", "y")], {"x": "1xNx4x4"}, {"s": "4x1x1"}, "cannot broadcast 1x2x4x4 and 4x1x1: 2 meets 4"),
    ("a bias of BiasGelu", [node("BiasGelu", "x c", "y", domain=MS)], {"x": "4xN"}, {"c": "3"}, "by 3 to 4x2: 3 meets 2"),
    ("Conv of another rank", [node("Conv", "x w", "y")], {"x": "Nx3x8"}, {"w": "4x3x3x3"}, "3 axes meet 4"),
    ("a kernel too large", [node("Conv", "x w", "y")], {"x": "1x3xNx9"}, {"w": "4x3x3x3"}, "kernel spans 3, its padded input 2"),
    ("ConvTranspose", [node("ConvTranspose", "x w", "y")], {"x": "Nx3x8"}, {"w": "4x5x3"}, "3 channels meet 4"),
    ("Add", [node("Add", "x w", "y")], {"x": "5xN"}, {"w": "3"}, "cannot broadcast 5x2 and 3: 2 meets 3"),
    ("Concat", [node("Concat", "x w", "y", axis=1)], {"x": "Nx3"}, {"w": "4x3"}, "along axis 1: 2 meets 4"),
    ("Concat of ranks", [node("Concat", "x r", "y", axis=0)], {"x": "Nx3", "r": "N"}, {}, "1 axes meet 2"),
    ("Split", [node("Split", "x s", "y z", axis=0)], {"x": "Nx3"}, {"s": ints([1, 2])}, "cannot take 2x3 and [1, 2]"),
    ("Einsum", [node("Einsum", "x w", "y", equation="ij,jk->ik")], {"x": "3xN"}, {"w": "4x5"}, "2 meets 4 along 'j'"),
    ("Gather", [node("Gather", "x i", "y", axis=0)], {"x": "Nx3"}, {"i": ints([0, 2])}, "cannot take index 2 of 2 in 2x3"),
    ("LayerNormalization", [node("LayerNormalization", "x g", "y")], {"x": "5xN"}, {"g": "3"}, "by 3 to 5x2: 3 meets 2"),
    (
        "FusedMatMul",
        [node("FusedMatMul", "x w", "y", domain=MS, transA=1)],
        {"x": "Nx3"},
        {"w": "4x5"},
        "cannot multiply 3x2 by 4x5: 2 meets 4",
    ),
    (
        "FusedConv's residual",
        [node("FusedConv", "x w _ z", "y", domain=MS, activation="Relu")],
        {"x": "1x3x8x8", "z": "1x4xNx6"},
        {"w": "4x3x3x3"},
        "cannot add 1x4x2x6 to 1x4x6x6",
    ),
    (
        "behind a fused op and shape arithmetic",
        [
            node("BiasGelu", "x b", "a", domain=MS),
            node("Shape", "a", "s"),
            node("Concat", "s one", "t", axis=0),
            node("Reshape", "a t", "r"),  # 2x3x1
            node("MatMul", "r w", "y"),
        ],
        {"x": "Nx3"},
        {"b": "3", "one": ints([1]), "w": "4x5"},
        "cannot multiply 2x3x1 by 4x5: 1 meets 4",
    ),
    ("GatherND", [node("GatherND", "x i", "y")], {"x": "Nx4"}, {"i": ints([[1], [2]])}, "cannot take index 2 of 2 in 2x4"),
    ("GatherND, second axis", [node("GatherND", "x i", "y")], {"x": "4xN"}, {"i": ints([[3, -3]])}, "index -3 of 2 in 4x2"),
    (
        "GatherND in batches",
        [node("GatherND", "x i", "y", batch_dims=1)],
        {"x": "3xNx4"},
        {"i": ints([[1], [1], [2]])},
        "index 2 of 2",
    ),
    ("GatherElements", [node("GatherElements", "x i", "y")], {"x": "Nx3"}, {"i": ints([[0, 1, 2]])}, "index 2 of 2 in 2x3"),
    (
        "GatherElements, too many",
        [node("GatherElements", "x i", "y", axis=1)],
        {"x": "Nx3"},
        {"i": ints([[0]] * 3)},
        "take 3 of 2",
    ),
    ("GatherElements of ranks", [node("GatherElements", "x i", "y")], {"x": "Nx3"}, {"i": ints([0])}, "2 axes meet 1"),
    ("ScatterND", [node("ScatterND", "x i u", "y")], {"x": "Nx4"}, {"i": ints([[2]]), "u": "1x4"}, "cannot take index 2 of 2"),
    (
        "ScatterElements",
        [node("ScatterElements", "x i u", "y")],
        {"x": "Nx2"},
        {"i": ints([[1, 2]]), "u": "1x2"},
        "cannot take index 2 of 2 in 2x2",
    ),
    (
        "ScatterElements of other updates",
        [node("ScatterElements", "x i u", "y")],
        {"x": "3x2", "u": "1xN"},
        {"i": ints([[1]])},
        "cannot write 1x2 at 1x1 positions",
    ),
    (
        "a reflection",
        [node("Pad", "x p", "y", mode="reflect")],
        {"x": "3xN"},
        {"p": ints([0, 2, 0, 1])},
        "2 of 2 elements along axis 1",
    ),
    (
        "a permutation",
        [node("Reshape", "x s", "r"), node("Transpose", "r", "y", perm=[1, 0])],
        {"x": "Nx2"},
        {"s": ints([1, -1, 2])},
        "3 axes meet 2",
    ),
    (
        "scales",
        [node("QuantizeLinear", "x t", "q"), node("DequantizeLinear", "q s", "y", axis=1)],
        {"x": "1xN"},
        {"s": np.ones(4, np.float32), "t": np.float32(1)},
        "cannot scale 1x2 by 4 scales: 2 meets 4",
    ),
    (
        "SequenceAt",
        [node("SplitToSequence", "x", "s", axis=0), node("SequenceAt", "s i", "y")],
        {"x": "Nx3"},
        {"i": ints(2)},
        "cannot take position 2 of a sequence of 2",
    ),
    (
        "ConcatFromSequence",
        [node("SequenceConstruct", "x w", "s"), node("ConcatFromSequence", "s", "y", axis=0)],
        {"x": "1xN"},
        {"w": "1x4"},
        "cannot join elements along axis 0: 2 meets 4",
    ),
    (
        "a stack",
        [node("SequenceConstruct", "x w", "s"), node("ConcatFromSequence", "s", "y", axis=0, new_axis=1)],
        {"x": "N"},
        {"w": "4"},
        "cannot join elements along axis 0: 2 meets 4",
    ),
    (
        "heads of onnxruntime's Attention",
        [node("Attention", "x w b", "y", domain=MS, num_heads=5)],
        {"x": "1xNx16"},
        {"w": "16x48", "b": "48"},
        "cannot divide the 16 columns of a projection into 5 heads",
    ),
    (
        "batches of MultiHeadAttention",
        [node("MultiHeadAttention", "x k v", "y", domain=MS, num_heads=4)],
        {"x": "Nx5x16", "k": "3x6x16", "v": "3x6x16"},
        {},
        "cannot attend from 2x5x16 to 3x6x16 and 3x6x16: 2 meets 3",
    ),
    (
        "positions of RotaryEmbedding",
        [node("RotaryEmbedding", "x p c s", "y", domain=MS, num_heads=4)],
        {"x": "1xNx16"},
        {"p": ints([[0, 1, 2, 3, 4, 5]]), "c": "6x2", "s": "6x2"},
        "cannot rotate 1x2x16 by 1x6 positions: 2 meets 6",
    ),
]
"""What N = 2 does not suit, with the reason; the last node is at fault."""

ACCEPTED: list[tuple[str, list[onnx.NodeProto], Mapping[str, str], Mapping[str, Any]]] = [
    (
        "an empty part of a Concat",  # onnx's inference refuses it, onnxruntime skips it
        [node("Slice", "x s e a", "z"), node("Concat", "z x", "y", axis=1)],
        {"x": "Nx3"},
        {"s": ints([9]), "e": ints([10]), "a": ints([0])},
    ),
    ("a skip that broadcasts", [node("SkipLayerNormalization", "x s g", "y", domain=MS)], {"x": "Nx4x8"}, {"s": "4x8", "g": "8"}),
    ("a scale of all axes", [node("LayerNormalization", "x g", "y", axis=2)], {"x": "Nx4x8"}, {"g": "1x4x8"}),
    ("a kernel that padding makes room for", [node("Conv", "x w", "y", pads=[1] * 4)], {"x": "Nx3x1x1"}, {"w": "4x3x3x3"}),
    ("a Reshape with zeros", [node("Reshape", "x s", "y")], {"x": "Nx8"}, {"s": ints([0, 4, 2])}),
    ("a vector", [node("MatMul", "x w", "y")], {"x": "Nx5x4"}, {"w": "4"}),
    ("tuples from the end", [node("GatherND", "x i", "y")], {"x": "Nx3"}, {"i": ints([[-2, 2], [1, -3]])}),
    ("tuples in batches", [node("GatherND", "x i", "y", batch_dims=1)], {"x": "Nx3"}, {"i": ints([[2], [-3]])}),
    ("elements of a part", [node("GatherElements", "x i", "y", axis=1)], {"x": "Nx3"}, {"i": ints([[2, -3, 0, 1, 1]])}),
    ("updates of a part", [node("ScatterElements", "x i u", "y", axis=1)], {"x": "Nx3"}, {"i": ints([[2, 0]]), "u": "1x2"}),
    ("a row that is written", [node("ScatterND", "x i u", "y")], {"x": "Nx3"}, {"i": ints([[-1]]), "u": "1x3"}),
    ("the largest reflection", [node("Pad", "x p", "y", mode="reflect")], {"x": "Nx3"}, {"p": ints([1, 2, 1, 0])}),
    ("a large constant pad", [node("Pad", "x p", "y")], {"x": "Nx3"}, {"p": ints([5, 0, 5, 0])}),
    (
        "a scale in a vector",
        [node("QuantizeLinear", "x s", "q", axis=1), node("DequantizeLinear", "q t", "y", axis=-2)],
        {"x": "Nx3"},
        {"s": np.ones(1, np.float32), "t": np.ones(2, np.float32)},
    ),
    ("a slope for all", [node("PRelu", "x s", "y")], {"x": "Nx3x4"}, {"s": "1x1"}),
    ("a slope per column", [node("PRelu", "x s", "y")], {"x": "Nx3x4"}, {"s": "4"}),
    (
        "one position for all",
        [node("RotaryEmbedding", "x p c s", "y", domain=MS, num_heads=4)],
        {"x": "1xNx16"},
        {"p": ints([0]), "c": "6x2", "s": "6x2"},
    ),
    (
        "keys of another length",
        [node("MultiHeadAttention", "x k v", "y", domain=MS, num_heads=4)],
        {"x": "Nx5x16", "k": "Nx7x16", "v": "Nx7x16"},
        {},
    ),
    (
        "the last of a sequence",
        [node("SplitToSequence", "x", "s", axis=0), node("SequenceAt", "s i", "y")],
        {"x": "Nx3"},
        {"i": ints(-2)},
    ),
    (
        "pieces of other sizes",
        [node("SequenceConstruct", "x w", "s"), node("ConcatFromSequence", "s", "y", axis=1)],
        {"x": "3xN"},
        {"w": "3x4"},
    ),
    ("an index from the end", [node("Gather", "x i", "y")], {"x": "Nx3"}, {"i": ints([-2, 1])}),
]
"""What N = 2 suits."""
