"""Scales and integers of weights and biases."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxsparse.ir.weights import Array
from onnxsparse.quantization.write.grid import SMALLEST_SCALE, Floats, Grid

LARGEST_BIAS = 2**31 - 1
"""Biases are 32-bit integers with the scale of the products to which they are added."""

LARGEST_FITTED_BIAS = 2**30
"""Largest integer of a bias for which scales are chosen; the other half of the range is for the sum of the products, which it
holds for 33 000 products of the largest 8-bit integers."""

PART_ELEMENTS = 1 << 20
"""Elements of a weight that are held as float64 at a time (8 MB)."""

FINEST_BIAS = 2.0**-24
"""Scale of weights that are all zero: their bias is then represented to the precision of a float32."""


@dataclass(frozen=True)
class Quantized:
    """A quantized tensor. `scale`: one number, or one for each index along `axis` (None: one number)."""

    integers: Array
    scale: Floats
    axis: int | None

    @property
    def zeros(self) -> int:
        """Integers that are 0."""
        return int(self.integers.size - np.count_nonzero(self.integers))


def magnitudes(weight: Array, axis: int | None) -> Floats:
    """The largest magnitude for each index along `axis`, or of the whole tensor (axis None, shape ())."""
    others = tuple(i for i in range(weight.ndim) if i != axis) if axis is not None else None
    low, high = weight.min(others), weight.max(others)
    found: Floats = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    return found


def weight_scale(weight: Array, axis: int | None, grid: Grid) -> Floats:
    """The scales of a weight: one for each index along `axis`, or one for the tensor (None).

    A channel of zeros gets the scale of the whole tensor, since its bias needs one. For powers of two, the next smaller power is
    taken if it lowers the square error.
    """
    if not weight.size:
        return grid.scales(np.array(1.0))
    largest = magnitudes(weight, axis)
    whole = largest.max(initial=0.0)
    scale = grid.scales(np.where(largest > 0, largest, whole if whole > 0 else grid.high * FINEST_BIAS))
    if grid.power_of_two:
        # the next smaller power clips the largest weights but halves the rounding error of all others
        halved = square_errors(weight, scale / 2, axis, grid) < square_errors(weight, scale, axis, grid)
        scale = np.where(halved, scale / 2, scale)
    return scale


def along(scale: Floats, axis: int | None, rank: int) -> Floats:
    """Scales reshaped so that they broadcast along `axis` of a tensor with `rank` axes."""
    return scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(rank)])


def square_errors(weight: Array, scale: Floats, axis: int | None, grid: Grid) -> Floats:
    """Σ (weight − dequantized weight)² in the shape of `scale`."""
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
    """Weight scales, raised in channels where 32 bits would not hold the bias and the products.

    That concerns few channels, with very small weights. `bias`: real magnitudes, in the shape of `scale`.
    """
    held = np.float64(1.000001) * np.abs(bias) / (LARGEST_FITTED_BIAS * input_scale)
    # the bias's own scale, the product of input and weight scale, must not fall below SMALLEST_SCALE either
    return np.maximum(np.maximum(scale, held), SMALLEST_SCALE / input_scale)


def quantize_weight(weight: Array, scale: Floats, axis: int | None, grid: Grid) -> Quantized:
    """The integers of a weight, computed in parts along axis 0, since the float64 intermediates take 8 times their memory."""
    step = along(scale, axis, weight.ndim)
    found = np.empty(weight.shape, grid.dtype)
    for part in parts(weight):
        found[part] = grid.integers(weight[part], step[part] if axis == 0 else step)
    return Quantized(found, scale, axis)


def parts(weight: Array) -> Iterator[slice | tuple[()]]:
    """Slices of axis 0 with about PART_ELEMENTS elements each; a scalar or empty tensor is one part, `()`."""
    if not weight.ndim or not weight.size:
        yield ()
        return
    rows = max(1, PART_ELEMENTS * weight.shape[0] // weight.size)
    yield from (slice(start, start + rows) for start in range(0, weight.shape[0], rows))


def quantize_bias(bias: Array, weight_scale: Floats, input_scale: float) -> Quantized:
    """32-bit integers of a bias with scale `input_scale` · `weight_scale`.

    `weight_scale` is one number, one per element of the bias, or one per output within a group (repeated over the groups).
    """
    scale = np.float64(input_scale) * weight_scale
    if scale.ndim and scale.size != bias.size:
        scale = np.tile(scale, bias.size // scale.size)
    scale = scale.astype(np.float32).astype(np.float64)
    integers = np.clip(np.rint(np.asarray(bias, np.float64) / scale), -LARGEST_BIAS, LARGEST_BIAS)
    return Quantized(integers.astype(np.int32), scale, 0 if scale.ndim else None)
