"""Recurrent layers. Every weight is used once per step and batch element; peepholes and gates' elementwise work are not counted.

Shapes per direction d: W is d × gates·hidden × input, R is d × gates·hidden × hidden. Source: the ONNX operator pages of
RNN, GRU and LSTM.
"""

from collections.abc import Callable
from functools import partial

from onnxsparse.ops.spec import OpSpec, OpView, WeightAxes, WeightSlot, product


def steps(op: OpView) -> int:
    """Sequence length × batch: the first two axes of X in either layout."""
    return product(op.input(0)[:2])


def operand_macs(op: OpView, at: int) -> int:
    return steps(op) * product(op.input(at))


def recurrent_macs(op: OpView) -> int:
    return operand_macs(op, 1) + operand_macs(op, 2)


def recurrent_axes(op: OpView) -> WeightAxes:
    return WeightAxes(output=1, input=2)


def slot(at: int) -> WeightSlot:
    macs: Callable[[OpView], int] = partial(operand_macs, at=at)
    return WeightSlot(at=at, axes=recurrent_axes, macs=macs)


def quantized_slot(at: int, scale: int, zero_point: int) -> WeightSlot:
    """DynamicQuantizeLSTM keeps W and R transposed: d × input × 4·hidden."""
    macs: Callable[[OpView], int] = partial(operand_macs, at=at)
    return WeightSlot(at=at, axes=lambda op: WeightAxes(output=2, input=1), macs=macs, scale=scale, zero_point=zero_point)


SPECS = (
    *(OpSpec(op_type=name, macs=recurrent_macs, weights=(slot(1), slot(2))) for name in ("LSTM", "GRU", "RNN")),
    OpSpec(
        op_type="DynamicQuantizeLSTM",
        domain="com.microsoft",
        macs=recurrent_macs,
        weights=(quantized_slot(1, scale=8, zero_point=9), quantized_slot(2, scale=10, zero_point=11)),
    ),
)
