"""Linear ops as matrix products: columns of an activation, one for each output position, times rows of a weight.

An output position is a place where the op applies its weight once: a pixel of a convolution's output, a row of a MatMul. At each
position, output row r of group g is the sum of matrix[g, r, c] · columns[g, position, c], plus a bias.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product as combinations
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ops.shapes import windows
from onnxsparse.ops.sizes import UnknownFact
from onnxsparse.ops.view import OpView

Values = NDArray[np.generic]

Places = NDArray[np.int64]


class LinearForm(Protocol):
    """One weight of one node as a matrix. Weights are as the op reads them, activations as onnxruntime produces them."""

    @property
    def data_at(self) -> int:
        """The input that holds the activation."""

    @property
    def bias_at(self) -> int | None:
        """The input that is added to each output row. None: the op takes none."""

    @property
    def taps(self) -> int:
        """Columns of each input channel, which follow each other: kernel positions."""

    def matrix(self, weight: Values) -> Values:
        """The weight as groups × rows × columns."""

    def weight(self, matrix: Values, shape: tuple[int, ...]) -> Values:
        """The weight of a shape whose matrix is `matrix`: the inverse of `matrix`."""

    def positions(self, data: Values) -> int:
        """The number of output positions of an activation."""

    def columns(self, data: Values, places: Places) -> Values:
        """The columns at some output positions, as groups × places × columns."""


Form = Callable[[OpView], LinearForm]
"""The linear form of a node. Raises UnknownFact for what has none."""


@dataclass(frozen=True)
class WindowForm:
    """Ops that slide a kernel over an activation, N × C × positions. Columns are C/groups × kernel, in this order."""

    groups: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    """Padding before the first element of each axis."""
    outputs: tuple[int, ...]
    """Output positions along each axis."""
    data_at: int = 0
    bias_at: int | None = 2

    @property
    def taps(self) -> int:
        """Kernel positions."""
        return math.prod(self.kernel)

    def positions(self, data: Values) -> int:
        """Batch × output positions."""
        return int(data.shape[0]) * math.prod(self.outputs)

    def columns(self, data: Values, places: Places) -> Values:
        """The elements that meet the kernel at these output positions; zeros where none does."""
        batch, *at = np.unravel_index(places, (data.shape[0], *self.outputs))
        taps = np.array(list(combinations(*map(range, self.kernel))), np.int64).reshape(-1, len(self.kernel))
        found, inside = [], np.ones((places.size, taps.shape[0]), bool)
        for axis, position in enumerate(at):
            index, exists = self.met(axis, position[:, None], taps[:, axis])
            inside &= exists & (index >= 0) & (index < data.shape[2 + axis])
            found.append(np.clip(index, 0, data.shape[2 + axis] - 1))
        # places × taps × channels
        met: tuple[Any, ...] = (batch[:, None], slice(None), *found)
        picked = np.where(inside[:, :, None], data[met], 0)
        return grouped(picked, self.groups)

    def met(self, axis: int, position: Places, tap: Places) -> tuple[Places, NDArray[np.bool_]]:
        """The index along an axis that meets kernel position `tap` at output `position`, and whether there is one at all.

        Raises NotImplementedError: each kind of convolution defines it.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class ConvForm(WindowForm):
    """Conv: weight M × C/groups × kernel."""

    def met(self, axis: int, position: Places, tap: Places) -> tuple[Places, NDArray[np.bool_]]:
        """Output o takes input o · stride + k · dilation − begin."""
        index = position * self.strides[axis] + tap * self.dilations[axis] - self.begins[axis]
        return index, np.ones(index.shape, bool)

    def matrix(self, weight: Values) -> Values:
        """The weight as groups × M/groups × columns."""
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def weight(self, matrix: Values, shape: tuple[int, ...]) -> Values:
        """The inverse of `matrix`."""
        return matrix.reshape(shape)


