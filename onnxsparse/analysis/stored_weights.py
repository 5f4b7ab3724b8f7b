"""From the input of an op back to the stored tensor it comes from, and where that tensor's zeros are."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxsparse.errors import ModelError
from onnxsparse.ir.functions import origin
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.weights import Array, Weights
from onnxsparse.ops import OpView, Packing, Scaling, find

MAX_CHAIN = 32
"""More views than this between a weight and its op are not followed."""

CHUNK = 1 << 18
"""Elements looked at at a time: a megabyte of float32, which stays in the cache."""

RELEASE_EVERY = 16
"""Chunks after which mapped pages are given back."""


@dataclass(frozen=True)
class StoredWeight:
    """A constant tensor as an op reads it, perhaps through Identity, Cast, Transpose or DequantizeLinear.

    `axes`: for each axis the op sees, the stored tensor's; None where a Reshape in between lost them. `scale` and
    `zero_point` name further constants, per tensor or along stored axis `quant_axis`, in blocks of `quant_block` (0: none).
    `quantized_later`: it is stored as floats, which become integers on their way (QAT); its zeros are the floats'.
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
        if self.packing is not None:
            return self.packing.outputs * self.packing.inputs
        return int(np.prod(weights.shape(self.name), dtype=object))


@dataclass(frozen=True)
class Resolver:
    """Follows constants through the graphs of one model. `opsets`: domain → imported version."""

    weights: Weights
    opsets: dict[str, int]

    def constant(self, graph: Graph, name: str) -> str | None:
        """The name in `weights` of an initializer or Constant that is `name` itself."""
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
        """The stored tensor behind `name`, None if `name` is computed."""
        chain: list[tuple[Graph, OpView]] = []
        for _ in range(MAX_CHAIN):
            key = self.constant(graph, name)
            if key is not None:
                return self._through(key, chain)
            made = graph.producer(name)
            if made is None:
                return None
            graph, index = made
            node = graph.proto.node[index]
            spec = find(node.domain, node.op_type, self.opsets.get(node.domain, 1))
            if spec is None or spec.shape.view is None or not node.input:
                return None
            chain.append((graph, OpView(node, (), ())))
            name = node.input[0]
        return None

    def _through(self, key: str, chain: list[tuple[Graph, OpView]]) -> StoredWeight:
        """The tensor `key` seen through the ops of `chain`, the last of which reads it."""
        rank = len(self.weights.shape(key))
        found = StoredWeight(key, tuple(range(rank)))
        for graph, op in reversed(chain):
            spec = find(op.node.domain, op.node.op_type, self.opsets.get(op.node.domain, 1))
            assert spec is not None and spec.shape.view is not None
            view = spec.shape.view
            found = replace(found, quantized_later=found.quantized_later or spec.quantizes)
            if spec.quant.scaling is not None and not found.quantized_later:
                found = self._scaled(found, graph, op, spec.quant.scaling)
            moved = view.axes(op, rank)
            axes = found.axes
            found = replace(found, axes=None if moved is None or axes is None else tuple(axes[a] for a in moved))
        return found

    def _scaled(self, found: StoredWeight, graph: Graph, op: OpView, scaling: Scaling) -> StoredWeight:
        """A tensor of integers with the scale that a node gives it."""
        scale, zero_point = (self._input(graph, op, at) for at in (scaling.scale, scaling.zero_point))
        if found.axes is None:
            # a Reshape lost the axes, but one scale is of all elements
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

    def _input(self, graph: Graph, op: OpView, at: int) -> str | None:
        return self.constant(graph, op.node.input[at]) if op.has_input(at) else None


def zero_value(stored: StoredWeight, weights: Weights) -> Array | int:
    """What stands for zero in the stored tensor: an integer, or an array that broadcasts against it."""
    if stored.zero_point is None or stored.zero_point not in weights:
        return 0
    points = weights[stored.zero_point]
    if not points.any():
        return 0
    return along_axis(points, stored, weights)


