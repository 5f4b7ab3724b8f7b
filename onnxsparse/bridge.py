"""An onnx-graphsurgeon graph to edit, behind which every field of the proto stays what it was.

graphsurgeon's own import and export lose metadata, docs, odd attributes and types (90 of onnx's 2033 test models do not
survive them). Here its classes are the editing surface only: each object remembers the proto it came from, and on the way
out only what differs from that is written. Shapes, types, header and bulk weights never go through it.
"""

from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxsparse.model import Model
from onnxsparse.weights import Array, body_scope

# attribute type → field; the others (sparse tensors, type protos, lists of tensors and graphs) are held back
SIMPLE_FIELDS = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
}
REFERENCE_TYPES = {AttributeProto.FLOAT: float, AttributeProto.INT: int, AttributeProto.STRING: str}


class StoredValues(LazyValues):  # type: ignore[misc]  # graphsurgeon has no types
    """Values that stay in `model.weights` until somebody reads them."""

    def __init__(self, model: Model, tensor: onnx.TensorProto, key: str | None) -> None:
        self.tensor = tensor
        self.shape = list(tensor.dims)
        self.dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type) if tensor.data_type != onnx.TensorProto.STRING else object
        self._model, self._key = model, key

    def load(self) -> Array:
        if self._key is None:
            return onnx.numpy_helper.to_array(self.tensor)
        return np.array(self._model.weights[self._key])


@dataclass(frozen=True)
class TensorOrigin:
    """`key`: name in `model.weights`; `described`: dtype and shape as imported, to see whether somebody changed them."""

    tensor: Any
    name: str
    proto: onnx.TensorProto | None
    key: str | None = None
    described: tuple[Any, Any] = (None, None)


@dataclass(frozen=True)
class NodeOrigin:
    node: Any
    proto: onnx.NodeProto
    values: dict[str, Any]


@dataclass(frozen=True)
class BodyOrigin:
    """A graph or function. `constants`: those of its initializers that something used, by name."""

    body: Any
    proto: Any
    tensors: dict[str, Any]
    used: set[str]


@dataclass
class Origins:
    """Where objects come from, by identity; holding the objects keeps their identities theirs."""

    tensors: dict[int, TensorOrigin] = field(default_factory=dict)
    nodes: dict[int, NodeOrigin] = field(default_factory=dict)
    bodies: dict[int, BodyOrigin] = field(default_factory=dict)


@contextmanager
def edit(model: Model) -> Iterator[Any]:
    """`with edit(model) as graph:` gives a graphsurgeon graph; the model has its changes when the block ends well."""
    origins = Origins()
    importer = Importer(model, origins)
    graph = importer.model_graph()
    yield graph
    Exporter(model, origins).write(graph)


