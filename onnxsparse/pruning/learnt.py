"""Constants that were never learnt: pruning them would change what the model computes, not how well it does it."""

import numpy as np

from onnxsparse.analysis.stored_weights import StoredWeight
from onnxsparse.ir.weights import Array, Weights

MAX_ELEMENTS = 1 << 20
"""Fixed filters are small; larger tensors are not looked at."""

TOLERANCE = 1e-5
"""Relative; a fixed filter written in float16 by an exporter still counts."""


def why_not_learnt(weights: Weights, stored: StoredWeight, depthwise: bool) -> str | None:
    """The reason a tensor looks like a fixed filter, None if it looks learnt."""
    shape = weights.shape(stored.name)
    if np.prod(shape, dtype=object) > MAX_ELEMENTS or len(shape) < 2:
        return None
    array = weights[stored.name]
    if array.dtype.kind != "f":
        return None
    if not np.isfinite(array).all():
        return None  # refused later, by name
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
    return bool(np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * float(np.abs(b).max(initial=0))))


def is_ramp(values: np.ndarray) -> bool:
    """One output that weighs its inputs 0, 1, 2, … or in another even step."""
    flat = values.reshape(-1)
    if flat.size < 4 or flat.size != max(values.shape):
        return False
    steps = np.diff(flat)
    return bool(steps[0] != 0) and close(steps, np.full_like(steps, steps[0]))


def is_selection(values: np.ndarray) -> bool:
    """Ones and zeros with at most one 1 per output and some order to it: more than one element, not all ones."""
    ones = values == 1
    if not np.all(ones | (values == 0)) or values.size < 4 or ones.all():
        return False
    rows = ones.reshape(values.shape[0], -1)
    return bool((rows.sum(axis=1) <= 1).all() and ones.sum() > 1)


def is_repeated(values: np.ndarray) -> bool:
    return values.shape[0] > 1 and values.ndim > 2 and close(values, np.broadcast_to(values[:1], values.shape))


def is_symmetric_bank(values: np.ndarray) -> bool:
    """Every filter equals its mirror image, or its negative; not all alike, or constant weights would count as well."""
    if values.ndim < 3 or values.ndim > 4 or max(values.shape[2:]) < 3:
        return False
    filters = values.reshape(values.shape[0] * values.shape[1], *values.shape[2:])
    if np.all(filters == filters.flat[0]):
        return False
    return all(mirrors(f) for f in filters)


def mirrors(kernel: np.ndarray) -> bool:
    """Symmetric or antisymmetric along every axis, about the centre or, as a Fourier basis, with period one length."""
    for axis in range(kernel.ndim):
        flipped = np.flip(kernel, axis)
        turned = np.roll(flipped, 1, axis)
        if not any(close(kernel, other) for other in (flipped, -flipped, turned, -turned)):
            return False
    return True
