"""Shapes and element types that a proto records of its values: read, removed and written. Bulk weights as typed inputs."""

from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto

from onnxsparse.analysis.shape_propagation import Key, Known
from onnxsparse.ir.binding import Binding, Shape
from onnxsparse.ir.protos import replace_all
from onnxsparse.ir.weights import Weights, bodies, body_scope, is_lifted
from onnxsparse.ir.wire import BULK_BYTES
from onnxsparse.ops import STANDARD_DOMAINS


def weightless(proto: onnx.ModelProto, weights: Weights) -> onnx.ModelProto:
    """A copy in which bulk tensors are typed graph inputs, so that inference and checker read no weights."""
    work = onnx.ModelProto()
    work.CopyFrom(proto)
    present = {value.name for value in work.graph.input}
    graphs = [work.graph]
    for graph in graphs:
        for name, tensor in take_bulk(graph, weights):
            if name not in present:
                present.add(name)
                work.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
        graphs += [g for node in graph.node for a in node.attribute for g in bodies(a)]
    return work


def take_bulk(graph: onnx.GraphProto, weights: Weights) -> list[tuple[str, TensorProto]]:
    """Remove the bulk tensors from one graph. Returns (name, tensor without data) of each.

    Small tensors with external data are kept, with the data in the proto.
    """
    taken: list[tuple[str, TensorProto]] = []
    kept_initializers: list[TensorProto] = []
    kept_nodes: list[onnx.NodeProto] = []
    for tensor in graph.initializer:
        if is_bulk(tensor, weights):
            taken.append((tensor.name, tensor))
        else:
            kept_initializers.append(tensor)
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is not None and is_bulk(value, weights):
            taken.append((node.output[0], value))
        else:
            kept_nodes.append(node)
    if taken:
        taken = [(name, copy_header(tensor)) for name, tensor in taken]
        replace_all(graph.initializer, kept_initializers)
        replace_all(graph.node, kept_nodes)
    return taken


def copy_header(tensor: TensorProto) -> TensorProto:
    """A tensor of the same shape and element type, without name and data."""
    return TensorProto(dims=tensor.dims, data_type=tensor.data_type)


def is_bulk(tensor: TensorProto, weights: Weights) -> bool:
    """Whether a tensor's data is BULK_BYTES or more. External data below that is moved into the proto."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return False
    if is_lifted(tensor):
        return True
    payload = weights.payload(tensor)
    assert payload is not None
    if payload.length < BULK_BYTES:
        data = bytes(payload.view())
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = data
        return False
    return True


def take_recorded(graph: onnx.GraphProto, binding: Binding, scope: str = "") -> Known:
    """Remove the recorded shapes of a graph and its bodies, and return them. They may be wrong, or hold at other sizes.

    The main graph's inputs keep theirs. Element types stay where inference cannot find them: outputs of foreign ops.
    """
    inputs = graph.input if scope else ()
    for value in (*inputs, *graph.value_info, *graph.output):
        if value.type.HasField("tensor_type"):
            binding.apply(value.type.tensor_type.shape)
    recorded = collect_own(graph, scope)
    foreign = {name for node in graph.node if node.domain not in STANDARD_DOMAINS for name in node.output}
    # onnx's inference does not read the value of an initializer that has an entry in value_info, even an empty one
    replace_all(graph.value_info, [value for value in graph.value_info if value.name in foreign])
    for value in (*inputs, *graph.value_info, *graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    for node in graph.node:
        for attribute in node.attribute:
            for body in bodies(attribute):
                recorded |= take_recorded(body, binding, body_scope(scope, node, attribute))
    return recorded


def bind_inputs(graph: onnx.GraphProto, binding: Binding) -> None:
    """Record the sizes of the binding for the graph's inputs."""
    for value in graph.input:
        if value.name in binding.shapes and value.type.HasField("tensor_type"):
            set_shape(value, binding.shapes[value.name])


def set_shape(value: onnx.ValueInfoProto, shape: Shape) -> None:
    """Record a shape. An unknown size keeps its symbol if the rank is unchanged."""
    dims = value.type.tensor_type.shape
    symbols = [d.dim_param for d in dims.dim] if len(dims.dim) == len(shape) else [""] * len(shape)
    dims.Clear()
    value.type.tensor_type.shape.SetInParent()
    for size, symbol in zip(shape, symbols, strict=True):
        added = dims.dim.add()
        if size is not None:
            added.dim_value = size
        elif symbol:
            added.dim_param = symbol


def collect(graph: onnx.GraphProto, scope: str = "") -> Known:
    """The recorded shapes of a graph and its bodies."""
    found = collect_own(graph, scope)
    for node in graph.node:
        for attribute in node.attribute:
            for body in bodies(attribute):
                found |= collect(body, body_scope(scope, node, attribute))
    return found


def collect_own(graph: onnx.GraphProto, scope: str) -> Known:
    """The recorded shapes of one graph's own values, initializers included."""
    found: Known = {(scope, tensor.name): tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            found[scope, value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
    return found


def record(graph: onnx.GraphProto, shapes: Known, types: Mapping[Key, int], scope: str = "") -> None:
    """Record the shapes of all node outputs of a graph and its bodies, if their element types are known."""
    entries = {value.name: value for value in (*graph.value_info, *graph.output)}
    for node in graph.node:
        for name in filter(None, node.output):
            shape, kind = shapes.get((scope, name)), types.get((scope, name))
            if shape is None or not kind:
                continue
            if name not in entries:
                graph.value_info.append(onnx.helper.make_tensor_value_info(name, kind, None))
                entries[name] = graph.value_info[-1]
            if entries[name].type.HasField("tensor_type"):
                set_shape(entries[name], shape)
        for attribute in node.attribute:
            for body in bodies(attribute):
                record(body, shapes, types, body_scope(scope, node, attribute))


def element_types(graph: onnx.GraphProto, scope: str = "") -> Iterator[tuple[Key, int]]:
    """((scope, name), element type) of a graph's values; 0 if it is unknown. For sequences and optionals, that of their tensors.

    The scope is part of the key because branches of an If may use one name for values of two types.
    """
    yield from (((scope, t.name), t.data_type) for t in graph.initializer)
    yield from (((scope, v.name), tensor_type(v.type)) for v in (*graph.input, *graph.value_info, *graph.output))
    for node in graph.node:
        for attribute in node.attribute:
            for body in bodies(attribute):
                yield from element_types(body, body_scope(scope, node, attribute))


def tensor_type(kind: onnx.TypeProto) -> int:
    """The element type of a tensor, or of the tensors in a sequence or optional; 0 if it is unknown."""
    if kind.HasField("sequence_type"):
        return tensor_type(kind.sequence_type.elem_type)
    if kind.HasField("optional_type"):
        return tensor_type(kind.optional_type.elem_type)
    return kind.tensor_type.elem_type