def flat_zeros(weights: Weights, stored: StoredWeight) -> Array:
    """What stands for zero: one value, or one per element where zero points differ."""
    array = weights[stored.name]
    zero = np.asarray(zero_value(stored, weights))
    if zero.size == 1:
        return zero.reshape(()).astype(array.dtype)
    return np.broadcast_to(zero, array.shape).reshape(-1).astype(array.dtype)


def step_size(stored: StoredWeight, weights: Weights) -> Array | float:
    """The real value of one integer step, as a number or an array that broadcasts against the stored tensor."""
    if stored.scale is None or stored.scale not in weights:
        return 1.0
    return along_axis(weights[stored.scale], stored, weights)


def is_real(stored: StoredWeight, weights: Weights) -> bool:
    """Whether a tensor's elements are its real values; the type's kind does not tell (V: bfloat16, and int4)."""
    return stored.scale is None and stored.zero_point is None and weights[stored.name].dtype.kind in "fV"


def real_values(stored: StoredWeight, weights: Weights) -> Array:
    """The floats that stored integers stand for, of their scale's type, as DequantizeLinear computes them."""
    array, step = weights[stored.name], np.asarray(step_size(stored, weights), None if stored.scale else np.float32)
    zero = np.asarray(zero_value(stored, weights))
    if array.dtype.itemsize > 2:
        array, zero = array.astype(np.int64) - zero.astype(np.int64), np.zeros(())  # float32 would round
    real: NDArray[np.float32] = array.astype(np.float32)
    real -= zero.astype(np.float32)
    real *= step.astype(np.float32)
    return real.astype(step.dtype, copy=False)


def along_axis(values: Array, stored: StoredWeight, weights: Weights) -> Array:
    """Per-tensor, per-channel or blocked quantization parameters, shaped to broadcast against the stored tensor."""
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
        # a recurrent layer has them for each of its directions, and perhaps outputs
        return values.reshape(shape[0], 1, -1)
    raise ModelError(f"'{stored.name}' of shape {list(shape)} has {values.size} scales or zero points along axis {axis}")


def count_zeros(stored: StoredWeight, weights: Weights) -> int:
    """Elements that stand for zero, among `stored.elements`."""
    if stored.packing is not None:
        return count_packed_zeros(stored, stored.packing, weights)
    zero = zero_value(stored, weights)
    array = weights[stored.name]
    if not isinstance(zero, int):
        return int(np.count_nonzero(array == zero))
    # comparing first is twice as fast as counting floats directly
    return sum(int(np.count_nonzero(part == 0)) for _, part in flat_parts(weights, stored.name))


def flat_parts(weights: Weights, name: str) -> Iterator[tuple[int, Array]]:
    """(first element, elements) of a tensor in stored order, in aligned parts that fit the cache; pages are given back.

    A part is valid until the next one is asked for.
    """
    flat = weights[name].reshape(-1)
    buffer = np.empty(min(CHUNK, flat.size), flat.dtype)
    for number, start in enumerate(range(0, flat.size, CHUNK)):
        part = flat[start : start + CHUNK]
        if not part.flags.aligned:
            # payloads start anywhere in a model file, and numpy is some seven times slower on what is not aligned
            moved = buffer[: part.size]
            moved.view(np.uint8)[:] = part.view(np.uint8)
            part = moved
        yield start, part
        if number % RELEASE_EVERY == RELEASE_EVERY - 1:
            weights.release(name)
    weights.release(name)


def count_packed_zeros(stored: StoredWeight, packing: Packing, weights: Weights) -> int:
    """Zeros of a weight stored as outputs × blocks × bytes, low bits first, zero point 2^(bits−1) unless given."""
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
    """The unsigned integers of `bits` bits in an array of bytes, low bits first."""
    flat = data.reshape(-1).view(np.uint8)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    unpacked: Array = ((flat[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)
    return unpacked
