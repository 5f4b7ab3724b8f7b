"""Ops that move, cut, join, repeat or make data and compute nothing."""

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ops.spec import OpSpec, OpView, View, Work, product

MOVES = """
CenterCropPad DepthToSpace GatherND ReverseSequence Slice SpaceToDepth Split
""".split()

RESAMPLES = """
AffineGrid Col2Im GridSample RotaryEmbedding ScatterElements Scatter ScatterND TensorScatter Trilu
""".split()

SOURCES = """
BlackmanWindow Constant ConstantOfShape EyeLike HammingWindow HannWindow MelWeightMatrix OneHot Range
""".split()

RANDOM = """
Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike
""".split()

CONTAINERS = """
ConcatFromSequence Optional OptionalGetElement OptionalHasElement SequenceAt SequenceConstruct SequenceEmpty
SequenceErase SequenceInsert SequenceLength SplitToSequence ImageDecoder RegexFullMatch StringConcat StringNormalizer
StringSplit TfIdfVectorizer
""".split()

RESHAPES = "Reshape Flatten Squeeze Unsqueeze".split()

MICROSOFT = """
Pad GatherND ExpandDims Crop EmbedLayerNormalization RotaryEmbedding RemovePadding RestorePadding CropAndResize
""".split()


def shape_value(op: OpView) -> NDArray[np.int64]:
    """The input's sizes, from `start` to `end`."""
    return np.array(
        op.input(0)[slice(op.number("start", 0), op.attributes["end"].i if "end" in op.attributes else None)], np.int64
    )


def size_value(op: OpView) -> NDArray[np.int64]:
    return np.array(product(op.input(0)), np.int64)


def is_inference_dropout(op: OpView) -> bool:
    """No mask asked for, and no training_mode input (since version 12), which could be true."""
    return not any(op.node.output[1:]) and not op.has_input(2)


def is_contiguous(op: OpView) -> bool:
    """Whether what is joined lies behind one another in memory: no axis before the joined one has a size."""
    output = op.output()
    axis = op.required("axis") % len(output)
    return product(output[:axis]) == 1


def transpose_axes(op: OpView, rank: int) -> tuple[int, ...]:
    return op.numbers("perm", tuple(reversed(range(rank))))


def lost_axes(op: OpView, rank: int) -> None:
    """Elements stay, axes do not."""


SPECS = (
    *(OpSpec(op_type=name, moves=True, work=Work.MOVE) for name in MOVES),
    OpSpec(op_type="Concat", moves=True, work=Work.MOVE, in_place=is_contiguous),
    OpSpec(op_type="Compress", moves=True, work=Work.HOST),
    *(OpSpec(op_type=name, moves=True, index_at=1, work=Work.MOVE) for name in ("Gather", "GatherElements")),
    # what these make may be far larger than what they are made from
    *(OpSpec(op_type=name, moves=True, folds=False, work=Work.MOVE) for name in ("Expand", "Tile")),
    *(OpSpec(op_type=name, folds=False, work=Work.FREE) for name in SOURCES),
    *(OpSpec(op_type=name, folds=False, work=Work.MOVE) for name in ("Pad", "Resize", "Upsample")),
    *(OpSpec(op_type=name) for name in RESAMPLES),
    *(OpSpec(op_type=name, work=Work.HOST) for name in CONTAINERS),
    *(OpSpec(op_type=name, random=True) for name in RANDOM),
    *(OpSpec(op_type=name, domain="com.microsoft") for name in MICROSOFT),
    OpSpec(op_type="Shape", value=shape_value, work=Work.FREE),
    OpSpec(op_type="Size", value=size_value, work=Work.FREE),
    OpSpec(op_type="Identity", moves=True, view=View(), passes=lambda op: True, work=Work.FREE),
    OpSpec(op_type="Dropout", view=View(), work=Work.FREE),
    OpSpec(op_type="Dropout", since=7, view=View(), passes=is_inference_dropout, work=Work.FREE),
    OpSpec(op_type="Transpose", moves=True, view=View(axes=transpose_axes), work=Work.MOVE),
    *(OpSpec(op_type=name, moves=True, view=View(axes=lost_axes), work=Work.FREE) for name in RESHAPES),
)
