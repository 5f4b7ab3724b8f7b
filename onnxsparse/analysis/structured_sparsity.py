"""Structured sparsity of weights: at most two nonzeros among every four consecutive inputs."""

from collections.abc import Iterable

import numpy as np

from onnxsparse.analysis.layer import Layer, WeightUse
from onnxsparse.analysis.stored_weights import zero_value
from onnxsparse.ir.weights import Weights

GROUP, KEPT = 4, 2


def two_of_four(found: Iterable[Layer], weights: Weights) -> bool | None:
    """Whether every weight of the layers is 2:4; None without weights, or if one cannot be or is not known (`conforms`)."""
    each = [conforms(use, weights) for layer in found for use in layer.weights]
    return None if None in each or not each else all(each)


def conforms(use: WeightUse, weights: Weights) -> bool | None:
    """Whether a weight is 2:4 along its input axis; None if values or axis are unknown, packed, or no multiple of four."""
    axes, stored = use.axes, use.stored.axes
    if axes is None or stored is None or use.stored.packing is not None or max(axes.input, axes.output) >= len(stored):
        return None
    axis = stored[axes.input]
    if use.zeros is None or weights.shape(use.tensor)[axis] % GROUP:
        return None
    if 2 * use.zeros < use.elements:
        return False
    nonzero = np.moveaxis(weights[use.tensor] != zero_value(use.stored, weights), axis, -1)
    most = np.count_nonzero(nonzero.reshape(-1, GROUP), axis=1).max(initial=0)
    return bool(most <= KEPT)
