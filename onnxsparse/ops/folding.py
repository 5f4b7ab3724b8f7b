"""What an op can take in: a scale and shift per output channel, as batch normalisation behind a convolution computes.

    y = scale · (W x + b) + shift  =  (scale · W) x + (scale · b + shift)

Source: the ONNX operator pages of BatchNormalization, Conv, ConvTranspose and Gemm.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ops.spec import OpView

Values = NDArray[np.float64]


def normalisation(op: OpView, inputs: Sequence[Values]) -> tuple[Values, Values]:
    """Scale and shift of a BatchNormalization at inference, from gamma, beta, mean and variance."""
    gamma, beta, mean, variance = inputs
    epsilon = op.attributes["epsilon"].f if "epsilon" in op.attributes else 1e-5
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale


def is_inference(op: OpView) -> bool:
    """Not training, as an attribute since version 14 and as further outputs before."""
    return not op.number("training_mode", 0) and not any(op.node.output[1:])


def scale_conv(op: OpView, weight: Values, scale: Values) -> Values:
    """M × C/group × kernel: output channels first."""
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))


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
