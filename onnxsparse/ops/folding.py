"""Formulas for folding a scale and shift per output channel into a linear op: a batch normalisation downstream of a convolution,
or arithmetic with constants, which is how some exporters write batch normalisation and biases.

    y = scale · (W x + b) + shift  =  (scale · W) x + (scale · b + shift)

Source: the ONNX operator pages of Add, BatchNormalization, Conv, ConvTranspose, Div, Gemm, Mul and Sub.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ops.facets import ScaleShift
from onnxsparse.ops.sizes import Size
from onnxsparse.ops.view import OpView

Values = NDArray[np.float64]
Inputs = Sequence[Values | None]
"""A node's inputs in float64; None for the input that is not constant."""


def normalisation(op: OpView, inputs: Inputs, rank: int, channels: int) -> ScaleShift | None:
    """Scale gamma / sqrt(variance + ε) and shift beta − mean · scale of BatchNormalization at inference. None if a parameter
    is not constant.
    """
    gamma, beta, mean, variance = inputs[1:5]
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    scale = gamma / np.sqrt(variance + op.real("epsilon", 1e-5))
    return ScaleShift(scale, beta - mean * scale)


def per_channel(constant: Values, rank: int, channels: int) -> Values | None:
    """A constant that broadcasts against a value of `rank` axes, as one number per index of axis 1. None if it varies along
    other axes.
    """
    shape = [1] * (rank - constant.ndim) + list(constant.shape)
    if len(shape) > rank or constant.size not in (1, shape[1]):
        return None
    return np.broadcast_to(constant.reshape(-1), (channels,)) if constant.size in (1, channels) else None


def arithmetic(op: OpView, inputs: Inputs, rank: int, channels: int) -> ScaleShift | None:
    """Scale and shift of Add, Sub, Mul and Div with a constant per channel, or one for all. None otherwise."""
    first, second = inputs
    given = first if second is None else second
    constant = None if given is None else per_channel(given, rank, channels)
    if constant is None:
        return None
    return ARITHMETIC[op.node.op_type](constant, second is None)


def divide(constant: Values, first: bool) -> ScaleShift | None:
    """x / constant. None if the constant is the dividend, or contains 0."""
    return None if first or not constant.all() else ScaleShift(1 / constant, np.zeros_like(constant))


ARITHMETIC: dict[str, Callable[[Values, bool], ScaleShift | None]] = {
    "Add": lambda c, first: ScaleShift(np.ones_like(c), c),
    "Sub": lambda c, first: ScaleShift(-np.ones_like(c), c) if first else ScaleShift(np.ones_like(c), -c),
    "Mul": lambda c, first: ScaleShift(c, np.zeros_like(c)),
    "Div": divide,
}
"""Op → (constant, whether it is the first operand) → what the op does to x."""


def is_numpy_like(op: OpView) -> bool:
    """Whether broadcasting follows numpy: before version 7 an attribute set it."""
    return not op.attributes


def is_inference(op: OpView) -> bool:
    """Whether a BatchNormalization is not in training mode, which is an attribute since version 14 and shown by further
    outputs before.
    """
    return not op.number("training_mode", 0) and not any(op.node.output[1:])


def scale_conv(op: OpView, weight: Values, scale: Values) -> Values:
    """Weight M × C/group × kernel: scaled along axis 0."""
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))


def conv_outputs(op: OpView, weight: Size) -> int:
    """Output channels of a weight M × C/group × kernel."""
    return weight[0]


def conv_transpose_outputs(op: OpView, weight: Size) -> int:
    """Output channels of a weight C × M/group × kernel."""
    return weight[1] * op.number("group", 1)


def gemm_outputs(op: OpView, weight: Size) -> int:
    """Output channels of a weight K × N, or N × K if transposed."""
    return weight[0 if op.number("transB", 0) else 1]


def scale_conv_transpose(op: OpView, weight: Values, scale: Values) -> Values:
    """Weight C × M/group × kernel: each group of inputs has its own M/group outputs."""
    group = op.number("group", 1)
    inputs, outputs, *kernel = weight.shape
    grouped = weight.reshape(group, inputs // group, outputs, *kernel)
    scaled = grouped * scale.reshape(group, 1, outputs, *[1] * len(kernel))
    return scaled.reshape(weight.shape)


def scale_gemm(op: OpView, weight: Values, scale: Values) -> Values:
    """Weight K × N, or N × K if transposed: scaled along N."""
    return weight * (scale[:, None] if op.number("transB", 0) else scale)


def plain_gemm(op: OpView) -> bool:
    """Whether alpha and beta are 1; other values would scale the folded bias differently from the product."""
    return op.real("alpha", 1.0) == op.real("beta", 1.0) == 1
