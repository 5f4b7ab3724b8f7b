"""Stored tensors as ops use them: from an op's input back to the tensor in the file, its quantization, and its zeros."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxsparse.errors import ModelError
from onnxsparse.ir.functions import origin
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.weights import Array, Weights
from onnxsparse.ops import OpSpec, OpView, Packing, Scaling, UnknownFact, find

MAX_CHAIN = 32
"""Longest chain of views (Identity, Cast, Transpose, …) between a weight and its op that is followed."""

CHUNK = 1 << 18
"""Elements that are read at a time: a megabyte of float32, which stays in the processor's cache."""

RELEASE_EVERY = 16
"""Chunks after which mapped pages are released: 16 MB of float32 are resident at most."""


@dataclass(frozen=True)
class StoredWeight:
    """A constant tensor as an op reads it, possibly through views: Identity, Cast, Transpose, Reshape, DequantizeLinear.

    `name`: in the model's weights.
    `axes`: for each axis that the op sees, the axis of the stored tensor; None if a Reshape in between lost them.
    `scale`, `zero_point`: names of further constants, None if there are none. They are per tensor, or along the stored axis
    `quant_axis`, there in blocks of `quant_block` elements (0: one for each index).
    `packing`: layout of a weight of several elements in a byte; None for any other.
    `quantized_later`: whether it is stored as floats that the graph quantizes (QAT). Its zeros are then those of the floats.
    """

    name: str
    axes: tuple[int, ...] | None
    scale: str | None = None
    zero_point: str | None = None
    quant_axis: int = 0
    quant_block: int = 0
    packing: Packing | None = None
    quantized_later: bool = False

    def elements(self, weights: Weights) -> int:
        """The number of weight elements; in a packed tensor, without its padding."""
        if self.packing is not None:
            return self.packing.outputs * self.packing.inputs
        return int(np.prod(weights.shape(self.name), dtype=object))


@dataclass(frozen=True)
class Resolver:
    """Follows constants through the graphs of one model. `opsets`: domain → imported version."""

    weights: Weights
    opsets: dict[str, int]

    def constant(self, graph: Graph, name: str) -> str | None:
        """The name in `weights` of the initializer or Constant `name`, as seen from `graph`.

        None if it is an input or computed.
        """
        here: Graph | None = graph
        while here is not None:
            if name in here.initializers:
                return self._key(here, name, here.initializers[name])
            if name in here.producers:
                node = here.proto.node[here.producers[name]]
                value = next((a.t for a in node.attribute if a.name == "value"), None)
                return self._key(here, name, value) if node.op_type == "Constant" and value is not None else None
            here = here.parent
        return None

    def _key(self, graph: Graph, name: str, tensor: onnx.TensorProto) -> str | None:
        return self.weights.find(*(origin(tensor) or (graph.scope, name)))

    def resolve(self, graph: Graph, name: str) -> StoredWeight | None:
        """The stored tensor that `name` is a view of.

        None if it is an input or computed, or if a node on the way does not fit its op.
        """
        chain: list[tuple[Graph, OpView, OpSpec]] = []
        for _ in range(MAX_CHAIN):
            key = self.constant(graph, name)
            if key is not None:
                try:
                    return self._through(key, chain)
                except UnknownFact:
                    return None
            made = graph.producer(name)
            if made is None:
                return None
            graph, index = made
            node = graph.proto.node[index]
            spec = find(node.domain, node.op_type, self.opsets.get(node.domain, 1))
            if spec is None or spec.shape.view is None or not node.input:
                return None
            chain.append((graph, OpView(node, (), ()), spec))
            name = node.input[0]
        return None

    def _through(self, key: str, chain: list[tuple[Graph, OpView, OpSpec]]) -> StoredWeight:
        """The tensor `key` seen through the views in `chain`. The op reads the first of them; the last reads the tensor."""
        rank = len(self.weights.shape(key))
        found = StoredWeight(key, tuple(range(rank)))
        for graph, op, spec in reversed(chain):
            assert spec.shape.view is not None
            found = replace(found, quantized_later=found.quantized_later or spec.quantizes)
            if spec.quant.scaling is not None and not found.quantized_later:
                found = self._scaled(found, graph, op, spec.quant.scaling)
            moved = spec.shape.view.axes(op, rank)
            axes = found.axes
            found = replace(found, axes=None if moved is None or axes is None else tuple(axes[a] for a in moved))
        return found

    def _scaled(self, found: StoredWeight, graph: Graph, op: OpView, scaling: Scaling) -> StoredWeight:
        """A tensor of integers with the scale and zero point that a DequantizeLinear gives it."""
        scale, zero_point = (self.operand(graph, op, at) for at in (scaling.scale, scaling.zero_point))
        if found.axes is None:
            # a Reshape lost the axes, but a single scale applies to all elements
            single = [name for name in (scale, zero_point) if name is not None and np.prod(self.weights.shape(name)) == 1]
            return replace(found, scale=scale, zero_point=zero_point) if len(single) == 1 + (zero_point is not None) else found
        axis = scaling.axis(op) % max(len(found.axes), 1)
        return replace(
            found,
            scale=scale,
            zero_point=zero_point,
            quant_axis=found.axes[axis] if axis < len(found.axes) else 0,
            quant_block=scaling.block(op),
        )

    def operand(self, graph: Graph, op: OpView, at: int | None) -> str | None:
        """The name in `weights` of input `at` of a node of `graph`. None if there is none, or it is an input or computed."""
        return None if at is None or not op.has_input(at) else self.constant(graph, op.node.input[at])


