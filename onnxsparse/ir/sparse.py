"""Sparse tensors: dense in memory, so that every pass sees one kind of tensor, and sparse again in the saved file.

1. When a model is parsed, each sparse initializer and each `sparse_value` of a Constant becomes a dense tensor with a mark.
2. When it is saved, a marked tensor whose elements are unchanged is written as the original sparse tensor.
3. If elements changed, the nonzero elements are written, with the same kind of indices as before.
4. If that is no smaller than the dense tensor, the dense tensor is written.
"""

import math
import secrets
from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, SparseTensorProto, TensorProto, numpy_helper

from onnxsparse.errors import ModelError
from onnxsparse.ir.functions import every_node
from onnxsparse.ir.protos import replace_all
from onnxsparse.ir.weights import Array, Weights, bodies, element_dtype

MARK = f"sparse-{secrets.token_hex(8)}"
"""Metadata key of a dense tensor that was sparse in the file. Random for each process, so that no file can contain it."""

MAX_DENSE_BYTES = (1 << 31) - 1
"""Largest dense tensor in bytes. No runtime reads a larger one from a model file."""

INDEX_BYTES = 8
"""Size of one stored index: indices are int64."""


def densify(proto: onnx.ModelProto, weights: Weights) -> None:
    """Replace the sparse tensors of `proto` by dense ones; `weights` indexes the same proto.

    Sparse tensors of strings stay, because no layer computes with them. Raises ModelError for a damaged tensor, or one that is
    larger than 2 GB as a dense tensor.
    """
    found: list[tuple[TensorProto, Array]] = []
    for graph in every_graph(proto):
        taken = [sparse for sparse in graph.sparse_initializer if is_numeric(sparse)]
        if taken:
            replace_all(graph.sparse_initializer, [sparse for sparse in graph.sparse_initializer if not is_numeric(sparse)])
        for sparse in taken:
            array = dense_values(sparse.values.name, sparse, weights)
            found.append((marked(graph.initializer.add(name=sparse.values.name), sparse, weights), array))
    for node, attribute in sparse_constants(proto):
        sparse = SparseTensorProto()
        sparse.CopyFrom(attribute.sparse_tensor)
        array = dense_values(node.output[0], sparse, weights)
        attribute.ClearField("sparse_tensor")
        attribute.name, attribute.type = "value", AttributeProto.TENSOR
        found.append((marked(attribute.t, sparse, weights), array))
    for tensor, array in found:
        weights.fill(tensor, array)
    if found:
        weights.refresh()


def is_numeric(sparse: SparseTensorProto) -> bool:
    """Whether a sparse tensor holds numbers, not strings."""
    return sparse.values.data_type != TensorProto.STRING


def every_graph(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    """The main graph, and every body in it and in functions."""
    inside = [g for function in proto.functions for node in function.node for a in node.attribute for g in bodies(a)]
    found = [proto.graph, *inside]
    for graph in found:
        found += [body for node in graph.node for a in node.attribute for body in bodies(a)]
    return found


def sparse_constants(proto: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, AttributeProto]]:
    """(node, attribute) of every Constant with a numeric `sparse_value`."""
    for node in every_node(proto):
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("sparse_tensor") and is_numeric(attribute.sparse_tensor):
                yield node, attribute


def marked(tensor: TensorProto, sparse: SparseTensorProto, weights: Weights) -> TensorProto:
    """Give `tensor` the shape and type of `sparse`, and a mark that refers to it; `weights.sparse` keeps the original."""
    tensor.dims[:] = sparse.dims
    tensor.data_type = sparse.values.data_type
    tensor.metadata_props.add(key=MARK, value=str(len(weights.sparse)))
    weights.sparse.append(sparse)
    return tensor


def dense_values(name: str, sparse: SparseTensorProto, weights: Weights) -> Array:
    """The elements of a sparse tensor as a dense array. `name` is for messages.

    Raises ModelError if values and indices do not fit the shape, or the array would be larger than 2 GB.
    """
    shape = tuple(sparse.dims)
    size = math.prod(shape)
    values = weights.read(name, sparse.values).reshape(-1)
    if any(length < 0 for length in shape) or size * values.dtype.itemsize > MAX_DENSE_BYTES:
        raise ModelError(f"sparse tensor '{name}' of shape {list(shape)} is larger than 2 GB with its zeros")
    dense = np.zeros(size, values.dtype)
    dense[linear_indices(name, sparse, weights.read(name, sparse.indices), values.size)] = values
    return dense.reshape(shape)


def linear_indices(name: str, sparse: SparseTensorProto, stored: Array, count: int) -> NDArray[np.int64]:
    """Positions of the `count` stored values in the flattened tensor.

    `stored`: linear indices of shape [count], or coordinates of shape [count, rank]. Raises ModelError for another shape or type,
    and for an index outside of the tensor.
    """
    shape = tuple(sparse.dims)
    if stored.shape not in ((count,), (count, len(shape))) or stored.dtype.kind not in "iu":
        raise ModelError(f"sparse tensor '{name}' has {count} values and indices of shape {list(stored.shape)}")
    given = stored.astype(np.int64)
    limits = np.array(math.prod(shape) if given.ndim == 1 else shape, np.int64)
    if (given < 0).any() or (given >= limits).any():
        raise ModelError(f"sparse tensor '{name}' of shape {list(shape)} has an index outside of it")
    if given.ndim == 1:
        return given
    return np.ravel_multi_index(tuple(given.T), shape).astype(np.int64) if shape else np.zeros(count, np.int64)


