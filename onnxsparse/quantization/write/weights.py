"""Scales and integers of weights and biases."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxsparse.ir.weights import Array
from onnxsparse.quantization.write.grid import SMALLEST_SCALE, Floats, Grid

LARGEST_BIAS = 2**31 - 1
"""Biases are 32-bit integers with the scale of the products they are added to."""

LARGEST_FITTED_BIAS = 2**30
"""What scales are chosen for: the other half of the 32 bits is for the products, 33 000 of them at their largest."""

PART_ELEMENTS = 1 << 20
"""How much of a weight is held as float64 at a time."""

FINEST_BIAS = 2.0**-24
"""Of a bias that stands alone, on weights that are all zero: as fine as a float."""


@dataclass(frozen=True)
class Quantized:
    """Integers, and the scale of all of them or of each index along `axis`."""

    integers: Array
    scale: Floats
    axis: int | None

    @property
    def zeros(self) -> int:
        return int(self.integers.size - np.count_nonzero(self.integers))


def magnitudes(weight: Array, axis: int | None) -> Floats:
    """The largest magnitude, of all or of each index along `axis`."""
    others = tuple(i for i in range(weight.ndim) if i != axis) if axis is not None else None
    low, high = weight.min(others), weight.max(others)
    found: Floats = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    return found


def weight_scale(weight: Array, axis: int | None, grid: Grid) -> Floats:
    """The scales of a weight; a channel of zeros has its tensor's, since its bias still wants one."""
    if not weight.size:
        return grid.scales(np.array(1.0))
    largest = magnitudes(weight, axis)
    whole = largest.max(initial=0.0)
    scale = grid.scales(np.where(largest > 0, largest, whole if whole > 0 else grid.high * FINEST_BIAS))
    if grid.power_of_two:
        # the next smaller power clips the largest weights and halves the step of all others
        halved = square_errors(weight, scale / 2, axis, grid) < square_errors(weight, scale, axis, grid)
        scale = np.where(halved, scale / 2, scale)
    return scale


def along(scale: Floats, axis: int | None, rank: int) -> Floats:
    """Scales shaped to broadcast against a tensor of `rank` axes."""
    return scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(rank)])


def square_errors(weight: Array, scale: Floats, axis: int | None, grid: Grid) -> Floats:
    """Σ (weight − its integer's value)², of all or per channel."""
    step = along(scale, axis, weight.ndim)
    others = tuple(i for i in range(weight.ndim) if i != axis) if axis is not None else None
    found: Floats = np.zeros(scale.shape)
    for part in parts(weight):
        own = step[part] if axis == 0 else step
        values: Floats = weight[part].astype(np.float64)
        off = ((grid.integers(values, own).astype(np.float64) * own - values) ** 2).sum(others)
        found[part if axis == 0 else ...] += off
    return found


def wide_enough(scale: Floats, bias: Floats, input_scale: float) -> Floats:
    """Weight scales raised where 32 bits would not hold a bias and the products: in a few channels, of tiny weights."""
    held = np.float64(1.000001) * np.abs(bias) / (LARGEST_FITTED_BIAS * input_scale)
    # the bias's own scale, the product of both, is a float32 as well
    return np.maximum(np.maximum(scale, held), SMALLEST_SCALE / input_scale)


def quantize_weight(weight: Array, scale: Floats, axis: int | None, grid: Grid) -> Quantized:
    """Part by part along the first axis: what is computed on the way is eight times as large as the integers."""
    step = along(scale, axis, weight.ndim)
    found = np.empty(weight.shape, grid.dtype)
    for part in parts(weight):
        found[part] = grid.integers(weight[part], step[part] if axis == 0 else step)
    return Quantized(found, scale, axis)


def parts(weight: Array) -> Iterator[slice | tuple[()]]:
    """Stretches of the first axis that hold about `PART_ELEMENTS`."""
    if not weight.ndim or not weight.size:
        yield ()
        return
    rows = max(1, PART_ELEMENTS * weight.shape[0] // weight.size)
    yield from (slice(start, start + rows) for start in range(0, weight.shape[0], rows))


def quantize_bias(bias: Array, weight_scale: Floats, input_scale: float) -> Quantized:
    """Integers of scale `input_scale` · `weight_scale`, which is one number or repeats along the bias (groups)."""
    scale = np.float64(input_scale) * weight_scale
    if scale.ndim and scale.size != bias.size:
        scale = np.tile(scale, bias.size // scale.size)
    scale = scale.astype(np.float32).astype(np.float64)
    integers = np.clip(np.rint(np.asarray(bias, np.float64) / scale), -LARGEST_BIAS, LARGEST_BIAS)
    return Quantized(integers.astype(np.int32), scale, 0 if scale.ndim else None)