def zero_value(stored: StoredWeight, weights: Weights) -> Array | int:
    """The stored value that represents zero: an integer, or an array that broadcasts against the stored tensor.

    Raises ModelError for zero points whose number fits no axis.
    """
    if stored.zero_point is None or stored.zero_point not in weights:
        return 0
    points = weights[stored.zero_point]
    if not points.any():
        return 0
    return along_axis(points, stored, weights)


def flat_zeros(stored: StoredWeight, weights: Weights) -> Array:
    """The stored value that represents zero: one element, or one for each element of the tensor, flattened.

    Raises ModelError for zero points whose number fits no axis.
    """
    array = weights[stored.name]
    zero = np.asarray(zero_value(stored, weights))
    if zero.size == 1:
        return zero.reshape(()).astype(array.dtype)
    return np.broadcast_to(zero, array.shape).reshape(-1).astype(array.dtype)


def step_size(stored: StoredWeight, weights: Weights) -> Array | float:
    """The real value of one integer step: a number, or an array that broadcasts against the stored tensor. 1 without a scale.

    Raises ModelError for scales whose number fits no axis.
    """
    if stored.scale is None or stored.scale not in weights:
        return 1.0
    return along_axis(weights[stored.scale], stored, weights)


def is_real(stored: StoredWeight, weights: Weights) -> bool:
    """Whether the stored elements are the weight's real values.

    dtype.kind does not decide: it is V for bfloat16 and int4 alike.
    """
    return stored.scale is None and stored.zero_point is None and weights[stored.name].dtype.kind in "fV"


def real_values(stored: StoredWeight, weights: Weights) -> Array:
    """The real values of a stored tensor in its own shape: its elements, or the floats that its integers represent.

    The latter are computed as DequantizeLinear does, in the type of their scale (float32 without one). Raises ModelError for
    scales or zero points whose number fits no axis.
    """
    if is_real(stored, weights):
        return weights[stored.name]
    array, step = weights[stored.name], np.asarray(step_size(stored, weights), None if stored.scale else np.float32)
    zero = np.asarray(zero_value(stored, weights))
    if array.dtype.itemsize > 2:
        array, zero = array.astype(np.int64) - zero.astype(np.int64), np.zeros(())  # float32 would round large integers
    real: NDArray[np.float32] = array.astype(np.float32)
    real -= zero.astype(np.float32)
    real *= step.astype(np.float32)
    return real.astype(step.dtype, copy=False)


