"""Ops that reduce over an axis: normalisation, pooling, reduction, search. They have no weights and no multiply-accumulates.

Source: the ONNX operator pages; onnxruntime's ContribOperators for those of com.microsoft.
"""

from onnxsparse.ir.binding import Shape
from onnxsparse.ops.conflicts import groups, normalising, per_channel, skipping
from onnxsparse.ops.coupling import Coupling
from onnxsparse.ops.facets import Affine, ChannelRules, CostRules, FoldRules, Quant, QuantRules, ShapeRules, Sign, Work
from onnxsparse.ops.folding import is_inference, normalisation
from onnxsparse.ops.labels import Axes
from onnxsparse.ops.masking import (
    mask_group_norm,
    mask_instance_norm,
    mask_layer_norm,
    mask_reduction,
    mask_skip_norm,
    reduced_axes,
)
from onnxsparse.ops.padding import padding_average
from onnxsparse.ops.refit import Refit
from onnxsparse.ops.shapes import reduced, windows
from onnxsparse.ops.sizes import Listed, divided
from onnxsparse.ops.spec import OpSpec
from onnxsparse.ops.view import OpView, same_shape

POOLING = {
    "AveragePool": Quant.ARITHMETIC,
    "GlobalAveragePool": Quant.ARITHMETIC,
    "GlobalLpPool": Quant.FLOAT,
    "GlobalMaxPool": Quant.FOLLOW,
    "LpPool": Quant.FLOAT,
    "MaxPool": Quant.FOLLOW,
}
"""Op → its role between integers: an average has a new scale, a maximum is one of the elements."""

REDUCTIONS = """
ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare
""".split()

SEARCHES = {"NonMaxSuppression": (0, 1), "NonZero": (), "TopK": (0,), "Unique": ()}
"""Op → inputs that decide which elements it selects. Empty for NonZero and Unique, which test for zero or equality, not for
order.
"""

# exporters and onnxruntime write the fused normalisations into the standard domain as well as into this one
MICROSOFT = "com.microsoft"

EXACT = ("ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare")
"""Sums: a channel of zeros adds nothing."""


def couple_per_channel(c: Coupling) -> None:
    """Parameters with one element per channel (axis 1)."""
    axes = c.axes(0)
    for at in range(1, len(c.op.node.input)):
        if c.op.has_input(at):
            c.follow(at, 0, axes[1] if len(axes) > 1 else None)
    c.emit(axes)


def couple_batch_norm(c: Coupling) -> None:
    """As `couple_per_channel`. In training mode it computes statistics over all axes but the channels."""
    if c.op.number("training_mode", 0):
        for axis, labels in enumerate(c.axes(0)):
            if axis != 1:
                c.freeze(labels, "BatchNormalization in training mode reduces over it")
    couple_per_channel(c)
    for at in range(1, len(c.op.node.output)):
        c.emit((c.axes(0)[1],), at)


def couple_instance(c: Coupling) -> None:
    """As `couple_per_channel`, with statistics over the axes after the channels."""
    for labels in c.axes(0)[2:]:
        c.crosses(labels, c.op.node.op_type)
    couple_per_channel(c)


def couple_layer_norm(c: Coupling) -> None:
    """Statistics over the axes from `axis` on; scale and bias are aligned at the right end."""
    axes = c.axes(0)
    first = c.op.axis(-1, len(axes))
    for labels in axes[first:]:
        c.crosses(labels, c.op.node.op_type)
    for at in range(1, len(c.op.node.input)):
        parameters = c.axes(at)
        for back in range(1, len(parameters) + 1):
            c.follow(at, -back, axes[-back])
    c.emit(axes)
    for at in range(1, len(c.op.node.output)):
        c.emit((*axes[:first], *(None for _ in axes[first:])), at)


def couple_skip_norm(c: Coupling) -> None:
    """onnxruntime's sum of two inputs, normalised over the last axis; the sum is the fourth output."""
    axes = Listed(c.broadcast([0, 1]))
    c.crosses(axes[-1], c.op.node.op_type)
    for at in range(2, len(c.op.node.input)):
        if c.op.has_input(at):
            c.follow(at, 0, axes[-1])
    c.emit(axes)
    if len(c.op.node.output) > SUM_OUTPUT:
        c.emit(axes, SUM_OUTPUT)


def couple_group_norm(c: Coupling) -> None:
    """Whole groups can be cut; cutting inside a group changes its statistics. Scale and bias are per group before version 21."""
    axes = c.axes(0)
    groups = c.op.count("num_groups")
    channels = c.op.input(0)[1]
    if axes[1] is not None:
        group, within = (*c.space.split(axes[1], (groups, divided(channels, groups)), c.name),)
        c.crosses(within, "GroupNormalization")
        for at in (1, 2):
            c.follow(at, 0, group if c.op.input(at)[0] == groups else axes[1])
    for labels in axes[2:]:
        c.crosses(labels, "GroupNormalization")
    c.emit(axes)


