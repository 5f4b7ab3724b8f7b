"""Integer ops as the float op they stand for: DequantizeLinear per operand, the float op, QuantizeLinear of its result.

Source: the ONNX operator pages of QLinearConv and QLinearMatMul; onnxruntime's ContribOperators for the others.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from onnxsparse.ops.view import OpView


@dataclass(frozen=True)
class Operand:
    """An input of an integer op, as the float op reads it."""

    at: int
    """The input's position."""
    scales: tuple[int, ...] = ()
    """Inputs whose product is its scale; a bias has the scale of the products it is added to. Empty: the input is not quantized.
    """
    zero_point: int | None = None
    """Input with the integer that stands for zero. None: 0."""
    axis: int | None = None
    """Axis that the scale runs along if it has several elements. None: one scale per tensor."""


def triples(*ats: int) -> Callable[[OpView], tuple[Operand, ...]]:
    """A rule for operands that are each followed by their scale and zero point, as inputs at+1 and at+2."""
    return lambda op: tuple(triple(at) for at in ats)


def triple(at: int, axis: int | None = None) -> Operand:
    """The operand at input `at`, its scale at `at` + 1 and its zero point at `at` + 2."""
    return Operand(at, (at + 1,), at + 2, axis)


@dataclass(frozen=True, kw_only=True)
class FloatForm:
    """The float op that an integer op stands for."""

    op_type: str
    """The float op's name."""
    operands: Callable[[OpView], tuple[Operand, ...]]
    """Its inputs, in order."""
    result: tuple[int, int] | None
    """Inputs with the result's scale and zero point. None: the result is a float."""
    domain: str = ""
    """The float op's domain."""
    without: tuple[str, ...] = ()
    """Attributes of the integer op that the float op lacks."""
    when: Callable[[OpView, int], bool] = field(default=lambda op, opset: True)
    """(op, opset of the model) → whether the node stands for the float op at all."""


def channels_first(op: OpView, opset: int) -> bool:
    """Whether activations are N × C × positions, which the standard ops require; onnxruntime's may be channels last."""
    return not op.number("channels_last", 0)