def along_axis(values: Array, stored: StoredWeight, weights: Weights) -> Array:
    """Quantization parameters (per tensor, per channel or blocked) in a shape that broadcasts against the stored tensor.

    Raises ModelError if their number fits neither the axis nor one of the special layouts.
    """
    shape = weights.shape(stored.name)
    if values.size == 1:
        return values.reshape(())
    if stored.quant_block and values.ndim == len(shape):
        repeated: Array = np.repeat(values, stored.quant_block, axis=stored.quant_axis)
        return np.take(repeated, range(shape[stored.quant_axis]), axis=stored.quant_axis)
    axis, rank = stored.quant_axis, len(shape)
    if values.ndim == rank > 1 and all(size in (1, whole) for size, whole in zip(values.shape, shape, strict=True)):
        return values
    if axis < rank and values.size == shape[axis]:
        return values.reshape([-1 if i == axis else 1 for i in range(rank)])
    if axis == rank - 1 == 2 and values.shape in (shape[:1], (shape[0], shape[axis])):
        # a recurrent layer has parameters for each direction, or for each direction and output
        return values.reshape(shape[0], 1, -1)
    raise ModelError(f"'{stored.name}' of shape {list(shape)} has {values.size} scales or zero points along axis {axis}")


def count_zeros(stored: StoredWeight, weights: Weights) -> int:
    """The number of elements that represent zero. It reads the whole tensor.

    Raises ModelError for zero points whose number fits no axis.
    """
    if stored.packing is not None:
        return count_packed_zeros(stored, stored.packing, weights)
    zero = zero_value(stored, weights)
    array = weights[stored.name]
    if not isinstance(zero, int):
        return int(np.count_nonzero(array == zero))
    # count_nonzero of a comparison takes half the time of count_nonzero of floats
    return sum(int(np.count_nonzero(part == 0)) for _, part in flat_parts(weights, stored.name))


def flat_parts(weights: Weights, name: str) -> Iterator[tuple[int, Array]]:
    """(index of the first element, elements) of consecutive parts of a flattened tensor, aligned and small enough for the cache.

    A part is valid until the next one is requested. Mapped pages are released on the way.
    """
    flat = weights[name].reshape(-1)
    buffer = np.empty(min(CHUNK, flat.size), flat.dtype)
    for number, start in enumerate(range(0, flat.size, CHUNK)):
        part = flat[start : start + CHUNK]
        if not part.flags.aligned:
            # a payload may start at any byte of a file, and numpy is about seven times slower on unaligned data
            moved = buffer[: part.size]
            moved.view(np.uint8)[:] = part.view(np.uint8)
            part = moved
        yield start, part
        if number % RELEASE_EVERY == RELEASE_EVERY - 1:
            weights.release(name)
    weights.release(name)


def count_packed_zeros(stored: StoredWeight, packing: Packing, weights: Weights) -> int:
    """The number of zeros in a packed weight; its padding does not count.

    Its shape is outputs × blocks × bytes, low bits first; the zero point is 2^(bits−1), or one for each block if given. If the
    packing has codes of zero, the weight is flattened, high bits first.
    """
    if packing.zeros:
        pairs = unpack_bits(weights[stored.name], packing.bits).reshape(-1, 8 // packing.bits)
        return int(np.isin(pairs[:, ::-1].reshape(-1)[: packing.outputs * packing.inputs], packing.zeros).sum())
    blocks = -(-packing.inputs // packing.block)
    values = unpack_bits(weights[stored.name], packing.bits).reshape(packing.outputs, blocks * packing.block)
    middle: Array | int = 1 << packing.bits - 1
    if stored.zero_point is not None:
        points = weights[stored.zero_point]
        if points.dtype == np.uint8:
            rows = unpack_bits(points, packing.bits).reshape(packing.outputs, -1)[:, :blocks]
        else:
            rows = points.reshape(packing.outputs, blocks)
        middle = np.repeat(rows, packing.block, axis=1)
    return int(np.count_nonzero((values == middle)[:, : packing.inputs]))


def unpack_bits(data: Array, bits: int) -> Array:
    """The unsigned integers of `bits` bits each in an array of bytes, low bits first, flattened."""
    flat = data.reshape(-1).view(np.uint8)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    unpacked: Array = ((flat[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)
    return unpacked
