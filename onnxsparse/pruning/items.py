"""The items of a tensor that pruning zeroes: elements, blocks of elements, or all but N of every M along the input axis."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxsparse.analysis.stored_weights import StoredWeight, flat_parts, flat_zeros, is_real, real_values, zero_value
from onnxsparse.errors import ModelError
from onnxsparse.ir.weights import Array, Weights
from onnxsparse.pruning.select import FIRST_NOT_FINITE, Bits, Choice, Counts, Histogram, histogram

MAGNITUDE = np.uint32(0x7FFFFFFF)
"""Every bit of a float32 but the sign."""


def magnitude_bits(values: Array) -> Bits:
    """The bit patterns of |values| as float32, in the shape of `values`; as integers they order like the magnitudes."""
    bits: Bits = np.ascontiguousarray(values, np.float32).view(np.uint32) & MAGNITUDE
    return bits


@dataclass(frozen=True)
class Elements:
    """Items of one element each, in stored order. `size`: nonzero elements of the tensor."""

    weights: Weights
    stored: StoredWeight
    size: int

    def chunks(self) -> Iterator[tuple[int, Bits, Counts | None]]:
        """Parts of the tensor that fit the cache, as `select.Items` says; every item has one element, so no counts."""
        for start, part in real_parts(self.stored, self.weights):
            yield start, magnitude_bits(part), None

    def zeroed(self, choice: Choice) -> Iterator[Array]:
        """The tensor's stored elements in flat parts, with the chosen ones set to the stored value of zero (the zero point)."""
        zeros = flat_zeros(self.stored, self.weights)
        flat = self.weights[self.stored.name].reshape(-1)
        seen = 0
        for start, bits, _ in self.chunks():
            mask = choice.mask(bits, seen)
            seen += int(np.count_nonzero(bits == choice.bits))
            part = flat[start : start + bits.size].copy()
            part[mask] = zeros if zeros.ndim == 0 else zeros[start : start + bits.size][mask]
            yield part


def real_parts(stored: StoredWeight, weights: Weights) -> Iterator[tuple[int, Array]]:
    """(index of the first element, real values) of flat parts of a tensor that fit the cache; a quantized tensor is one part.

    A part is valid until the next one is requested.
    """
    if is_real(stored, weights):
        yield from flat_parts(weights, stored.name)
    else:
        yield 0, float32_values(stored, weights).reshape(-1)


def float32_values(stored: StoredWeight, weights: Weights) -> NDArray[np.float32]:
    """A tensor's real values as float32 in its own shape; those of a quantized tensor are dequantized."""
    return real_values(stored, weights).astype(np.float32, copy=False)


def full_zeros(stored: StoredWeight, weights: Weights) -> Array:
    """What stands for zero in a stored tensor, in its type and shape."""
    array = weights[stored.name]
    return np.broadcast_to(np.asarray(zero_value(stored, weights)).astype(array.dtype), array.shape)


@dataclass(frozen=True)
class Blocks:
    """Items of `rows` output × `columns` input channels at each kernel position; blocks at the edges are smaller.

    The magnitude of a block is the mean over its elements, so that smaller blocks at the edges compare with full ones.
    `size`: nonzero elements of the tensor. `output_axis`, `input_axis`: axes of the stored tensor.
    """

    weights: Weights
    stored: StoredWeight
    size: int
    rows: int
    columns: int
    output_axis: int
    input_axis: int

    def chunks(self) -> Iterator[tuple[int, Bits, Counts | None]]:
        """All blocks as one part, ordered by kernel position, block row and block column, with their nonzero elements."""
        matrix = np.abs(self._matrix(float32_values(self.stored, self.weights)))
        starts = (np.arange(0, matrix.shape[1], self.rows), np.arange(0, matrix.shape[2], self.columns))
        elements = self._sums(np.ones_like(matrix), starts)
        means = np.divide(self._sums(matrix, starts), elements)
        nonzeros: Counts = self._sums((matrix > 0).astype(np.int64), starts).reshape(-1).astype(np.int64)
        yield 0, magnitude_bits(means.reshape(-1)), nonzeros

    def zeroed(self, choice: Choice) -> Iterator[Array]:
        """The whole tensor, flat, with the chosen blocks set to the stored value of zero (the zero point)."""
        ((_, bits, _),) = self.chunks()
        array = self.weights[self.stored.name]
        view = self._matrix(array)
        positions, rows, columns = view.shape
        chosen = choice.mask(bits, 0).reshape(positions, -(-rows // self.rows), -(-columns // self.columns))
        mask = chosen.repeat(self.rows, axis=1)[:, :rows].repeat(self.columns, axis=2)[:, :, :columns]
        moved = self._moved_shape(array.shape)
        back = np.moveaxis(mask.reshape(moved), (-2, -1), (self.output_axis, self.input_axis))
        yield np.where(back, full_zeros(self.stored, self.weights), array).reshape(-1)

    def _matrix(self, values: Array) -> Array:
        """The tensor reshaped to kernel positions × outputs × inputs."""
        shaped = values.reshape(self.weights.shape(self.stored.name))
        moved = np.moveaxis(shaped, (self.output_axis, self.input_axis), (-2, -1))
        return moved.reshape(-1, *moved.shape[-2:])

    def _moved_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        rest = [size for axis, size in enumerate(shape) if axis not in (self.output_axis, self.input_axis)]
        return (*rest, shape[self.output_axis], shape[self.input_axis])

    def _sums(self, matrix: Array, starts: tuple[NDArray[np.intp], NDArray[np.intp]]) -> Array:
        summed: Array = np.add.reduceat(np.add.reduceat(matrix, starts[0], axis=1), starts[1], axis=2)
        return summed


def keep_n_of_m(weights: Weights, stored: StoredWeight, axis: int, keep: int, group: int) -> Array:
    """The stored tensor with all but the `keep` largest of every `group` consecutive elements along `axis` zeroed.

    The size of `axis` is a multiple of `group`. Elements that are zero count among those that are zeroed. Of equal magnitudes,
    the earlier is zeroed first.
    """
    array = weights[stored.name]
    magnitudes = np.moveaxis(np.abs(float32_values(stored, weights)), axis, -1)
    grouped = magnitudes.reshape(-1, group)
    order = np.argsort(grouped, axis=1, kind="stable")
    mask = np.zeros(grouped.shape, bool)
    np.put_along_axis(mask, order[:, : group - keep], True, axis=1)
    back = np.moveaxis(mask.reshape(magnitudes.shape), -1, axis)
    return np.where(back, full_zeros(stored, weights), array)


def finite_histogram(items: Elements | Blocks, node: str) -> Histogram:
    """The histogram of the items' magnitudes. `node` is named in the error. Raises ModelError for NaN or infinite elements."""
    found = histogram(items)
    if (found.bins >= FIRST_NOT_FINITE).any():
        raise ModelError(f"weight '{items.stored.name}' of node '{node}' has NaN or infinite elements; fix the model first")
    return found