@dataclass(frozen=True)
class ConvTransposeForm(WindowForm):
    """ConvTranspose: weight C × M/groups × kernel."""

    def met(self, axis: int, position: Places, tap: Places) -> tuple[Places, NDArray[np.bool_]]:
        """Output o takes input i where o + begin = i · stride + k · dilation."""
        reached = position + self.begins[axis] - tap * self.dilations[axis]
        return reached // self.strides[axis], reached % self.strides[axis] == 0

    def matrix(self, weight: Values) -> Values:
        """The weight as groups × M/groups × columns."""
        split = weight.reshape(self.groups, weight.shape[0] // self.groups, *weight.shape[1:])
        return np.moveaxis(split, 1, 2).reshape(self.groups, weight.shape[1], -1)

    def weight(self, matrix: Values, shape: tuple[int, ...]) -> Values:
        """The inverse of `matrix`."""
        split = matrix.reshape(self.groups, shape[1], shape[0] // self.groups, *shape[2:])
        return np.moveaxis(split, 2, 1).reshape(shape)


def grouped(picked: Values, groups: int) -> Values:
    """Places × taps × channels as groups × places × (channels of the group × taps)."""
    places, taps, channels = picked.shape
    split = picked.reshape(places, taps, groups, channels // groups)
    return split.transpose(2, 0, 3, 1).reshape(groups, places, -1)


@dataclass(frozen=True)
class ProductForm:
    """A matrix product with a constant side of two axes.

    `transposed`: whether the weight is columns × rows. `data_axis`: the axis of the activation that is summed over, counted from
    its end (−1 or −2).
    """

    transposed: bool
    data_at: int
    data_axis: int
    bias_at: int | None = None
    taps: int = 1

    def matrix(self, weight: Values) -> Values:
        """The weight as 1 × rows × columns."""
        found: Values = (weight.T if self.transposed else weight)[None]
        return found

    def weight(self, matrix: Values, shape: tuple[int, ...]) -> Values:
        """The inverse of `matrix`."""
        found: Values = matrix[0].T if self.transposed else matrix[0]
        return found

    def positions(self, data: Values) -> int:
        """The vectors that are multiplied."""
        return int(data.size // data.shape[self.data_axis])

    def columns(self, data: Values, places: Places) -> Values:
        """The vectors at these positions."""
        moved = np.moveaxis(data, self.data_axis, -1)
        found: Values = moved.reshape(-1, moved.shape[-1])[places][None]
        return found


@dataclass(frozen=True)
class GatesForm:
    """W of LSTM, GRU and RNN: directions × gates·hidden × input, on X: steps × batch × input, or batch first."""

    directions: int
    data_at: int = 0
    bias_at: int | None = None
    taps: int = 1

    def matrix(self, weight: Values) -> Values:
        """The weight as it is; each direction is a group."""
        return weight

    def weight(self, matrix: Values, shape: tuple[int, ...]) -> Values:
        """The inverse of `matrix`."""
        return matrix.reshape(shape)

    def positions(self, data: Values) -> int:
        """Steps × batch."""
        return int(data.size // data.shape[-1])

    def columns(self, data: Values, places: Places) -> Values:
        """The vectors of these steps, which both directions read."""
        vectors = data.reshape(-1, data.shape[-1])[places]
        return np.broadcast_to(vectors, (self.directions, *vectors.shape))


def conv_form(op: OpView) -> ConvForm:
    """Raises UnknownFact for a shape that is not fully known."""
    data, weight = op.input(0, least=3), op.input(1, rank=len(op.input(0, least=3)))
    kernel, axes = weight[2:], len(weight) - 2
    strides, dilations = (op.numbers(name, (1,) * axes) for name in ("strides", "dilations"))
    outputs = tuple(size for size in windows(op, data[2:], kernel) if size is not None)
    begins = begin_padding(op, data[2:], kernel, strides, dilations, outputs)
    return ConvForm(op.count("group", 1), tuple(kernel), tuple(strides), tuple(dilations), begins, outputs)


def begin_padding(
    op: OpView,
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    outputs: tuple[int, ...],
) -> tuple[int, ...]:
    """Padding before the first element of each axis of a convolution. Source: the ONNX operator page of Conv."""
    way = op.text("auto_pad", "NOTSET")
    if way == "VALID":
        return (0,) * len(sizes)
    if not way.startswith("SAME"):
        return tuple(op.numbers("pads", (0,) * 2 * len(sizes))[: len(sizes)])
    whole = [
        max((output - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        for output, stride, k, dilation, size in zip(outputs, strides, kernel, dilations, sizes, strict=True)
    ]
    return tuple((total + (way == "SAME_LOWER")) // 2 for total in whole)


def conv_transpose_form(op: OpView) -> ConvTransposeForm:
    """Raises UnknownFact for a shape that is not fully known, and for padding that follows from the output's size."""
    weight, made = op.input(1, least=3), op.output(least=3)
    axes = len(weight) - 2
    if "output_shape" in op.attributes or op.text("auto_pad", "NOTSET").startswith("SAME"):
        raise UnknownFact("its padding follows from the size of its output")
    strides, dilations = (op.numbers(name, (1,) * axes) for name in ("strides", "dilations"))
    begins = tuple(op.numbers("pads", (0,) * 2 * axes)[:axes]) if op.text("auto_pad", "NOTSET") != "VALID" else (0,) * axes
    return ConvTransposeForm(op.count("group", 1), tuple(weight[2:]), tuple(strides), tuple(dilations), begins, tuple(made[2:]))


def right_form(op: OpView) -> ProductForm:
    """B of MatMul, K × N. Raises UnknownFact for a weight of other than two axes, or a vector as the activation."""
    op.input(1, rank=2)
    if len(op.partial(0)) < 2:
        raise UnknownFact("its activation has one axis")
    return ProductForm(transposed=True, data_at=0, data_axis=-1)


def left_form(op: OpView) -> ProductForm:
    """A of MatMul, M × K. Raises UnknownFact for a weight of other than two axes, or a vector as the activation."""
    op.input(0, rank=2)
    if len(op.partial(1)) < 2:
        raise UnknownFact("its activation has one axis")
    return ProductForm(transposed=False, data_at=1, data_axis=-2)


def gemm_right_form(op: OpView) -> ProductForm:
    """B of Gemm, K × N or, transposed, N × K. Raises UnknownFact for an alpha or beta other than 1, and for a bias per row."""
    if op.real("alpha", 1.0) != 1 or op.real("beta", 1.0) != 1:
        raise UnknownFact("it scales its product or bias")
    bias = None if op.has_input(2) and tuple(op.input(2)) != (op.output(rank=2)[1],) else 2
    return ProductForm(
        transposed=not op.number("transB", 0), data_at=0, data_axis=-2 if op.number("transA", 0) else -1, bias_at=bias
    )
