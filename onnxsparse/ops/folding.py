"""What an op can take in: a scale and shift per output channel, as batch normalisation behind a convolution computes, or
arithmetic with constants, which is how some exporters write batch normalisation and biases.

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
"""Of a node; None for the one that is no constant."""


def normalisation(op: OpView, inputs: Inputs, rank: int, channels: int) -> ScaleShift | None:
    """Of a BatchNormalization at inference, from gamma, beta, mean and variance."""
    gamma, beta, mean, variance = inputs[1:5]
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    epsilon = op.attributes["epsilon"].f if "epsilon" in op.attributes else 1e-5
    scale = gamma / np.sqrt(variance + epsilon)
    return ScaleShift(scale, beta - mean * scale)


def per_channel(constant: Values, rank: int, channels: int) -> Values | None:
    """A constant that broadcasts against a value of `rank` axes, as a number for each index of axis 1; None if it has others."""
    shape = [1] * (rank - constant.ndim) + list(constant.shape)
    if len(shape) > rank or constant.size not in (1, shape[1]):
        return None
    return np.broadcast_to(constant.reshape(-1), (channels,)) if constant.size in (1, channels) else None


def arithmetic(op: OpView, inputs: Inputs, rank: int, channels: int) -> ScaleShift | None:
    """Of Add, Sub, Mul and Div with a constant for each channel, or one for all."""
    first, second = inputs
    given = first if second is None else second
    constant = None if given is None else per_channel(given, rank, channels)
    if constant is None:
        return None
    return ARITHMETIC[op.node.op_type](constant, second is None)


def divide(constant: Values, first: bool) -> ScaleShift | None:
    return None if first or not constant.all() else ScaleShift(1 / constant, np.zeros_like(constant))


ARITHMETIC: dict[str, Callable[[Values, bool], ScaleShift | None]] = {
    "Add": lambda c, first: ScaleShift(np.ones_like(c), c),
    "Sub": lambda c, first: ScaleShift(-np.ones_like(c), c) if first else ScaleShift(np.ones_like(c), -c),
    "Mul": lambda c, first: ScaleShift(c, np.zeros_like(c)),
    "Div": divide,
}
"""(constant, whether it comes first) → what the op does to x."""


def is_numpy_like(op: OpView) -> bool:
    """Before version 7 broadcasting had rules of its own, in attributes."""
    return not op.attributes


def is_inference(op: OpView) -> bool:
    """Not training, as an attribute since version 14 and as further outputs before."""
    return not op.number("training_mode", 0) and not any(op.node.output[1:])


def scale_conv(op: OpView, weight: Values, scale: Values) -> Values:
    """M × C/group × kernel: output channels first."""
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))


def conv_outputs(op: OpView, weight: Size) -> int:
    return weight[0]


def conv_transpose_outputs(op: OpView, weight: Size) -> int:
    return weight[1] * op.number("group", 1)


def gemm_outputs(op: OpView, weight: Size) -> int:
    return weight[0 if op.number("transB", 0) else 1]


def scale_conv_transpose(op: OpView, weight: Values, scale: Values) -> Values:
    """C × M/group × kernel: each group of inputs makes its own M/group outputs."""
    group = op.number("group", 1)
    inputs, outputs, *kernel = weight.shape
    grouped = weight.reshape(group, inputs // group, outputs, *kernel)
    scaled = grouped * scale.reshape(group, 1, outputs, *[1] * len(kernel))
    return scaled.reshape(weight.shape)


def scale_gemm(op: OpView, weight: Values, scale: Values) -> Values:
    """K × N or, transposed, N × K."""
    return weight * (scale[:, None] if op.number("transB", 0) else scale)


def plain_gemm(op: OpView) -> bool:
    """Gemm's factors would scale the bias differently."""
    return all(op.attributes[name].f == 1 for name in ("alpha", "beta") if name in op.attributes)
