"""Quantize and dequantize. A constant keeps its elements through them; its zeros are where the integer equals the zero point.

Source: the ONNX operator pages of QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear.
"""

from onnxsparse.ops.coupling import Coupling
from onnxsparse.ops.facets import ChannelRules, CostRules, FoldRules, Quant, QuantRules, Scaling, ShapeRules, View, Work
from onnxsparse.ops.index_conflicts import scaling
from onnxsparse.ops.masking import mask_range
from onnxsparse.ops.spec import OpSpec
from onnxsparse.ops.view import OpView


def scale_axis(op: OpView) -> int:
    """The attribute `axis`, by default 1. Raises UnknownFact for an attribute of another type."""
    return op.number("axis", 1)


def scale_block(op: OpView) -> int:
    """Elements per scale, since version 21; 0 for one scale per tensor or per index."""
    return op.number("block_size", 0)


def linear(*, to_integers: bool) -> Scaling:
    """Scale and zero point of QuantizeLinear and DequantizeLinear."""
    return Scaling(to_integers=to_integers, scale=1, zero_point=2, axis=scale_axis, block=scale_block)


def couple_scaled(c: Coupling) -> None:
    """One scale per tensor, or one per index of an axis. Axes quantized in blocks are not cut."""
    axes = c.axes(0)
    for at in (1, 2):
        parameters = c.axes(at)
        if len(parameters) == 1 and axes:
            c.follow(at, 0, axes[c.op.axis(1, len(axes))])
        elif parameters:
            c.freeze_all(at, "holds the scales of blocks")
            c.freeze_all(0, "is quantized in blocks")
    c.emit(axes)


def couple_dynamic(c: Coupling) -> None:
    """One scale and one zero point, computed from all elements; both are outputs."""
    for labels in c.axes(0):
        c.crosses(labels, "a quantization range")
    for at, axes in enumerate((c.axes(0), (), ())):
        c.emit(axes, at)


# Work.FREE: a device that computes in integers applies a scale within the op that produces or reads the integers
SPECS = (
    *(
        OpSpec(
            op_type="DequantizeLinear",
            domain=d,
            since=s,
            channels=ChannelRules(couple=couple_scaled),
            quant=QuantRules(role=Quant.BOUNDARY, scaling=linear(to_integers=False)),
            shape=ShapeRules(view=View(), like="DequantizeLinear" if d else None, conflict=scaling),
            fold=FoldRules(allowed=False),
            cost=CostRules(work=Work.FREE),
        )
        for d, s in (("", 10), ("com.microsoft", 1))
    ),
    # not folded: the graph would lose the scale that belongs to the integers
    # a float weight that the graph quantizes, as in models from quantization-aware training, keeps its own zeros (View())
    *(
        OpSpec(
            op_type="QuantizeLinear",
            domain=d,
            since=s,
            channels=ChannelRules(couple=couple_scaled),
            quant=QuantRules(role=Quant.BOUNDARY, scaling=linear(to_integers=True)),
            shape=ShapeRules(view=View(), like="QuantizeLinear" if d else None, conflict=scaling),
            fold=FoldRules(allowed=False),
            cost=CostRules(work=Work.FREE),
        )
        for d, s in (("", 10), ("com.microsoft", 1))
    ),
    OpSpec(
        op_type="DynamicQuantizeLinear",
        since=11,
        channels=ChannelRules(couple=couple_dynamic, masked=mask_range),
        quant=QuantRules(dynamic=True),
    ),
)
