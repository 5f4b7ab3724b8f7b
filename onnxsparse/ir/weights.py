"""Constant tensors by name: read as arrays over mapped files, written when the model is saved.

The bytes of a tensor are in one of four places:

1. in the skeleton proto, if it is small;
2. in the model file, at a known offset (lifted; see `wire`);
3. in an external data file;
4. in memory, after an assignment. Beyond SPILL_BYTES in all, assigned arrays go to an unnamed temporary file instead.

Only the fourth takes memory, so a model may be larger than memory.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxsparse.errors import ModelError
from onnxsparse.ir.files import side_file
from onnxsparse.ir.mapped import MappedFile, Payload, byte_view, open_side_file, spilled
from onnxsparse.ir.wire import BULK_BYTES, LIFTED_LOCATION

Array = NDArray[np.generic]

Call = tuple[str, str, str]
"""Domain, name and overload of a function."""

SPILL_BYTES = 64 << 20
"""Assigned arrays held in memory, in bytes. Arrays beyond this total go to a temporary file."""

PACKED_TYPES = {
    getattr(TensorProto, name) for name in ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2") if hasattr(TensorProto, name)
}
"""Element types narrower than a byte. Their stored bytes hold several elements each, so they cannot be viewed as an array."""


class Weights:
    """Name → array, for every constant tensor of the model.

    Initializers go by their own name, values of Constant nodes by the name of the output. Tensors in bodies of If, Loop and Scan
    and in functions are included; if the name is taken, theirs is `<scope>/<name>`, see `tensors`.

    Reading gives a read-only array of the tensor's shape. Assignment replaces values, and shape and element type if they differ.
    """

    def __init__(self, proto: onnx.ModelProto, payloads: list[Payload], path: Path | None) -> None:
        """`path`: the model's file, beside which external data is found; None for a model made in memory."""
        self._proto = proto
        self._payloads = payloads
        self._path = path
        self._side_files: dict[str, MappedFile] = {}
        self._held_bytes = 0
        self.sparse: list[onnx.SparseTensorProto] = []
        """The tensors that were sparse in the file, in the order of their marks; see `ir/sparse.py`."""
        self.refresh()

    def refresh(self) -> None:
        """Index the tensors again. Needed after tensors were added to the proto or removed from it."""
        self._tensors: dict[str, TensorProto] = {}
        self._names: dict[tuple[str, str], str] = {}
        for scope, name, tensor in tensors(self._proto):
            if name:
                key = name if name not in self._tensors else f"{scope}/{name}"
                self._tensors.setdefault(key, tensor)
                self._names.setdefault((scope, name), key)

    def find(self, scope: str, name: str) -> str | None:
        """The name here of tensor `name` of the graph or function `scope` (empty: the main graph); None if there is no such
        tensor.
        """
        return self._names.get((scope, name))

    def copy(self, proto: onnx.ModelProto) -> "Weights":
        """The same payloads over `proto`, a copy of this model's proto."""
        twin = Weights(proto, list(self._payloads), self._path)
        twin._side_files = self._side_files
        twin.sparse = list(self.sparse)
        return twin

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def proto(self, name: str) -> TensorProto:
        """The tensor's description (dims, data_type, metadata); its data may be elsewhere.

        Raises ModelError for an unknown name.
        """
        try:
            return self._tensors[name]
        except KeyError:
            raise ModelError(f"the model has no constant tensor named '{name}'") from None

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor. Raises ModelError for an unknown name."""
        return tuple(self.proto(name).dims)

    def __getitem__(self, name: str) -> Array:
        return self.read(name, self.proto(name))

    def read(self, name: str, tensor: TensorProto) -> Array:
        """The values of `tensor`, read-only. It belongs to this model or a copy of it, and need not have a name here.

        `name` is for messages. Raises ModelError for data that is damaged, missing, or of another length than the shape asks.
        """
        payload = self.payload(tensor)
        array = read_small(name, tensor) if payload is None else read_bytes(name, tensor, payload.view())
        array.flags.writeable = False
        return array

    def __setitem__(self, name: str, array: Array) -> None:
        self.fill(self.proto(name), array)

    def fill(self, tensor: TensorProto, array: Array) -> None:
        """Assign values to a tensor of this model, and shape and element type if they differ.

        Raises ModelError for a full disk.
        """
        data_type = tensor.data_type
        if array.dtype != element_dtype(tensor.name, data_type):
            data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        small = data_type in PACKED_TYPES or array.nbytes < BULK_BYTES
        if small:
            new = numpy_helper.from_array(array)
            clear_data(tensor)
            tensor.raw_data = new.raw_data
            tensor.data_type = new.data_type
        else:
            self._point(tensor, self._hold(np.ascontiguousarray(array)), data_type)
        tensor.dims[:] = array.shape

    def share(self, name: str, other: "Weights", theirs: str) -> None:
        """Assign to tensor `name` the values of tensor `theirs` of another model, without a copy if they are bulk."""
        source = other.proto(theirs)
        payload = other.payload(source)
        if payload is None:
            self[name] = other[theirs]
            return
        tensor = self.proto(name)
        self._point(tensor, payload, source.data_type)
        tensor.dims[:] = source.dims

    def assign_parts(self, name: str, parts: Iterable[Array]) -> None:
        """Replace a tensor's values by consecutive flat parts of the same element type; a large tensor is never held as a whole.

        Raises ModelError for a full disk.
        """
        tensor = self.proto(name)
        size = self[name].nbytes
        if tensor.data_type in PACKED_TYPES or size < BULK_BYTES or self._held_bytes + size <= SPILL_BYTES:
            self[name] = np.concatenate([part.reshape(-1) for part in parts]).reshape(self.shape(name))
            return
        self._point(tensor, spilled(parts), tensor.data_type)

    def _point(self, tensor: TensorProto, payload: Payload, data_type: int) -> None:
        """Let a tensor refer to `payload`, in place of the data that it had."""
        self._payloads.append(payload)
        clear_data(tensor)
        set_external(tensor, LIFTED_LOCATION, offset=len(self._payloads) - 1)
        tensor.data_type = data_type

    def _hold(self, array: Array) -> Payload:
        """The payload of an assigned array: in memory up to SPILL_BYTES in all, in an unnamed temporary file beyond."""
        if self._held_bytes + array.nbytes <= SPILL_BYTES:
            self._held_bytes += array.nbytes
            return Payload.of(byte_view(array.copy()))
        return spilled([array])

    def payload(self, tensor: TensorProto) -> Payload | None:
        """Where the bytes of a tensor are; None if they are in the proto. Raises ModelError for external data that is missing."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return None
        entries = {e.key: e.value for e in tensor.external_data}
        if entries.get("location") == LIFTED_LOCATION:
            return self._payloads[int(entries["offset"])]
        return self._external(tensor.name, entries)

    def _external(self, name: str, entries: dict[str, str]) -> Payload:
        location = entries.get("location", "")
        file = self._side_files.get(location)
        if file is None:
            file = self._side_files[location] = open_side_file(name, location, self._path)
        try:
            offset = int(entries.get("offset", "0"))
            length = int(entries.get("length", str(file.size - offset)))
        except ValueError:
            raise ModelError(f"tensor '{name}': its external data has an offset or length that is no number") from None
        if offset < 0 or length < 0 or offset + length > file.size:
            raise ModelError(f"tensor '{name}': bytes {offset} to {offset + length} are not in {file.path} ({file.size} bytes)")
        return Payload(None, file, offset, length)

    def release(self, name: str) -> None:
        """Release the mapped pages that reading `name` made resident."""
        payload = self.payload(self.proto(name))
        if payload is not None:
            payload.release()

    def lifted(self, index: int) -> Payload:
        """The payload that mark `index` stands for. `wire.lift` and assignments leave marks."""
        return self._payloads[index]

    def side_files(self) -> set[Path]:
        """Real paths of the external data files of the model. Locations that may not be read are left out."""
        if self._path is None:
            return set()
        found = {e.value for t in self._tensors.values() if not is_lifted(t) for e in t.external_data if e.key == "location"}
        paths = set()
        for location in found:
            with suppress(ValueError):  # `open_side_file` reports it when the tensor is read
                paths.add(side_file(location, self._path))
        return paths

    @property
    def inline_bytes(self) -> int:
        """Bytes of the bulk tensors that are in the model file itself, or in memory."""
        found = (self.payload(t) for t in self._tensors.values() if is_lifted(t))
        return sum(p.length for p in found if p is not None)