class Importer:
    """Protos into graphsurgeon objects."""

    def __init__(self, model: Model, origins: Origins) -> None:
        self.model = model
        self.origins = origins

    def model_graph(self) -> Any:
        proto = self.model.proto
        functions = [self.function(f) for f in proto.functions]
        graph = self.graph(proto.graph, ChainMap(), "")
        graph.functions = functions
        graph.import_domains = list(proto.opset_import)
        graph.opset = self.model.opset() or graph.opset
        graph.ir_version = proto.ir_version
        return graph

    def graph(self, proto: onnx.GraphProto, outer: "ChainMap[str, Any]", scope: str) -> Any:
        own = {t.name: self.constant(t, self.model.weights.find(scope, t.name)) for t in proto.initializer}
        described = {v.name: v for v in (*proto.value_info, *proto.input, *proto.output)}
        made = [*(v.name for v in proto.input), *(o for node in proto.node for o in node.output if o)]
        for name in made:
            if name not in own:
                own[name] = self.variable(name, described.get(name))
        tensors = outer.new_child(own)
        nodes = [self.node(node, tensors, scope) for node in proto.node]
        inputs = [own[v.name] for v in proto.input if not isinstance(own[v.name], gs.Constant)]
        outputs = [self.lookup(v.name, tensors) for v in proto.output]
        graph = gs.Graph(nodes, inputs, outputs, name=proto.name, doc_string=proto.doc_string, opset=self.model.opset() or None)
        used = {t.name for t in own.values() if isinstance(t, gs.Constant) and (t.outputs or any(t is o for o in outputs))}
        self.origins.bodies[id(graph)] = BodyOrigin(graph, proto, own, used)
        return graph

    def function(self, proto: onnx.FunctionProto) -> Any:
        own = {name: self.variable(name, None) for name in (*proto.input, *(o for n in proto.node for o in n.output if o))}
        tensors = ChainMap(own)
        nodes = [self.node(node, tensors, proto.name) for node in proto.node]
        inputs = [own[name] for name in proto.input]
        outputs = [self.lookup(name, tensors) for name in proto.output]
        function = gs.Function(proto.name, proto.domain, nodes, inputs, outputs, doc_string=proto.doc_string)
        self.origins.bodies[id(function)] = BodyOrigin(function, proto, own, set())
        return function

    def constant(self, proto: onnx.TensorProto, key: str | None) -> Any:
        made = gs.Constant(proto.name, StoredValues(self.model, proto, key))
        self.origins.tensors[id(made)] = TensorOrigin(made, proto.name, proto, key)
        return made

    def variable(self, name: str, described: onnx.ValueInfoProto | None) -> Any:
        made = gs.Variable(name, *describe(described))
        shape = None if made.shape is None else list(made.shape)
        self.origins.tensors[id(made)] = TensorOrigin(made, name, None, None, (made.dtype, shape))
        return made

    def lookup(self, name: str, tensors: "ChainMap[str, Any]") -> Any:
        if not name:
            return gs.Variable.empty()
        if name not in tensors:
            tensors[name] = self.variable(name, None)  # nobody makes it: the checker's to complain about
        return tensors[name]

    def node(self, proto: onnx.NodeProto, tensors: "ChainMap[str, Any]", scope: str) -> Any:
        values = {a.name: self.attribute(proto, a, tensors, scope) for a in proto.attribute if not held_back(a)}
        inputs, outputs = ([self.lookup(name, tensors) for name in names] for names in (proto.input, proto.output))
        domain = proto.domain if proto.HasField("domain") else None
        made = gs.Node(proto.op_type, proto.name, dict(values), inputs, outputs, domain)
        snapshot = {name: list(v) if isinstance(v, list) else v for name, v in values.items()}
        self.origins.nodes[id(made)] = NodeOrigin(made, proto, snapshot)
        return made

    def attribute(self, node: onnx.NodeProto, proto: AttributeProto, tensors: "ChainMap[str, Any]", scope: str) -> Any:
        if proto.ref_attr_name:
            return gs.Node.AttributeRef(proto.ref_attr_name, REFERENCE_TYPES.get(proto.type, list))
        if proto.type == AttributeProto.TENSOR:
            key = self.model.weights.find(scope, node.output[0]) if node.output else None
            return self.constant(proto.t, key)
        if proto.type == AttributeProto.GRAPH:
            return self.graph(proto.g, tensors, body_scope(scope, node, proto))
        value = getattr(proto, SIMPLE_FIELDS[proto.type])
        if proto.type in (AttributeProto.FLOATS, AttributeProto.INTS):
            return list(value)
        if proto.type == AttributeProto.STRINGS:
            return [decoded(v) for v in value]
        return decoded(value) if proto.type == AttributeProto.STRING else value


def held_back(attribute: AttributeProto) -> bool:
    """Whether graphsurgeon cannot show an attribute; it stays with its node."""
    return attribute.type not in (*SIMPLE_FIELDS, AttributeProto.TENSOR, AttributeProto.GRAPH)


