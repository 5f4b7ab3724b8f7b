"""How ops are written at an opset, for those who add nodes to a graph or change types in it."""

from dataclasses import dataclass

QUANTIZE_OPSET = 10
"""The first that has QuantizeLinear and DequantizeLinear."""

PER_CHANNEL_OPSET = 13
"""The first whose DequantizeLinear takes a scale for each index of an axis."""

SIXTEEN_BIT_OPSET = 21
"""The first whose QuantizeLinear makes 16-bit integers; before, that of onnxruntime's own domain does."""

CLIP_INPUTS_OPSET = 11
"""The first whose Clip takes its bounds as inputs; before, they are attributes."""

AXES_INPUT_OPSETS = {"ReduceSum": 13, "ReduceMax": 18, "ReduceMean": 18, "ReduceMin": 18}
"""The first whose op takes its axes as an input; before, they are an attribute."""

TYPE_ATTRIBUTES = frozenset(("to", "dtype", "output_dtype", "output_datatype"))
"""Attributes that say which element type a node makes."""


@dataclass(frozen=True)
class Clipping:
    """A node that limits its first input. `inputs`: the bounds that follow it, in order; `attributes`: the others."""

    op_type: str
    inputs: dict[str, float]
    attributes: dict[str, float]


def clip_from_zero(end: float | None, opset: int) -> Clipping:
    """Limits values to 0 and `end` (None: no end) at an opset of the standard domain."""
    if end is None:
        return Clipping("Relu", {}, {})
    bounds = {"min": 0.0, "max": end}
    return Clipping("Clip", {}, bounds) if opset < CLIP_INPUTS_OPSET else Clipping("Clip", bounds, {})


def has_axes_as_attribute(op_type: str, opset: int) -> bool:
    """Whether a reduction has its axes as an attribute, not as an input; False for other ops."""
    return opset < AXES_INPUT_OPSETS.get(op_type, 0)
