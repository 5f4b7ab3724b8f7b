"""Convolutions. A Conv uses each weight once per output position, a ConvTranspose once per input position.

Padding is counted, bias is not. Source: the ONNX operator pages of Conv, ConvTranspose, ConvInteger, QLinearConv and
DeformConv; onnxruntime's ContribOperators for the com.microsoft ones.
"""

from functools import partial

from onnxsparse.ops.folding import scale_conv, scale_conv_transpose
from onnxsparse.ops.spec import Absorb, OpSpec, OpView, WeightAxes, WeightSlot, product


def conv_macs(op: OpView, weight: int = 1) -> int:
    """Weight elements × batch × output positions. Weight: M × C/group × kernel; output: N × M × positions."""
    batch, _, *positions = op.output()
    return product(op.input(weight)) * batch * product(tuple(positions))


def conv_transpose_macs(op: OpView) -> int:
    """Weight elements × batch × input positions. Weight: C × M/group × kernel; input: N × C × positions."""
    batch, _, *positions = op.input(0)
    return product(op.input(1)) * batch * product(tuple(positions))


def nhwc_conv_macs(op: OpView, weight: int) -> int:
    """As `conv_macs` with channels last in activations when `channels_last` is set: output N × positions × M."""
    if not op.number("channels_last", 0):
        return conv_macs(op, weight)
    batch, *positions, _ = op.output()
    return product(op.input(weight)) * batch * product(tuple(positions))


def conv_axes(op: OpView) -> WeightAxes:
    return WeightAxes(output=0, input=1)


def conv_transpose_axes(op: OpView) -> WeightAxes:
    return WeightAxes(output=1, input=0)


def is_depthwise(op: OpView, weight: int = 1) -> bool:
    """One input channel per group, and more than one group."""
    return op.number("group", 1) > 1 and op.input(weight)[1] == 1


def is_depthwise_transpose(op: OpView) -> bool:
    return op.number("group", 1) == op.input(1)[0] > 1


KERNEL = WeightSlot(at=1, axes=conv_axes)

SPECS = (
    OpSpec(
        op_type="Conv",
        macs=conv_macs,
        weights=(KERNEL,),
        depthwise=is_depthwise,
        absorb=Absorb(weight_at=1, bias_at=2, scale=scale_conv),
    ),
    OpSpec(
        op_type="ConvTranspose",
        macs=conv_transpose_macs,
        weights=(WeightSlot(at=1, axes=conv_transpose_axes),),
        depthwise=is_depthwise_transpose,
        absorb=Absorb(weight_at=1, bias_at=2, scale=scale_conv_transpose),
    ),
    OpSpec(op_type="DeformConv", since=19, macs=conv_macs, weights=(KERNEL,), depthwise=is_depthwise),
    OpSpec(
        op_type="ConvInteger",
        since=10,
        macs=conv_macs,
        weights=(WeightSlot(at=1, axes=conv_axes, zero_point=3),),
        depthwise=is_depthwise,
    ),
    OpSpec(
        op_type="QLinearConv",
        since=10,
        macs=partial(conv_macs, weight=3),
        weights=(WeightSlot(at=3, axes=conv_axes, zero_point=5, scale=4),),
        depthwise=partial(is_depthwise, weight=3),
    ),
    OpSpec(
        op_type="QLinearConv",
        domain="com.microsoft",
        macs=partial(nhwc_conv_macs, weight=3),
        weights=(WeightSlot(at=3, axes=conv_axes, zero_point=5, scale=4),),
        depthwise=partial(is_depthwise, weight=3),
    ),
    OpSpec(op_type="FusedConv", domain="com.microsoft", like="Conv", macs=conv_macs, weights=(KERNEL,), depthwise=is_depthwise),
)