def decoded(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def describe(value: onnx.ValueInfoProto | None) -> tuple[Any, Any]:
    """numpy dtype and shape, where a tensor's description has them."""
    if value is None or not value.type.HasField("tensor_type"):
        return None, None
    tensor = value.type.tensor_type
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type) if tensor.elem_type else None
    except KeyError:
        dtype = None
    if not tensor.HasField("shape"):
        return dtype, None
    return dtype, [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]


class Exporter:
    """Changed graphsurgeon objects back into the model's protos."""

    def __init__(self, model: Model, origins: Origins) -> None:
        self.model = model
        self.origins = origins
        self.claimed: set[int] = set()
        self.assigned: list[tuple[str, Array]] = []

    def write(self, graph: Any) -> None:
        """Build everything first, so that a graph that cannot be written leaves the model as it was."""
        main = self.graph(graph)
        functions = [self.function(f) for f in graph.functions]
        proto = self.model.proto
        imported = {o.domain for o in proto.opset_import}
        missing = sorted({n.domain for n in all_nodes(graph) if n.domain and id(n) not in self.origins.nodes} - imported)
        proto.graph.CopyFrom(main)
        replace_all(proto.functions, functions)
        proto.opset_import.extend(helper.make_opsetid(domain, 1) for domain in missing)
        self.model.weights.refresh()
        for name, values in self.assigned:
            self.model.weights[name] = values

    def graph(self, graph: Any) -> onnx.GraphProto:
        origin = self.origins.bodies.get(id(graph))
        if origin is None:
            made: onnx.GraphProto = OnnxExporter.export_graph(graph, do_type_check=False)
            return made
        proto = onnx.GraphProto()
        proto.CopyFrom(origin.proto)
        if graph.name != origin.proto.name:
            proto.name = graph.name
        fresh = self.claim(graph)
        replace_all(proto.node, [self.node(n) for n in graph.nodes])
        kept = self.kept_initializers(origin, graph)
        replace_all(proto.initializer, [*kept, *(self.new_initializer(c) for c in fresh)])
        alive = Alive.of(origin, graph, {t.name for t in proto.initializer})
        replace_all(proto.input, self.inputs(origin, graph, {t.name for t in kept}))
        replace_all(proto.output, [self.described(t, origin.proto.output) for t in graph.outputs])
        replace_all(proto.value_info, [*self.value_infos(origin, alive), *new_value_infos(self.origins, graph)])
        replace_all(proto.quantization_annotation, [a for a in proto.quantization_annotation if alive.keeps(a.tensor_name)])
        return proto

    def function(self, function: Any) -> onnx.FunctionProto:
        origin = self.origins.bodies.get(id(function))
        if origin is None:
            made: onnx.FunctionProto = OnnxExporter.export_function(function)
            return made
        proto = onnx.FunctionProto()
        proto.CopyFrom(origin.proto)
        constants = [
            helper.make_node("Constant", [], [c.name], value=OnnxExporter.export_tensor_proto(c)) for c in self.claim(function)
        ]
        replace_all(proto.node, [*constants, *(self.node(n) for n in function.nodes)])
        proto.input[:] = [t.name for t in function.inputs]
        proto.output[:] = [t.name for t in function.outputs]
        return proto

    def claim(self, body: Any) -> list[Any]:
        """New constants that nodes of this graph use and no graph around it has taken."""
        found: dict[int, Any] = {}
        for tensor in (*(t for n in body.nodes for t in n.inputs), *body.outputs):
            if isinstance(tensor, gs.Constant) and id(tensor) not in self.origins.tensors and id(tensor) not in self.claimed:
                found[id(tensor)] = tensor
        self.claimed |= set(found)
        return list(found.values())

    def new_initializer(self, constant: Any) -> onnx.TensorProto:
        return self.filled(onnx.TensorProto(), constant)

    def filled(self, proto: onnx.TensorProto, constant: Any) -> onnx.TensorProto:
        """A header now, the values into `model.weights` once the graph is in place."""
        values = np.asarray(constant.values)
        if constant.export_dtype != constant.dtype or values.dtype == object:
            proto.CopyFrom(OnnxExporter.export_tensor_proto(constant))
            return proto
        made = onnx.TensorProto(name=constant.name, dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype))
        made.doc_string = proto.doc_string
        made.metadata_props.extend(proto.metadata_props)
        self.assigned.append((constant.name, values))
        return made

    def kept_initializers(self, origin: BodyOrigin, graph: Any) -> list[onnx.TensorProto]:
        """Initializers that are still used, and those that never were; renamed or given new values where somebody did so."""
        used = used_constants(graph)
        kept = []
        for proto in origin.proto.initializer:
            constant = origin.tensors[proto.name]
            if id(constant) in used or proto.name not in origin.used:
                kept.append(self.tensor(proto, constant))
        return kept

    def tensor(self, proto: onnx.TensorProto, constant: Any) -> onnx.TensorProto:
        if self.has_new_values(constant):
            return self.filled(proto, constant)
        if constant.name == proto.name:
            return proto
        renamed = onnx.TensorProto()
        renamed.CopyFrom(proto)
        renamed.name = constant.name
        return renamed

    def has_new_values(self, constant: Any) -> bool:
        """Whether somebody put other values in; reading them loads them and changes nothing."""
        if isinstance(constant._values, StoredValues):
            return False
        origin = self.origins.tensors[id(constant)]
        assert origin.proto is not None
        original = StoredValues(self.model, origin.proto, origin.key).load()
        values = np.asarray(constant._values)
        alike = values.dtype == original.dtype and values.shape == original.shape
        return not (alike and values.tobytes() == original.tobytes())

    def inputs(self, origin: BodyOrigin, graph: Any, initializers: set[str]) -> list[onnx.ValueInfoProto]:
        """In the original order as long as that of the graph's inputs is; initializers may be listed among them."""
        listed = [v for v in origin.proto.input if isinstance(origin.tensors[v.name], gs.Constant)]
        order = [v.name for v in origin.proto.input]
        found = [self.described(t, origin.proto.input) for t in graph.inputs]
        found += [v for v in listed if origin.tensors[v.name].name in initializers]
        places = {name: i for i, name in enumerate(order)}
        names = [v.name for v in found[: len(graph.inputs)]]
        if [n for n in order if n in names] == [n for n in names if n in places]:
            found.sort(key=lambda v: places.get(v.name, len(order)))
        return found

    def described(self, tensor: Any, protos: Any) -> onnx.ValueInfoProto:
        """The original description of a graph's input or output; a new one where dtype or shape were changed."""
        origin = self.origins.tensors.get(id(tensor))
        original = None if origin is None else next((v for v in protos if v.name == origin.name), None)
        if original is None or (isinstance(tensor, gs.Variable) and origin is not None and changed(tensor, origin)):
            made: onnx.ValueInfoProto = OnnxExporter.export_value_info_proto(tensor, do_type_check=True)
            return made
        return renamed_value(original, tensor.name)

    def value_infos(self, origin: BodyOrigin, alive: "Alive") -> list[onnx.ValueInfoProto]:
        found = []
        for value in origin.proto.value_info:
            tensor = origin.tensors.get(value.name)
            known = None if tensor is None else self.origins.tensors.get(id(tensor))
            if not alive.keeps(value.name):
                continue
            if known is not None and isinstance(tensor, gs.Variable) and changed(tensor, known):
                found.append(OnnxExporter.export_value_info_proto(tensor, do_type_check=False))
            else:
                found.append(value if tensor is None else renamed_value(value, tensor.name))
        return found

    def node(self, node: Any) -> onnx.NodeProto:
        origin = self.origins.nodes.get(id(node))
        proto = onnx.NodeProto()
        if origin is None:
            proto.op_type = node.op
        else:
            proto.CopyFrom(origin.proto)
        for name, value in (("op_type", node.op), ("name", node.name), ("domain", node.domain)):
            if value is not None and getattr(proto, name) != value:
                setattr(proto, name, value)
        for names, tensors in ((proto.input, node.inputs), (proto.output, node.outputs)):
            if list(names) != [t.name for t in tensors]:
                names[:] = [t.name for t in tensors]
        replace_all(proto.attribute, self.attributes(node, origin))
        return proto

    def attributes(self, node: Any, origin: NodeOrigin | None) -> list[AttributeProto]:
        """The original order, changed ones in place, new ones behind."""
        found: list[AttributeProto] = []
        known = list(origin.proto.attribute) if origin is not None else []
        for proto in known:
            if held_back(proto):
                found.append(proto)
            elif origin is not None and proto.name in node.attrs:
                found.append(self.attribute(proto, node.attrs[proto.name], origin.values[proto.name]))
        names = {a.name for a in known}
        for name, value in node.attrs.items():
            if name not in names:
                found += (
                    [self.body(name, value)] if isinstance(value, gs.Graph) else OnnxExporter.export_attributes({name: value})
                )
        return found

    def attribute(self, proto: AttributeProto, value: Any, before: Any) -> AttributeProto:
        made = AttributeProto()
        made.CopyFrom(proto)
        if isinstance(value, gs.Graph):
            made.g.CopyFrom(self.graph(value))
        elif value is before and isinstance(value, gs.Constant):
            if self.has_new_values(value):
                made.t.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value.values), proto.t.name))
        elif value is not before and value != before:
            made.CopyFrom(OnnxExporter.export_attributes({proto.name: value})[0])
        return made

    def body(self, name: str, graph: Any) -> AttributeProto:
        return AttributeProto(name=name, type=AttributeProto.GRAPH, g=self.graph(graph))


