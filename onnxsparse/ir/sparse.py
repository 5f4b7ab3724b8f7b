"""Sparse tensors. In memory each is a dense tensor like any other, which every pass sees; a file keeps the kind it came with.

A sparse initializer, or the `sparse_value` of a Constant, becomes a dense one when a model is parsed, and carries a mark. What is
written is the sparse tensor as it came where no element changed, else one of the elements that are not zero, in the same form of
indices; a dense tensor where that is smaller.
"""

import math
import secrets
from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, SparseTensorProto, TensorProto, numpy_helper

from onnxsparse.errors import ModelError
from onnxsparse.ir.protos import replace_all
from onnxsparse.ir.weights import Array, Weights, bodies, element_dtype

MARK = f"sparse-{secrets.token_hex(8)}"
"""Metadata key of a dense tensor that came sparse; drawn per process, so that no file can hold it by design."""

MAX_DENSE_BYTES = (1 << 31) - 1
"""Of one tensor: no runtime takes a larger one from a model file."""

INDEX_BYTES = 8


def densify(proto: onnx.ModelProto, weights: Weights) -> None:
    """Replace the sparse tensors of `proto`, over which `weights` is, by dense ones. Raises ModelError for a damaged one.

    Sparse tensors of text stay: no layer computes with them.
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
    return sparse.values.data_type != TensorProto.STRING


def every_graph(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    """The main graph and every body in it and in functions."""
    inside = [g for function in proto.functions for node in function.node for a in node.attribute for g in bodies(a)]
    found = [proto.graph, *inside]
    for graph in found:
        found += [body for node in graph.node for a in node.attribute for body in bodies(a)]
    return found


def sparse_constants(proto: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, AttributeProto]]:
    """Constant nodes with a sparse value, and that attribute."""
    nodes = [node for graph in every_graph(proto) for node in graph.node]
    for node in (*nodes, *(node for function in proto.functions for node in function.node)):
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("sparse_tensor") and is_numeric(attribute.sparse_tensor):
                yield node, attribute


def marked(tensor: TensorProto, sparse: SparseTensorProto, weights: Weights) -> TensorProto:
    """The header of a dense tensor that stands for `sparse`, which `weights` keeps."""
    tensor.dims[:] = sparse.dims
    tensor.data_type = sparse.values.data_type
    tensor.metadata_props.add(key=MARK, value=str(len(weights.sparse)))
    weights.sparse.append(sparse)
    return tensor


def dense_values(name: str, sparse: SparseTensorProto, weights: Weights) -> Array:
    """The tensor with its zeros. Raises ModelError where values and indices do not make one."""
    shape = tuple(sparse.dims)
    size = math.prod(shape)
    values = weights.read(name, sparse.values).reshape(-1)
    if any(length < 0 for length in shape) or size * values.dtype.itemsize > MAX_DENSE_BYTES:
        raise ModelError(f"sparse tensor '{name}' of shape {list(shape)} is larger than 2 GB with its zeros")
    dense = np.zeros(size, values.dtype)
    dense[linear_indices(name, sparse, weights.read(name, sparse.indices), values.size)] = values
    return dense.reshape(shape)


def linear_indices(name: str, sparse: SparseTensorProto, stored: Array, count: int) -> NDArray[np.int64]:
    """Positions in the flat tensor: as they are stored ([NNZ]), or of stored coordinates ([NNZ, rank])."""
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
    """Make sparse again, in a copy of the proto that `weights` is over, what came sparse."""
    for graph in every_graph(proto):
        made = {tensor.name: sparse_form(tensor, weights) for tensor in graph.initializer if is_marked(tensor)}
        sparse = [found for found in made.values() if found is not None]
        if sparse:
            gone = {found.values.name for found in sparse}
            replace_all(graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in gone])
            graph.sparse_initializer.extend(sparse)
    nodes = [node for graph in every_graph(proto) for node in graph.node]
    for node in (*nodes, *(node for function in proto.functions for node in function.node)):
        for attribute in node.attribute:
            found = sparse_form(attribute.t, weights) if attribute.HasField("t") and is_marked(attribute.t) else None
            if found is not None:
                attribute.ClearField("t")
                attribute.name, attribute.type = "sparse_value", AttributeProto.SPARSE_TENSOR
                attribute.sparse_tensor.CopyFrom(found)
    unmark(proto)


def unmark(proto: onnx.ModelProto) -> None:
    """Let what came sparse be dense from now on."""
    attributes = [a for graph in every_graph(proto) for node in graph.node for a in node.attribute]
    attributes += [a for function in proto.functions for node in function.node for a in node.attribute]
    initializers = [tensor for graph in every_graph(proto) for tensor in graph.initializer]
    for tensor in (*initializers, *(a.t for a in attributes if a.HasField("t"))):
        if is_marked(tensor):
            replace_all(tensor.metadata_props, [entry for entry in tensor.metadata_props if entry.key != MARK])


def is_marked(tensor: TensorProto) -> bool:
    return any(entry.key == MARK for entry in tensor.metadata_props)


def origin(tensor: TensorProto, weights: Weights) -> SparseTensorProto | None:
    """The sparse tensor that a dense one came from, None if it came dense."""
    index = next((int(entry.value) for entry in tensor.metadata_props if entry.key == MARK), None)
    return None if index is None else weights.sparse[index]


def sparse_form(tensor: TensorProto, weights: Weights) -> SparseTensorProto | None:
    """What is written for a tensor that came sparse: a sparse one, or None where the dense one is smaller."""
    before = origin(tensor, weights)
    assert before is not None
    array = weights.read(tensor.name, tensor)
    made = SparseTensorProto()
    made.CopyFrom(before)
    if tensor.name:
        made.values.name = tensor.name
    for part in (made.values, made.indices):  # an external file need not be beside the model that is written
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
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def nonzero_positions(array: Array) -> NDArray[np.int64]:
    """Of the elements whose bytes are not all zero, so that −0.0 stays."""
    flat = np.ascontiguousarray(array).reshape(-1)
    as_bytes = flat.view(np.uint8).reshape(flat.size, flat.dtype.itemsize)
    return np.flatnonzero(as_bytes.any(axis=1)).astype(np.int64)


def sparse_bytes(array: Array, count: int, form: SparseTensorProto) -> int:
    """Bytes of `count` elements with their indices."""
    per_index = INDEX_BYTES * (1 if len(form.indices.dims) == 1 else array.ndim)
    return count * (array.dtype.itemsize + per_index)


def written_bytes(tensor: TensorProto, weights: Weights) -> int:
    """Bytes that a tensor's elements take in a file; of one that came sparse, those of the stored values and indices."""
    before = origin(tensor, weights)
    if before is not None:
        return sum(
            math.prod(part.dims) * element_dtype(tensor.name, part.data_type).itemsize for part in (before.values, before.indices)
        )
    return math.prod(tensor.dims) * element_dtype(tensor.name, tensor.data_type).itemsize
