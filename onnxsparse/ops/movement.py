"""Ops that move, repeat, resample or reshape data and compute nothing else.

Source: the ONNX operator pages; onnxruntime's ContribOperators for those of com.microsoft.
"""

import numpy as np

from onnxsparse.ir.binding import Shape
from onnxsparse.ops.conflicts import blocks, reshaping, squares
from onnxsparse.ops.coupling import Coupling, couple_same
from onnxsparse.ops.facets import ChannelRules, CostRules, FoldRules, Quant, QuantRules, ShapeRules, View, Work
from onnxsparse.ops.index_conflicts import gathering_tuples, permuting, reflecting
from onnxsparse.ops.labels import Axes, Labels
from onnxsparse.ops.padding import couple_pad, ends_of, pad_zeros, refit_pad
from onnxsparse.ops.refit import Refit, refit_reshape, refit_sizes
from onnxsparse.ops.reshaping import couple_reshape
from onnxsparse.ops.sequences import pass_on
from onnxsparse.ops.sizes import UnknownFact, counted, divided, paired
from onnxsparse.ops.spec import OpSpec
from onnxsparse.ops.view import OpView, same_shape

MOVES = """
CenterCropPad ReverseSequence
""".split()

RESAMPLES = """
AffineGrid Col2Im TensorScatter
""".split()

HOSTED = """
ImageDecoder RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer
""".split()

MICROSOFT = "com.microsoft"


def has_both_ends(op: OpView) -> bool:
    """Whether an Identity has its input and its output, as one of a damaged file may not."""
    return op.has_input(0) and bool(op.node.output)


def is_inference_dropout(op: OpView) -> bool:
    """Whether a Dropout passes its input on: its mask is unused and it has no training_mode input (since version 12), which
    could be true.
    """
    return has_both_ends(op) and not any(op.node.output[1:]) and not op.has_input(2)


def permutation(op: OpView, rank: int) -> tuple[int, ...]:
    """For each output axis the input axis it comes from. Raises UnknownFact if `perm` is not a permutation of the axes."""
    perm = op.numbers("perm", tuple(reversed(range(rank))))
    if sorted(perm) != list(range(rank)):
        raise UnknownFact(f"its perm {list(perm)} is no permutation of {rank} axes")
    return perm


def lost_axes(op: OpView, rank: int) -> None:
    """None: elements stay in order, but axes are not preserved."""


def couple_transpose(c: Coupling) -> None:
    """Axes in the order of `perm`."""
    axes = c.axes(0)
    c.emit([axes[i] for i in permutation(c.op, len(axes))])


def couple_expand(c: Coupling) -> None:
    """Axes of size 1 are repeated; the repeated axis gets new labels and may be cut."""
    before, after = c.op.input(0), c.op.output()
    found: list[Labels | None] = []
    for back in range(len(after), 0, -1):
        there = back <= len(before) and before[-back] != 1
        found.append(c.axes(0)[-back] if there else c.space.fresh(after[-back]))
    c.emit(found)


