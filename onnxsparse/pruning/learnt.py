"""Constants that were never learnt, such as fixed filters: pruning would change the function they implement."""

import math

import numpy as np

from onnxsparse.analysis.stored_weights import StoredWeight
from onnxsparse.ir.weights import Array, Weights

MAX_ELEMENTS = 1 << 20
"""Largest tensor that is examined; fixed filters are small, and examining large tensors would cost time."""

TOLERANCE = 1e-5
"""Relative tolerance, wide enough for a fixed filter that an exporter rounded."""


def why_not_learnt(weights: Weights, stored: StoredWeight, depthwise: bool) -> str | None:
    """Why a tensor looks like a fixed filter; None if it looks learnt, is not float, or is too large to examine.

    `depthwise`: the tensor has one filter per channel, so that a fixed one is repeated over the channels.
    """
    shape = weights.shape(stored.name)
    if math.prod(shape) > MAX_ELEMENTS or len(shape) < 2:
        return None
    array = weights[stored.name]
    if array.dtype.kind != "f":
        return None
    if not np.isfinite(array).all():
        return None  # items.finite_histogram refuses it later and names the node
    values = np.asarray(array, np.float64)
    if is_ramp(values):
        return "its weight is a ramp (as in a detector's distribution focal loss), not learnt"
    if is_selection(values):
        return "its weight only selects or moves channels (one 1 per row), not learnt"
    if depthwise and is_repeated(values):
        return "its weight is the same filter for every channel, not learnt"
    if is_symmetric_bank(values):
        return "its weight is a bank of symmetric filters (as of a blur or a Fourier transform), not learnt"
    return None


def close(a: Array, b: Array) -> bool:
    """Whether two arrays are equal within TOLERANCE of the largest magnitude in `b`."""
    return bool(np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * float(np.abs(b).max(initial=0))))


def is_ramp(values: np.ndarray) -> bool:
    """Whether all elements lie along one axis and rise or fall in equal steps (0, 1, 2, …), at least 4 of them."""
    flat = values.reshape(-1)
    if flat.size < 4 or flat.size != max(values.shape):
        return False
    steps = np.diff(flat)
    return bool(steps[0] != 0) and close(steps, np.full_like(steps, steps[0]))


def is_selection(values: np.ndarray) -> bool:
    """Whether a tensor of at least 4 elements holds only ones and zeros, at most one 1 per output, and two ones or more."""
    ones = values == 1
    if not np.all(ones | (values == 0)) or values.size < 4 or ones.all():
        return False
    rows = ones.reshape(values.shape[0], -1)
    return bool((rows.sum(axis=1) <= 1).all() and ones.sum() > 1)


def is_repeated(values: np.ndarray) -> bool:
    """Whether every output channel (axis 0) has the same filter; False for a single channel or a matrix."""
    return values.shape[0] > 1 and values.ndim > 2 and close(values, np.broadcast_to(values[:1], values.shape))


def is_symmetric_bank(values: np.ndarray) -> bool:
    """Whether every filter of a 1-D or 2-D convolution equals its mirror image or the negative of it.

    False for kernels shorter than 3, and for tensors of one constant value, which are symmetric without being filters.
    """
    if values.ndim < 3 or values.ndim > 4 or max(values.shape[2:]) < 3:
        return False
    filters = values.reshape(values.shape[0] * values.shape[1], *values.shape[2:])
    if np.all(filters == filters.flat[0]):
        return False
    return all(mirrors(f) for f in filters)


def mirrors(kernel: np.ndarray) -> bool:
    """Whether a kernel is symmetric or antisymmetric along every axis.

    The axis of symmetry is the centre or, as in a Fourier basis, element 0 of the kernel continued periodically.
    """
    for axis in range(kernel.ndim):
        flipped = np.flip(kernel, axis)
        turned = np.roll(flipped, 1, axis)
        if not any(close(kernel, other) for other in (flipped, -flipped, turned, -turned)):
            return False
    return True
