"""Ops on integers as what they stand for: DequantizeLinear of the operands, a float op, QuantizeLinear of its result.

Source: the ONNX operator pages of QLinearConv and QLinearMatMul, onnxruntime's ContribOperators for the others.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from onnxsparse.ops.view import OpView


@dataclass(frozen=True)
class Operand:
    """An input of integers, as the float op reads it.

    `scales`: the inputs whose product is its scale (a bias has that of the products it is added to); none: it is read as it is.
    `axis`: along which there are several.
    """

    at: int
    scales: tuple[int, ...] = ()
    zero_point: int | None = None
    axis: int | None = None


def triples(*ats: int) -> Callable[[OpView], tuple[Operand, ...]]:
    """Operands that have their scale and zero point right behind them."""
    return lambda op: tuple(triple(at) for at in ats)


def triple(at: int, axis: int | None = None) -> Operand:
    return Operand(at, (at + 1,), at + 2, axis)


@dataclass(frozen=True, kw_only=True)
class FloatForm:
    """`op_type` of `domain`: the float op. `result`: the inputs with the result's scale and zero point (None: it is a float).

    `without`: attributes that the float op has not. `when`: whether it stands for that op, told the model's opset.
    """

    op_type: str
    operands: Callable[[OpView], tuple[Operand, ...]]
    result: tuple[int, int] | None
    domain: str = ""
    without: tuple[str, ...] = ()
    when: Callable[[OpView, int], bool] = field(default=lambda op, opset: True)


def channels_first(op: OpView, opset: int) -> bool:
    return not op.number("channels_last", 0)