def couple_tile(c: Coupling) -> None:
    """Labels are repeated with their axis; an axis of size 1 gets new labels, and is cut by repeating it less."""
    repeats = [after // max(before, 1) for before, after in paired(c.op.input(0), c.op.output())]
    found: list[Labels | None] = []
    for labels, (size, times) in paired(c.axes(0), list(paired(c.op.input(0), repeats))):
        found.append(np.tile(labels, times) if labels is not None else c.space.fresh(times) if size == 1 < times else None)
    c.emit(found)


def refit_tile(r: Refit) -> None:
    """Write the repeats that the cut sizes need."""
    before = [o // max(i, 1) for i, o in zip(r.old.input(0), r.old.output(), strict=True)]
    after = [o // max(i, 1) for i, o in zip(r.new.input(0), r.new.output(), strict=True)]
    if before != after:
        r.rescale(1, before, after)


def couple_resize(c: Coupling) -> None:
    """An axis that keeps its size passes; one that is resized stays, because positions are interpolated along it."""
    found: list[Labels | None] = []
    for labels, (before, after) in paired(c.axes(0), list(paired(c.op.input(0), c.op.output()))):
        if before != after:
            c.freeze(labels, "is resized")
        found.append(labels if before == after else None)
    c.emit(found)


def refit_resize(r: Refit) -> None:
    """Write the cut sizes, if the op has sizes; scales of 1 need no correction."""
    if r.old.has_input(3) and "axes" not in r.old.attributes:
        refit_sizes(3)(r)
    elif r.old.has_input(3):
        rank = len(r.old.input(0))
        at = [axis % rank for axis in r.old.numbers("axes")]
        before, after = ([view.output()[axis] for axis in at] for view in (r.old, r.new))
        if before != after:
            r.rescale(3, before, after)


def couple_grid_sample(c: Coupling) -> None:
    """Channel by channel; positions, and the images of the batch, are sampled by the grid."""
    axes = c.axes(0)
    for labels in (axes[0], *axes[2:]):
        c.freeze(labels, "is sampled")
    c.freeze_all(1, "holds the sampling positions")
    c.emit((None, axes[1], *(None for _ in axes[2:])))


def couple_triangle(c: Coupling) -> None:
    """The last two axes stay: which elements are kept depends on their positions."""
    axes = c.axes(0)
    for labels in axes[-2:]:
        c.freeze(labels, "is cut to a triangle")
    c.emit(axes)


def couple_depth_to_space(c: Coupling) -> None:
    """Channels are b × b × C (DCR) or C × b × b (CRD); the b · b blocks of an output channel are cut together. Raises
    UnknownFact if b² does not divide the channels.
    """
    axes, block = c.axes(0), c.op.count("blocksize")
    labels = axes[1]
    found = None
    if labels is not None:
        divided(labels.size, block * block)
        crd = c.op.text("mode", "DCR") == "CRD"
        table = labels.reshape(-1, block * block) if crd else labels.reshape(block * block, -1).T
        found = table[:, 0]
        for column in table.T[1:]:
            c.space.unite(found, column)
    spread(c, axes, found)


def couple_space_to_depth(c: Coupling) -> None:
    """The inverse: output channels are b × b × C."""
    axes, block = c.axes(0), c.op.count("blocksize")
    spread(c, axes, None if axes[1] is None else np.tile(axes[1], block * block))


def spread(c: Coupling, axes: Axes, channels: Labels | None) -> None:
    """Positions stay, because they move into channels or out of them; the output's channels are `channels`."""
    for labels in axes[2:]:
        c.freeze(labels, f"{c.op.node.op_type} moves it")
    c.emit((axes[0], channels, None, None))


def padded_shape(op: OpView) -> Shape:
    """Each size plus the elements added before and after it, from input 1. Raises UnknownFact if there are not two pads per
    axis.
    """
    shape = op.partial(0)
    ends = ends_of(op.integers(1), range(len(shape)))
    return tuple(None if size is None else before + size + after for size, (_, before, after) in zip(shape, ends, strict=True))


def expanded_shape(op: OpView) -> Shape:
    """A new axis of size 1 at the position in input 1; negative ones count from the end of the result. Raises UnknownFact for
    a position outside.
    """
    shape = op.partial(0)
    at = counted(op.integer(1), len(shape) + 1)
    return (*shape[:at], 1, *shape[at:])


def packed_shape(op: OpView) -> Shape:
    """Rows × width; the number of rows depends on values and is None. Raises UnknownFact."""
    return None, op.partial(0, 3)[2]


def cropped_shape(op: OpView) -> Shape:
    """Boxes × channels × height and width of the crop, from input 3. Raises UnknownFact."""
    return (op.partial(1, 2)[0], op.partial(0, 4)[1], *op.integers(3))


SPECS = (
    *(
        OpSpec(op_type=name, quant=QuantRules(role=Quant.FOLLOW), shape=ShapeRules(moves=True), cost=CostRules(work=Work.MOVE))
        for name in MOVES
    ),
    OpSpec(
        op_type="DepthToSpace",
        channels=ChannelRules(couple=couple_depth_to_space),
        quant=QuantRules(role=Quant.FOLLOW),
        shape=ShapeRules(moves=True, conflict=blocks),
        cost=CostRules(work=Work.MOVE),
    ),
    OpSpec(
        op_type="SpaceToDepth",
        channels=ChannelRules(couple=couple_space_to_depth),
        quant=QuantRules(role=Quant.FOLLOW),
        shape=ShapeRules(moves=True, conflict=squares),
        cost=CostRules(work=Work.MOVE),
    ),
    # not folded: their results can be far larger than their inputs
    OpSpec(
        op_type="Expand",
        channels=ChannelRules(couple=couple_expand, refit=refit_sizes(1)),
        quant=QuantRules(role=Quant.FOLLOW),
        shape=ShapeRules(moves=True),
        fold=FoldRules(allowed=False),
        cost=CostRules(work=Work.MOVE),
    ),
    OpSpec(
        op_type="Tile",
        channels=ChannelRules(couple=couple_tile, refit=refit_tile),
        quant=QuantRules(role=Quant.FOLLOW),
        shape=ShapeRules(moves=True),
        fold=FoldRules(allowed=False),
        cost=CostRules(work=Work.MOVE),
    ),
    OpSpec(
        op_type="Pad",
        channels=ChannelRules(couple=couple_pad, refit=refit_pad),
        quant=QuantRules(role=Quant.FOLLOW, fill_at=2, fill_attribute="value"),
        shape=ShapeRules(conflict=reflecting),
        fold=FoldRules(allowed=False, zeros=pad_zeros),
        cost=CostRules(work=Work.MOVE),
    ),
    OpSpec(
        op_type="Resize",
        channels=ChannelRules(couple=couple_resize, refit=refit_resize),
        quant=QuantRules(role=Quant.FOLLOW, fill_attribute="extrapolation_value"),
        fold=FoldRules(allowed=False),
        cost=CostRules(work=Work.MOVE),
    ),
    OpSpec(
        op_type="Upsample",
        channels=ChannelRules(couple=couple_resize),
        quant=QuantRules(role=Quant.FOLLOW),
        fold=FoldRules(allowed=False),
        cost=CostRules(work=Work.MOVE),
    ),
    *(OpSpec(op_type=name) for name in RESAMPLES),
    OpSpec(op_type="GridSample", channels=ChannelRules(couple=couple_grid_sample)),
    OpSpec(op_type="Trilu", channels=ChannelRules(couple=couple_triangle)),
    *(OpSpec(op_type=name, cost=CostRules(work=Work.HOST)) for name in HOSTED),
    OpSpec(op_type="Pad", domain=MICROSOFT, shape=ShapeRules(infer=padded_shape, needs_values=(1,))),
    OpSpec(op_type="GatherND", domain=MICROSOFT, shape=ShapeRules(like="GatherND", conflict=gathering_tuples)),
    OpSpec(op_type="ExpandDims", domain=MICROSOFT, shape=ShapeRules(infer=expanded_shape, needs_values=(1,))),
    OpSpec(op_type="Crop", domain=MICROSOFT),
    OpSpec(op_type="Trilu", domain=MICROSOFT, shape=ShapeRules(infer=same_shape)),
    OpSpec(op_type="RemovePadding", domain=MICROSOFT, shape=ShapeRules(infer=packed_shape)),
    OpSpec(
        op_type="RestorePadding", domain=MICROSOFT, shape=ShapeRules(infer=lambda op: (*op.partial(1, 2), op.partial(0, 2)[1]))
    ),
    OpSpec(op_type="CropAndResize", domain=MICROSOFT, shape=ShapeRules(infer=cropped_shape, needs_values=(3,))),
    OpSpec(
        op_type="Identity",
        channels=ChannelRules(couple=couple_same),
        quant=QuantRules(role=Quant.FOLLOW),
        shape=ShapeRules(sequence=pass_on, moves=True, view=View()),
        fold=FoldRules(passes=has_both_ends),
        cost=CostRules(work=Work.FREE),
    ),
    OpSpec(
        op_type="Dropout",
        channels=ChannelRules(couple=couple_same),
        quant=QuantRules(role=Quant.FOLLOW),
        shape=ShapeRules(view=View()),
        cost=CostRules(work=Work.FREE),
    ),
    OpSpec(
        op_type="Dropout",
        since=7,
        channels=ChannelRules(couple=couple_same),
        quant=QuantRules(role=Quant.FOLLOW),
        shape=ShapeRules(view=View()),
        fold=FoldRules(passes=is_inference_dropout),
        cost=CostRules(work=Work.FREE),
    ),
    OpSpec(
        op_type="Transpose",
        channels=ChannelRules(couple=couple_transpose),
        quant=QuantRules(role=Quant.FOLLOW),
        shape=ShapeRules(conflict=permuting, moves=True, view=View(axes=permutation)),
        cost=CostRules(work=Work.MOVE),
    ),
    OpSpec(
        op_type="Reshape",
        channels=ChannelRules(couple=couple_reshape, refit=refit_reshape),
        quant=QuantRules(role=Quant.FOLLOW),
        shape=ShapeRules(conflict=reshaping, moves=True, view=View(axes=lost_axes)),
        cost=CostRules(work=Work.FREE),
    ),
    *(
        OpSpec(
            op_type=name,
            channels=ChannelRules(couple=couple_reshape),
            quant=QuantRules(role=Quant.FOLLOW),
            shape=ShapeRules(moves=True, view=View(axes=lost_axes)),
            cost=CostRules(work=Work.FREE),
        )
        for name in ("Flatten", "Squeeze", "Unsqueeze")
    ),
)