def restore(proto: onnx.ModelProto, weights: Weights) -> None:
    """Make every marked tensor of `proto` sparse again, unless it is smaller as a dense one, and remove the marks.

    `proto` is a copy of the one that `weights` indexes.
    """
    for graph in every_graph(proto):
        made = {tensor.name: sparse_form(tensor, weights) for tensor in graph.initializer if is_marked(tensor)}
        sparse = [found for found in made.values() if found is not None]
        if sparse:
            gone = {found.values.name for found in sparse}
            replace_all(graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in gone])
            graph.sparse_initializer.extend(sparse)
    for node in every_node(proto):
        for attribute in node.attribute:
            found = sparse_form(attribute.t, weights) if attribute.HasField("t") and is_marked(attribute.t) else None
            if found is not None:
                attribute.ClearField("t")
                attribute.name, attribute.type = "sparse_value", AttributeProto.SPARSE_TENSOR
                attribute.sparse_tensor.CopyFrom(found)
    unmark(proto)


def unmark(proto: onnx.ModelProto) -> None:
    """Remove the marks: tensors that were sparse in the file are dense from now on."""
    initializers = [tensor for graph in every_graph(proto) for tensor in graph.initializer]
    for tensor in (*initializers, *(a.t for node in every_node(proto) for a in node.attribute if a.HasField("t"))):
        if is_marked(tensor):
            replace_all(tensor.metadata_props, [entry for entry in tensor.metadata_props if entry.key != MARK])


def is_marked(tensor: TensorProto) -> bool:
    """Whether a tensor was sparse in the file."""
    return any(entry.key == MARK for entry in tensor.metadata_props)


def origin(tensor: TensorProto, weights: Weights) -> SparseTensorProto | None:
    """The sparse tensor in the file that a dense one came from; None if it was dense in the file."""
    index = next((int(entry.value) for entry in tensor.metadata_props if entry.key == MARK), None)
    return None if index is None else weights.sparse[index]


def sparse_form(tensor: TensorProto, weights: Weights) -> SparseTensorProto | None:
    """The sparse tensor to write for a marked one; None if the dense one is smaller."""
    before = origin(tensor, weights)
    assert before is not None
    array = weights.read(tensor.name, tensor)
    made = SparseTensorProto()
    made.CopyFrom(before)
    if tensor.name:
        made.values.name = tensor.name
    for part in (made.values, made.indices):  # external data would be missing beside a model written to another folder
        if part.data_location == TensorProto.EXTERNAL:
            part.CopyFrom(numpy_helper.from_array(weights.read(tensor.name, part), part.name))
    if is_same(array, dense_values(tensor.name, before, weights)):
        return made
    positions = nonzero_positions(array)
    if sparse_bytes(array, positions.size, before) >= array.nbytes:
        return None
    rows = positions if len(before.indices.dims) == 1 else np.stack(np.unravel_index(positions, array.shape), axis=1)
    made.values.CopyFrom(numpy_helper.from_array(array.reshape(-1)[positions], made.values.name))
    made.indices.CopyFrom(numpy_helper.from_array(rows.astype(np.int64), made.indices.name))
    made.dims[:] = array.shape
    return made


def is_same(a: Array, b: Array) -> bool:
    """Whether two arrays are equal in shape, type and every bit, NaN included."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def nonzero_positions(array: Array) -> NDArray[np.int64]:
    """Positions in the flattened array of the elements whose bytes are not all zero. −0.0 is one of them, so it is preserved."""
    flat = np.ascontiguousarray(array).reshape(-1)
    as_bytes = flat.view(np.uint8).reshape(flat.size, flat.dtype.itemsize)
    return np.flatnonzero(as_bytes.any(axis=1)).astype(np.int64)


def sparse_bytes(array: Array, count: int, form: SparseTensorProto) -> int:
    """Size in bytes of `count` elements and their indices, in the kind of indices that `form` has."""
    per_index = INDEX_BYTES * (1 if len(form.indices.dims) == 1 else array.ndim)
    return count * (array.dtype.itemsize + per_index)


def written_bytes(tensor: TensorProto, weights: Weights) -> int:
    """Size of a tensor's elements in a file, in bytes; for a tensor that was sparse, of its stored values and indices.

    Raises ModelError for an unknown element type.
    """
    before = origin(tensor, weights)
    if before is not None:
        return sum(
            math.prod(part.dims) * element_dtype(tensor.name, part.data_type).itemsize for part in (before.values, before.indices)
        )
    if tensor.data_location != TensorProto.EXTERNAL and not tensor.HasField("raw_data"):
        # typed fields encode small integers in fewer bytes than their type has
        return int(tensor.ByteSize() - TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type).ByteSize())
    return math.prod(tensor.dims) * element_dtype(tensor.name, tensor.data_type).itemsize