def tensors(proto: onnx.ModelProto) -> Iterator[tuple[str, str, TensorProto]]:
    """(scope, name, tensor) of every tensor in the proto, those of the main graph and its bodies first.

    Scope: empty for the main graph, the path of outputs and attributes for a body (`body_scope`), the name for a function.
    Name: the tensor's own for an initializer; the output's for a Constant; `<node>.<attribute>` for a tensor attribute of a call
    of a model-local function; empty for a tensor in an attribute of any other node.
    """
    calls = {(f.domain, f.name, f.overload) for f in proto.functions}
    yield from graph_tensors([("", proto.graph)], calls)
    inside = [(scope, node) for scope, function in function_scopes(proto) for node in function.node]
    yield from (found for scope, node in inside for found in node_tensors(scope, node, calls))
    yield from graph_tensors(
        [(body_scope(s, node, a), g) for s, node in inside for a in node.attribute for g in bodies(a)], calls
    )


def graph_tensors(graphs: list[tuple[str, onnx.GraphProto]], calls: Container[Call]) -> Iterator[tuple[str, str, TensorProto]]:
    """(scope, name, tensor) of the tensors of these graphs, given as (scope, graph), and of the bodies in them."""
    for scope, graph in graphs:
        yield from ((scope, t.name, t) for t in graph.initializer)
        for node in graph.node:
            yield from node_tensors(scope, node, calls)
            graphs += [(body_scope(scope, node, a), g) for a in node.attribute for g in bodies(a)]


