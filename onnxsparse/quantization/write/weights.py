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
class Sharing:
    """Which elements of a weight share a scale: all (axis None), those of one index along `axis`, or, with `block`, those of
    `block` indices in a row along `axis`, of which the weight has a multiple, at the same place of all other axes.
    """

    axis: int | None = None
    block: int | None = None

    def split(self, weight: Array) -> Array:
        """The weight with the indices of a block on an axis of their own, behind `axis`; without blocks, as it is."""
        if self.axis is None or self.block is None:
            return weight
        before, length, behind = weight.shape[: self.axis], weight.shape[self.axis], weight.shape[self.axis + 1 :]
        return weight.reshape(*before, length // self.block, self.block, *behind)

    def inner(self, rank: int) -> tuple[int, ...]:
        """The axes of a split weight with `rank` axes along which elements share a scale."""
        if self.axis is None:
            return tuple(range(rank))
        return tuple(i for i in range(rank) if i != self.axis) if self.block is None else (self.axis + 1,)

    def along(self, scale: Floats, rank: int) -> Floats:
        """Scales in a shape that broadcasts against a split weight with `rank` axes."""
        return np.expand_dims(scale, self.inner(rank)) if scale.ndim else scale.reshape((1,) * rank)

    def times(self, integers: Array, scale: Floats) -> Floats:
        """The values for which integers of a weight, or other numbers in its shape, stand."""
        split = self.split(integers)
        return (split.astype(np.float64) * self.along(scale, split.ndim)).reshape(integers.shape)

    def of_outputs(self, scale: Floats, axis: int | None) -> Floats:
        """The largest scale of each output channel, an index of `axis`, or of all (None); scales without blocks as they are."""
        if self.block is None:
            return scale
        found: Floats = scale.max(tuple(i for i in range(scale.ndim) if i != axis))
        return found


@dataclass(frozen=True)
class Quantized:
    """A quantized tensor. `scale`: one number, or one for each index or block along an axis, as `sharing` says."""

    integers: Array
    scale: Floats
    sharing: Sharing

    @property
    def zeros(self) -> int:
        """Integers that are 0."""
        return int(self.integers.size - np.count_nonzero(self.integers))


def magnitudes(weight: Array, sharing: Sharing) -> Floats:
    """The largest magnitude of the elements that share a scale."""
    split = sharing.split(weight)
    inner = sharing.inner(split.ndim)
    found: Floats = np.maximum(np.abs(split.min(inner)), np.abs(split.max(inner))).astype(np.float64)
    return found


def weight_scale(weight: Array, sharing: Sharing, grid: Grid) -> Floats:
    """The scales of a weight.

    Where all elements are zero, the scale is that of the whole tensor, since a bias needs one. For powers of two, the next
    smaller power is taken if it lowers the square error.
    """
    if not weight.size:
        return grid.scales(np.array(1.0))
    largest = magnitudes(weight, sharing)
    whole = largest.max(initial=0.0)
    scale = grid.scales(np.where(largest > 0, largest, whole if whole > 0 else grid.high * FINEST_BIAS))
    if grid.power_of_two:
        # the next smaller power clips the largest weights but halves the rounding error of all others
        halved = square_errors(weight, scale / 2, sharing, grid) < square_errors(weight, scale, sharing, grid)
        scale = np.where(halved, scale / 2, scale)
    return scale


def square_errors(weight: Array, scale: Floats, sharing: Sharing, grid: Grid) -> Floats:
    """Σ (weight − dequantized weight)² in the shape of `scale`."""
    split = sharing.split(weight)
    found = np.zeros(sharing.along(scale, split.ndim).shape)
    for part, step in parts(split, sharing.along(scale, split.ndim)):
        values: Floats = split[part].astype(np.float64)
        off = (grid.integers(values, step).astype(np.float64) * step - values) ** 2
        found[part if len(found) == len(split) else ...] += off.sum(sharing.inner(split.ndim), keepdims=True)
    return found.reshape(scale.shape)


def wide_enough(scale: Floats, bias: Floats, input_scale: float) -> Floats:
    """Weight scales, raised in channels where 32 bits would not hold the bias and the products.

    That concerns few channels, with very small weights. `bias`: real magnitudes, in the shape of `scale`.
    """
    held = np.float64(1.000001) * np.abs(bias) / (LARGEST_FITTED_BIAS * input_scale)
    # the bias's own scale, the product of input and weight scale, must not fall below SMALLEST_SCALE either
    return np.maximum(np.maximum(scale, held), SMALLEST_SCALE / input_scale)


def quantize_weight(weight: Array, scale: Floats, sharing: Sharing, grid: Grid) -> Quantized:
    """The integers of a weight, computed in parts along axis 0, since the float64 intermediates take 8 times their memory."""
    split = sharing.split(weight)
    found = np.empty(split.shape, grid.dtype)
    for part, step in parts(split, sharing.along(scale, split.ndim)):
        found[part] = grid.integers(split[part], step)
    return Quantized(found.reshape(weight.shape), scale, sharing)


def parts(weight: Array, step: Floats) -> Iterator[tuple[slice | tuple[()], Floats]]:
    """Slices of axis 0 with about PART_ELEMENTS elements each, and the part of `step`, which broadcasts against the weight.

    A scalar or empty tensor is one part, `()`.
    """
    if not weight.ndim or not weight.size:
        yield (), step
        return
    rows = max(1, PART_ELEMENTS * weight.shape[0] // weight.size)
    for start in range(0, weight.shape[0], rows):
        part = slice(start, start + rows)
        yield part, step[part] if len(step) == len(weight) else step


def quantize_bias(bias: Array, weight_scale: Floats, input_scale: float) -> Quantized:
    """32-bit integers of a bias with scale `input_scale` · `weight_scale`.

    `weight_scale` is one number, one per element of the bias, or one per output within a group (repeated over the groups).
    """
    scale = np.float64(input_scale) * weight_scale
    if scale.ndim and scale.size != bias.size:
        scale = np.tile(scale, bias.size // scale.size)
    scale = scale.astype(np.float32).astype(np.float64)
    integers = np.clip(np.rint(np.asarray(bias, np.float64) / scale), -LARGEST_BIAS, LARGEST_BIAS)
    return Quantized(integers.astype(np.int32), scale, Sharing(0 if scale.ndim else None))