@dataclass(frozen=True)
class Alive:
    """Which values of a graph there were and are; `names`: original name → present one."""

    before: set[str]
    after: set[str]
    names: Mapping[str, str]

    @classmethod
    def of(cls, origin: BodyOrigin, graph: Any, initializers: set[str]) -> "Alive":
        after = {t.name for n in graph.nodes for t in n.outputs} | {t.name for t in graph.inputs} | initializers
        return cls(set(origin.tensors), after, {name: tensor.name for name, tensor in origin.tensors.items()})

    def keeps(self, name: str) -> bool:
        """What was recorded about a value that is gone goes; about one that never was there, it stays."""
        return name not in self.before or self.names[name] in self.after


def changed(tensor: Any, origin: TensorOrigin) -> bool:
    return (tensor.dtype, tensor.shape if tensor.shape is None else list(tensor.shape)) != origin.described


def renamed_value(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    if value.name == name:
        return value
    made = onnx.ValueInfoProto()
    made.CopyFrom(value)
    made.name = name
    return made


def new_value_infos(origins: Origins, graph: Any) -> list[onnx.ValueInfoProto]:
    """Descriptions of new values, where they were given a type and a shape."""
    ends = {id(t) for t in (*graph.inputs, *graph.outputs)}
    return [
        OnnxExporter.export_value_info_proto(t, do_type_check=False)
        for n in graph.nodes
        for t in n.outputs
        if id(t) not in origins.tensors and id(t) not in ends and t.name and t.dtype is not None and t.shape is not None
    ]


def used_constants(graph: Any) -> set[int]:
    """Identities of the constants that a graph or a body inside it uses."""
    found = {id(t) for t in graph.outputs}
    for node in all_nodes(graph):
        found |= {id(t) for t in node.inputs}
        found |= {id(t) for value in node.attrs.values() if isinstance(value, gs.Graph) for t in value.outputs}
    return found


def all_nodes(graph: Any) -> Iterator[Any]:
    for node in graph.nodes:
        yield node
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield from all_nodes(value)


def replace_all(repeated: Any, items: list[Any]) -> None:
    """Set a repeated field, whose present messages may be among the items."""
    copies = []
    for item in items:
        twin = type(item)()
        twin.CopyFrom(item)
        copies.append(twin)
    del repeated[:]
    repeated.extend(copies)
