"""What can be zeroed in a tensor: its elements, blocks of them, or all but N of every M along the input axis."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxsparse.analysis import stored_weights as constants
from onnxsparse.analysis.stored_weights import StoredWeight, flat_parts, flat_zeros, is_real, zero_value
from onnxsparse.errors import ModelError
from onnxsparse.ir.weights import Array, Weights
from onnxsparse.pruning.select import FIRST_NOT_FINITE, Bits, Choice, Counts, Histogram, histogram

MAGNITUDE = np.uint32(0x7FFFFFFF)


def magnitude_bits(values: Array) -> Bits:
    """|values| as float32, as bits, which order like the magnitudes."""
    bits: Bits = np.ascontiguousarray(values, np.float32).view(np.uint32) & MAGNITUDE
    return bits


@dataclass(frozen=True)
class Elements:
    """Every element of a tensor by itself, in the order they are stored."""

    weights: Weights
    stored: StoredWeight
    size: int

    def chunks(self) -> Iterator[tuple[int, Bits, Counts | None]]:
        for start, part in real_parts(self.weights, self.stored):
            yield start, magnitude_bits(part), None

    def zeroed(self, choice: Choice) -> Iterator[Array]:
        """The tensor's elements in parts, the chosen ones replaced by what stands for zero."""
        zeros = flat_zeros(self.weights, self.stored)
        flat = self.weights[self.stored.name].reshape(-1)
        seen = 0
        for start, bits, _ in self.chunks():
            mask = choice.mask(bits, seen)
            seen += int(np.count_nonzero(bits == choice.bits))
            part = flat[start : start + bits.size].copy()
            part[mask] = zeros if zeros.ndim == 0 else zeros[start : start + bits.size][mask]
            yield part


def real_parts(weights: Weights, stored: StoredWeight) -> Iterator[tuple[int, Array]]:
    """(first element, real values) of a tensor in parts that fit the cache; quantized ones are dequantized as a whole.

    A part is valid until the next one is asked for.
    """
    if is_real(stored, weights):
        yield from flat_parts(weights, stored.name)
    else:
        yield 0, real_values(weights, stored).reshape(-1)


def real_values(weights: Weights, stored: StoredWeight) -> NDArray[np.float32]:
    """A tensor's real values, in its shape."""
    found = weights[stored.name] if is_real(stored, weights) else constants.real_values(stored, weights)
    return found.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Blocks:
    """Blocks of `rows` output × `columns` input channels at each kernel position; edge blocks are smaller.

    A block's magnitude is the mean of its elements' magnitudes, so that small blocks compare.
    """

    weights: Weights
    stored: StoredWeight
    size: int
    rows: int
    columns: int
    output_axis: int
    input_axis: int

    def chunks(self) -> Iterator[tuple[int, Bits, Counts | None]]:
        matrix = np.abs(self._matrix(real_values(self.weights, self.stored)))
        starts = (np.arange(0, matrix.shape[1], self.rows), np.arange(0, matrix.shape[2], self.columns))
        elements = self._sums(np.ones_like(matrix), starts)
        means = np.divide(self._sums(matrix, starts), elements)
        nonzeros: Counts = self._sums((matrix > 0).astype(np.int64), starts).reshape(-1).astype(np.int64)
        yield 0, magnitude_bits(means.reshape(-1)), nonzeros

    def zeroed(self, choice: Choice) -> Iterator[Array]:
        ((_, bits, _),) = self.chunks()
        array = self.weights[self.stored.name]
        view = self._matrix(array)
        positions, rows, columns = view.shape
        chosen = choice.mask(bits, 0).reshape(positions, -(-rows // self.rows), -(-columns // self.columns))
        mask = chosen.repeat(self.rows, axis=1)[:, :rows].repeat(self.columns, axis=2)[:, :, :columns]
        moved = self._moved_shape(array.shape)
        back = np.moveaxis(mask.reshape(moved), (-2, -1), (self.output_axis, self.input_axis))
        zeros = np.broadcast_to(np.asarray(zero_value(self.stored, self.weights)).astype(array.dtype), array.shape)
        yield np.where(back, zeros, array).reshape(-1)

    def _matrix(self, values: Array) -> Array:
        """The tensor as kernel positions × outputs × inputs."""
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
    """The tensor with all but the `keep` largest of every `group` elements along stored `axis` zeroed.

    Elements that are zero already are the first to count as zeroed; ties go to the earlier element.
    """
    array = weights[stored.name]
    magnitudes = np.moveaxis(np.abs(real_values(weights, stored)), axis, -1)
    grouped = magnitudes.reshape(-1, group)
    order = np.argsort(grouped, axis=1, kind="stable")
    mask = np.zeros(grouped.shape, bool)
    np.put_along_axis(mask, order[:, : group - keep], True, axis=1)
    back = np.moveaxis(mask.reshape(magnitudes.shape), -1, axis)
    zeros = np.broadcast_to(np.asarray(zero_value(stored, weights)).astype(array.dtype), array.shape)
    return np.where(back, zeros, array)


def finite_histogram(items: Elements | Blocks, node: str) -> Histogram:
    """The items' histogram. Raises ModelError for a weight that is NaN or infinite."""
    found = histogram(items)
    if (found.bins >= FIRST_NOT_FINITE).any():
        raise ModelError(f"weight '{items.stored.name}' of node '{node}' has NaN or infinite elements; mend the model first")
    return found
