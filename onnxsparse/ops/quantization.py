"""Quantize and dequantize: a constant that goes through keeps its elements; its zeros are where the zero point is."""

from onnxsparse.ops.coupling import Coupling
from onnxsparse.ops.facets import ChannelRules, CostRules, FoldRules, Quant, QuantRules, ShapeRules, View, Work
from onnxsparse.ops.masking import mask_range
from onnxsparse.ops.spec import OpSpec

DEQUANTIZE = View(scale=1, zero_point=2)


def couple_scaled(c: Coupling) -> None:
    """One scale for all, or one per index of an axis; blocks of an axis are not cut."""
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
    """One scale that follows from all elements, and one zero point; both are outputs."""
    for labels in c.axes(0):
        c.crosses(labels, "a range for quantization")
    for at, axes in enumerate((c.axes(0), (), ())):
        c.emit(axes, at)


# a device that computes in integers has no floats in between: a scale is part of what makes or reads the integers
SPECS = (
    *(
        OpSpec(
            op_type="DequantizeLinear",
            domain=d,
            since=s,
            channels=ChannelRules(couple=couple_scaled),
            quant=QuantRules(role=Quant.BOUNDARY),
            shape=ShapeRules(view=DEQUANTIZE, like="DequantizeLinear" if d else None),
            fold=FoldRules(allowed=False),
            cost=CostRules(work=Work.FREE),
        )
        for d, s in (("", 10), ("com.microsoft", 1))
    ),
    # folding would leave the integers without their quantizer, or the quantizer without its float weight
    # a float weight that is quantized in the graph, as in QAT models, has its zeros where the float ones are
    *(
        OpSpec(
            op_type="QuantizeLinear",
            domain=d,
            since=s,
            channels=ChannelRules(couple=couple_scaled),
            quant=QuantRules(role=Quant.BOUNDARY),
            shape=ShapeRules(view=View(), like="QuantizeLinear" if d else None),
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