def function_scopes(proto: onnx.ModelProto) -> list[tuple[str, onnx.FunctionProto]]:
    """(scope, function) of every function.

    The scope is its name; with domain and overload if several functions have that name.
    """
    counts = Counter(function.name for function in proto.functions)
    return [
        (f.name if counts[f.name] == 1 else ":".join(filter(None, (f.domain, f.name, f.overload))), f) for f in proto.functions
    ]


def node_tensors(scope: str, node: onnx.NodeProto, calls: Container[Call]) -> Iterator[tuple[str, str, TensorProto]]:
    """(scope, name, tensor) of the tensors in the attributes of a node; see `tensors` for their names."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            is_value = node.op_type == "Constant" and attribute.name == "value" and node.output
            given = f"{node.name or node.output[0]}.{attribute.name}" if is_call(node, calls) else ""
            yield scope, node.output[0] if is_value else given, attribute.t
        yield from ((scope, "", t) for t in attribute.tensors)


def is_call(node: onnx.NodeProto, calls: Container[Call]) -> bool:
    """Whether a node calls one of these model-local functions."""
    return bool(node.output) and (node.domain, node.op_type, node.overload) in calls


def bodies(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    """The graphs that an attribute holds; empty if it is of another type."""
    return [attribute.g] if attribute.HasField("g") else list(attribute.graphs)


def body_scope(scope: str, node: onnx.NodeProto, attribute: onnx.AttributeProto) -> str:
    """The scope of the body that `node`, of the graph `scope`, holds in `attribute`.

    A node is identified by its first output, which is unique in its graph. Its name may be missing or shared.
    """
    own = f"{next(filter(None, node.output), node.op_type)}.{attribute.name}"
    return f"{scope}/{own}" if scope else own


def is_lifted(tensor: TensorProto) -> bool:
    """Whether the data of a tensor is a payload of `Weights`, to which a mark refers."""
    return tensor.data_location == TensorProto.EXTERNAL and any(
        e.key == "location" and e.value == LIFTED_LOCATION for e in tensor.external_data
    )


def set_external(tensor: TensorProto, location: str, offset: int, length: int | None = None) -> None:
    """Let a tensor refer to bytes outside the proto. `length` None: up to the end."""
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    found = {"location": location, "offset": str(offset)} | ({} if length is None else {"length": str(length)})
    for key, value in found.items():
        tensor.external_data.add(key=key, value=value)


def clear_data(tensor: TensorProto) -> None:
    """Remove the data of a tensor, or the reference to it. Name, shape and element type stay."""
    fields = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data", "external_data")
    for field in (*fields, "raw_data", "data_location"):
        tensor.ClearField(field)


def element_dtype(name: str, data_type: int) -> np.dtype[np.generic]:
    """numpy's type for the elements of value or tensor `name`. Raises ModelError for a type that onnx does not define."""
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
    except KeyError:
        raise ModelError(f"'{name}' has an unknown element type {data_type}") from None


def read_small(name: str, tensor: TensorProto) -> Array:
    """The array of a tensor whose data is in the proto, as a copy. Raises ModelError if the data does not fit shape or type."""
    try:
        return np.array(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"tensor '{name}' is damaged: {error}") from None


def read_bytes(name: str, tensor: TensorProto, data: memoryview) -> Array:
    """The array of the bytes `data`: a view, or a copy for elements narrower than a byte.

    Raises ModelError if the length does not fit the shape, or the element type is unknown.
    """
    shape = tuple(tensor.dims)
    if tensor.data_type in PACKED_TYPES:
        return read_small(name, TensorProto(dims=shape, data_type=tensor.data_type, raw_data=bytes(data)))
    dtype = element_dtype(name, tensor.data_type)
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if wanted != len(data):
        raise ModelError(f"tensor '{name}' of shape {list(shape)} needs {wanted} bytes and has {len(data)}")
    return np.frombuffer(data, dtype).reshape(shape)