def refit_group_norm(r: Refit) -> None:
    """Set `num_groups` to the groups that remain; if every group was cut inside, each has fewer channels."""
    groups, old, new = r.old.count("num_groups"), r.old.input(0)[1], r.new.input(0)[1]
    per_group = r.old.input(1)[0] == groups
    if per_group:
        r.set("num_groups", r.new.input(1)[0])
        return
    kept = r.kept_input(0, 1)
    if kept is not None:
        r.set("num_groups", len(set((kept // (old // groups)).tolist())) if new else groups)


def couple_along(c: Coupling) -> None:
    """LRN reduces over the channels, LpNormalization over the last axis; the axis stays, even with `cut_norms`."""
    axes = c.axes(0)
    axis = c.op.axis(FREEZING[c.op.node.op_type], len(axes))
    c.freeze(axes[axis], f"{c.op.node.op_type} reduces over it")
    c.emit(axes)


def couple_moments(c: Coupling) -> None:
    """MeanVarianceNormalization: reduces over batch and positions by default."""
    axes = c.axes(0)
    for axis in c.op.numbers("axes", (0, 2, 3)):
        c.freeze(axes[axis], "MeanVarianceNormalization reduces over it")
    c.emit(axes)


def couple_pool(c: Coupling) -> None:
    """Channel by channel; positions are not cut. MaxPool's indices count over channels too, so channels stay if they are used."""
    axes = c.axes(0)
    for labels in axes[2:]:
        c.freeze(labels, f"{c.op.node.op_type} reduces over it")
    if any(c.op.node.output[1:]):
        for labels in axes[:2]:
            c.freeze(labels, "is counted in the indices of MaxPool")
    for at in range(len(c.op.node.output)):
        c.emit((*axes[:2], *(None for _ in axes[2:])), at)


def couple_regions(c: Coupling) -> None:
    """Channel by channel; the other inputs select positions and images of the batch."""
    axes = c.axes(0)
    for labels in (axes[0], *axes[2:]):
        c.freeze(labels, f"{c.op.node.op_type} selects along it")
    for at in range(1, len(c.op.node.input)):
        c.freeze_all(at, "holds the regions to pool")
    c.emit((None, axes[1], *(None for _ in axes[2:])))


def couple_reduction(c: Coupling) -> None:
    """Sums are exact with zeros; means and extremes reduce over the axis (`cut_norms`); the others keep it."""
    axes, reduced = c.axes(0), reduced_axes(c.op, c.constant)
    for axis in sorted(reduced):
        if c.op.node.op_type in EXACT:
            c.contracted.append((0, axis))
        elif c.op.node.op_type in MASKABLE:
            c.crosses(axes[axis], c.op.node.op_type)
        else:
            c.freeze(axes[axis], f"{c.op.node.op_type} reduces over it")
    emit_reduced(c, axes, reduced, c.op.number("keepdims", 1))


def couple_search(c: Coupling) -> None:
    """ArgMax, ArgMin and TopK return positions along an axis, which stays."""
    axes = c.axes(0)
    axis = c.op.axis(-1 if c.op.node.op_type == "TopK" else 0, len(axes))
    c.freeze(axes[axis], f"{c.op.node.op_type} searches along it")
    if c.op.node.op_type == "TopK":
        for at in (0, 1):
            c.emit((*axes[:axis], None, *axes[axis + 1 :]), at)
        return
    emit_reduced(c, axes, {axis}, c.op.number("keepdims", 1))


def emit_reduced(c: Coupling, axes: Axes, reduced: set[int], keep: int) -> None:
    """The output's axes after a reduction; reduced ones are not followed, and vanish if `keep` is 0."""
    c.emit([None if i in reduced else labels for i, labels in enumerate(axes) if keep or i not in reduced])


HOMOGENEOUS = ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")
"""Reductions on whose result a positive factor appears as it is, unless they reduce over the axis that it differs along."""

MASKABLE = ("ReduceMax", "ReduceMean", "ReduceMin")
"""Reductions that the reference of a cut can compute over the kept channels."""

SUM_OUTPUT = 3
"""Output of SkipLayerNormalization with the sum that it normalises."""

FUSED = ("LayerNormalization", "SimplifiedLayerNormalization")

FREEZING = {"LRN": 1, "LpNormalization": -1}
"""Op → its default axis."""


def statistics(op: OpView) -> Shape:
    """One element per row of the last axis. Raises UnknownFact."""
    return (*op.partial(0)[:-1], 1)


def axis_statistics(op: OpView) -> Shape:
    """One element per group that is normalised: sizes of 1 from `axis` on. Raises UnknownFact."""
    shape = op.partial(0)
    axis = op.axis(-1, len(shape))
    return (*shape[:axis], *[1] * (len(shape) - axis))


def last_pool_shape(op: OpView) -> Shape:
    """As MaxPool's, channels last. Raises UnknownFact."""
    x = op.partial(0)
    return (x[0], *windows(op, x[1:-1], op.numbers("kernel_shape")), x[-1])


SPECS = (
    OpSpec(
        op_type="GroupNormalization",
        channels=ChannelRules(couple=couple_group_norm, refit=refit_group_norm, masked=mask_group_norm),
        shape=ShapeRules(infer=same_shape, conflict=groups("num_groups")),
    ),
    OpSpec(
        op_type="InstanceNormalization",
        channels=ChannelRules(couple=couple_instance, masked=mask_instance_norm),
        shape=ShapeRules(conflict=per_channel),
    ),
    *(OpSpec(op_type=name, channels=ChannelRules(couple=couple_along)) for name in FREEZING),
    *(
        OpSpec(
            op_type=name,
            channels=ChannelRules(couple=couple_layer_norm, masked=mask_layer_norm),
            shape=ShapeRules(infer=same_shape, more=(axis_statistics, axis_statistics), conflict=normalising(1, 2)),
        )
        for name in ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
    ),
    *(
        OpSpec(
            op_type=name,
            channels=ChannelRules(couple=couple_pool),
            quant=QuantRules(role=quant, homogeneous=True, sign=Sign.KEPT),
        )
        for name, quant in POOLING.items()
    ),
    # since version 7 it can count its padding, which `take_zeros` needs
    OpSpec(
        op_type="AveragePool",
        since=7,
        channels=ChannelRules(couple=couple_pool),
        quant=QuantRules(role=Quant.ARITHMETIC, homogeneous=True),
        fold=FoldRules(take_zeros=padding_average),
    ),
    OpSpec(op_type="MeanVarianceNormalization", channels=ChannelRules(couple=couple_moments), shape=ShapeRules(infer=same_shape)),
    *(OpSpec(op_type=name, channels=ChannelRules(couple=couple_regions)) for name in ("MaxRoiPool", "RoiAlign")),
    *(OpSpec(op_type=name) for name in ("MaxUnpool", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")),
    *(
        OpSpec(
            op_type=name,
            channels=ChannelRules(couple=couple_reduction, masked=mask_reduction if name in MASKABLE else None),
            quant=QuantRules(homogeneous=name in HOMOGENEOUS, sign=Sign.ANY if "Log" in name else Sign.KEPT),
        )
        for name in REDUCTIONS
    ),
    *(OpSpec(op_type=name, channels=ChannelRules(couple=couple_search)) for name in ("ArgMax", "ArgMin")),
    *(
        OpSpec(
            op_type=name,
            channels=ChannelRules(couple=couple_search if name == "TopK" else None),
            quant=QuantRules(selects=inputs),
            cost=CostRules(work=Work.HOST),
        )
        for name, inputs in SEARCHES.items()
    ),
    OpSpec(
        op_type="BatchNormalization",
        outputs_decide=True,
        channels=ChannelRules(couple=couple_batch_norm),
        fold=FoldRules(affine=Affine(values=normalisation, when=is_inference, shift_at=2)),
        cost=CostRules(work=Work.ELEMENTWISE),
    ),
    OpSpec(op_type="GroupNorm", domain=MICROSOFT, shape=ShapeRules(infer=same_shape)),
    OpSpec(op_type="SkipGroupNorm", domain=MICROSOFT, shape=ShapeRules(infer=same_shape, more=(same_shape,))),
    OpSpec(op_type="QLinearReduceMean", domain=MICROSOFT, shape=ShapeRules(infer=lambda op: reduced(op, op.numbers("axes")))),
    OpSpec(op_type="Unique", domain=MICROSOFT),
    OpSpec(op_type="Inverse", domain=MICROSOFT, shape=ShapeRules(infer=same_shape), cost=CostRules(work=Work.HOST)),
    OpSpec(op_type="NhwcMaxPool", domain=MICROSOFT, shape=ShapeRules(infer=last_pool_shape)),
    *(
        OpSpec(
            op_type=name,
            domain=MICROSOFT,
            channels=ChannelRules(couple=couple_layer_norm, masked=mask_layer_norm),
            shape=ShapeRules(infer=same_shape, conflict=normalising(1, 2)),
        )
        for name in FUSED
    ),
    *(
        OpSpec(
            op_type=f"Skip{name}",
            domain=MICROSOFT,
            channels=ChannelRules(couple=couple_skip_norm, masked=mask_skip_norm),
            shape=ShapeRules(infer=same_shape, more=(statistics, statistics, same_shape), conflict=skipping),
        )
        for name in FUSED
    ),
)
