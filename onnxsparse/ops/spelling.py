"""Which form of an op an opset has, for code that adds nodes or changes element types.

Source: the ONNX operators' changelog.
"""

from dataclasses import dataclass

QUANTIZE_OPSET = 10
"""First opset with QuantizeLinear and DequantizeLinear."""

PER_CHANNEL_OPSET = 13
"""First opset whose DequantizeLinear takes one scale per index of an axis."""

ALL_WIDTHS_OPSET = 21
"""First opset whose QuantizeLinear and DequantizeLinear know 4 and 16 bits; before it, only those of com.microsoft do."""

CLIP_INPUTS_OPSET = 11
"""First opset whose Clip takes its bounds as inputs; before it, they are attributes."""

AXES_INPUT_OPSETS = {"ReduceSum": 13, "ReduceMax": 18, "ReduceMean": 18, "ReduceMin": 18}
"""Op → first opset in which its axes are an input; before it, they are an attribute."""

TYPE_ATTRIBUTES = frozenset(("to", "dtype", "output_dtype", "output_datatype"))
"""Attributes that hold the element type of a node's output."""


@dataclass(frozen=True)
class Clipping:
    """A node that limits its first input."""

    op_type: str
    """Relu or Clip."""
    inputs: dict[str, float]
    """Bounds to give as inputs 1, 2, in order."""
    attributes: dict[str, float]
    """Bounds to give as attributes."""


def clip_from_zero(end: float | None, opset: int) -> Clipping:
    """The node that limits values to 0 … `end` (None: no upper bound) at an opset of the standard domain."""
    if end is None:
        return Clipping("Relu", {}, {})
    bounds = {"min": 0.0, "max": end}
    return Clipping("Clip", {}, bounds) if opset < CLIP_INPUTS_OPSET else Clipping("Clip", bounds, {})


def has_axes_as_attribute(op_type: str, opset: int) -> bool:
    """Whether a reduction has its axes as an attribute, not as an input; False for other ops."""
    return opset < AXES_INPUT_OPSETS.get(op_type, 0)
