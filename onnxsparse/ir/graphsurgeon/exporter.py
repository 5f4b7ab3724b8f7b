"""Export: changed graphsurgeon objects to protos, unchanged ones as they were imported."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnxsparse.ir.graph import FIRST_IR_WITH_DEFAULTS
from onnxsparse.ir.graphsurgeon.origins import BodyOrigin, NodeOrigin, Origins, StoredValues, TensorOrigin, held_back
from onnxsparse.ir.protos import STANDARD_DOMAINS, replace_all
from onnxsparse.ir.weights import Weights


class Exporter:
    """Writes the graphsurgeon objects of a model back into its proto.

    `claimed`: ids of new constants that a graph has already taken.
    """

    def __init__(self, proto: onnx.ModelProto, weights: Weights, origins: Origins) -> None:
        self.proto = proto
        self.weights = weights
        self.origins = origins
        self.claimed: set[int] = set()

    def write(self, graph: Any) -> None:
        """Write `graph` into the model.

        Everything is built first, so that a graph that cannot be exported leaves the model unchanged.
        """
        main = self.graph(graph)
        functions = [self.function(f) for f in graph.functions]
        proto = self.proto
        imported = {"" if o.domain in STANDARD_DOMAINS else o.domain for o in proto.opset_import}
        used = {n.domain or "" for n in all_nodes(graph) if id(n) not in self.origins.nodes}
        proto.graph.CopyFrom(main)
        replace_all(proto.functions, functions)
        for domain in sorted(used - imported):
            proto.opset_import.add(domain=domain, version=1 if domain else newest_opset(proto.ir_version))
        self.weights.refresh()

    def graph(self, graph: Any) -> onnx.GraphProto:
        """The proto of a graph; of a new one, graphsurgeon's own export."""
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
        listed = self.inputs(origin, graph, {t.name for t in kept})
        replace_all(proto.input, [*listed, *self.listed_initializers(proto, {v.name for v in listed})])
        replace_all(proto.output, [self.described(t, origin.proto.output) for t in graph.outputs])
        replace_all(proto.value_info, [*self.value_infos(origin, alive), *new_value_infos(self.origins, graph)])
        replace_all(proto.quantization_annotation, [a for a in proto.quantization_annotation if alive.keeps(a.tensor_name)])
        return proto

    def function(self, function: Any) -> onnx.FunctionProto:
        """The proto of a function; of a new one, graphsurgeon's own export. New constants become Constant nodes."""
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
        """The new constants that this graph uses and that no graph exported before has taken."""
        found: dict[int, Any] = {}
        for tensor in (*(t for n in body.nodes for t in n.inputs), *body.outputs):
            if isinstance(tensor, gs.Constant) and id(tensor) not in self.origins.tensors and id(tensor) not in self.claimed:
                found[id(tensor)] = tensor
        self.claimed |= set(found)
        return list(found.values())

    def new_initializer(self, constant: Any) -> onnx.TensorProto:
        """The proto of a new constant."""
        return self.filled(onnx.TensorProto(), constant)

    def filled(self, proto: onnx.TensorProto, constant: Any) -> onnx.TensorProto:
        """The tensor of a constant with new values; large ones are held by the weights.

        Doc string and metadata of `proto` are kept. Values that numpy cannot represent are stored in the proto itself.
        """
        values = np.asarray(constant.values)
        if constant.export_dtype != constant.dtype or values.dtype == object:
            made: onnx.TensorProto = OnnxExporter.export_tensor_proto(constant)
        else:
            made = onnx.TensorProto(name=constant.name, data_type=helper.np_dtype_to_tensor_dtype(values.dtype))
            self.weights.fill(made, values)
        made.doc_string = proto.doc_string
        made.metadata_props.extend(proto.metadata_props)
        return made

    def kept_initializers(self, origin: BodyOrigin, graph: Any) -> list[onnx.TensorProto]:
        """The initializers to keep: those still used, and those that were unused before.

        They have their present names and values.
        """
        used = used_constants(graph)
        kept = []
        for proto in origin.proto.initializer:
            constant = origin.tensors[proto.name]
            if id(constant) in used or proto.name not in origin.used:
                kept.append(self.tensor(proto, constant))
        return kept

    def tensor(self, proto: onnx.TensorProto, constant: Any) -> onnx.TensorProto:
        """The proto of an initializer, changed only if it was renamed or has new values."""
        if isinstance(constant, gs.Constant) and self.has_new_values(constant):
            return self.filled(proto, constant)
        if constant.name == proto.name:
            return proto
        renamed = onnx.TensorProto()
        renamed.CopyFrom(proto)
        renamed.name = constant.name
        return renamed

    def has_new_values(self, constant: Any) -> bool:
        """Whether the values of an imported constant were changed.

        Reading them replaces the StoredValues, but changes nothing.
        """
        if isinstance(constant._values, StoredValues):
            return False
        stored = self.origins.tensors[id(constant)].values
        assert stored is not None
        original = stored.load()
        values = np.asarray(constant._values)
        alike = values.dtype == original.dtype and values.shape == original.shape
        return not (alike and values.tobytes() == original.tobytes())

    def inputs(self, origin: BodyOrigin, graph: Any, initializers: set[str]) -> list[onnx.ValueInfoProto]:
        """The inputs of a graph, initializers included that were listed as inputs.

        The original order is kept, unless the caller changed the order of the graph's inputs.
        """
        listed = [v for v in origin.proto.input if isinstance(origin.tensors[v.name], gs.Constant)]
        order = [v.name for v in origin.proto.input]
        found = [self.described(t, origin.proto.input) for t in graph.inputs]
        found += [v for v in listed if origin.tensors[v.name].name in initializers]
        places = {name: i for i, name in enumerate(order)}
        names = [v.name for v in found[: len(graph.inputs)]]
        if [n for n in order if n in names] == [n for n in names if n in places]:
            found.sort(key=lambda v: places.get(v.name, len(order)))
        return found

    def listed_initializers(self, graph: onnx.GraphProto, present: set[str]) -> list[onnx.ValueInfoProto]:
        """Input descriptions for the initializers that are not in `present`. Empty from IR version 4 on, which needs none."""
        if self.proto.ir_version >= FIRST_IR_WITH_DEFAULTS:
            return []
        missing = [t for t in graph.initializer if t.name not in present]
        return [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in missing]

    def described(self, tensor: Any, protos: Any) -> onnx.ValueInfoProto:
        """The description of a graph's input or output: the original among `protos`, or a new one if dtype or shape changed."""
        origin = self.origins.tensors.get(id(tensor))
        original = None if origin is None else next((v for v in protos if v.name == origin.name), None)
        if original is None or (isinstance(tensor, gs.Variable) and origin is not None and changed(tensor, origin)):
            made: onnx.ValueInfoProto = OnnxExporter.export_value_info_proto(tensor, do_type_check=True)
            return made
        return renamed_value(original, tensor.name)

    def value_infos(self, origin: BodyOrigin, alive: "Alive") -> list[onnx.ValueInfoProto]:
        """The recorded types of values that still exist, with their present names; new ones if dtype or shape changed."""
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
        """The proto of a node: a copy of the original one with the differences applied."""
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
        """The attributes of a node in the original order, followed by new ones."""
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
        """The proto of an attribute. `proto`, `before`: proto and value as imported; `value`: the present value."""
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
        """The attribute for a new body."""
        return AttributeProto(name=name, type=AttributeProto.GRAPH, g=self.graph(graph))


def newest_opset(ir_version: int) -> int:
    """The highest version of the standard operators that a model of this IR version may import."""
    return max(opset for (domain, opset), ir in helper.OP_SET_ID_VERSION_MAP.items() if domain == "ai.onnx" and ir <= ir_version)


@dataclass(frozen=True)
class Alive:
    """The values of a graph at import and now. `names`: imported name → present name."""

    before: set[str]
    after: set[str]
    names: Mapping[str, str]

    @classmethod
    def of(cls, origin: BodyOrigin, graph: Any, initializers: set[str]) -> "Alive":
        """The values of `graph`, which has these initializers now."""
        after = {t.name for n in graph.nodes for t in n.outputs} | {t.name for t in graph.inputs} | initializers
        return cls(set(origin.tensors), after, {name: tensor.name for name, tensor in origin.tensors.items()})

    def keeps(self, name: str) -> bool:
        """Whether to keep what is recorded about value `name`: it still exists, or never existed in the graph."""
        return name not in self.before or self.names[name] in self.after


def changed(tensor: Any, origin: TensorOrigin) -> bool:
    """Whether dtype or shape of a tensor differ from those imported."""
    return (tensor.dtype, tensor.shape if tensor.shape is None else list(tensor.shape)) != origin.described


def renamed_value(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    """`value` if it has this name, else a copy with the name."""
    if value.name == name:
        return value
    made = onnx.ValueInfoProto()
    made.CopyFrom(value)
    made.name = name
    return made


def new_value_infos(origins: Origins, graph: Any) -> list[onnx.ValueInfoProto]:
    """Descriptions of new values that have a dtype and a shape, inputs and outputs of the graph excepted."""
    ends = {id(t) for t in (*graph.inputs, *graph.outputs)}
    return [
        OnnxExporter.export_value_info_proto(t, do_type_check=False)
        for n in graph.nodes
        for t in n.outputs
        if id(t) not in origins.tensors and id(t) not in ends and t.name and t.dtype is not None and t.shape is not None
    ]


def used_constants(graph: Any) -> set[int]:
    """Ids of all tensors that a graph or a body inside it uses."""
    found = {id(t) for t in graph.outputs}
    for node in all_nodes(graph):
        found |= {id(t) for t in node.inputs}
        found |= {id(t) for value in node.attrs.values() if isinstance(value, gs.Graph) for t in value.outputs}
    return found


def all_nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph and of the bodies inside it."""
    for node in graph.nodes:
        yield node
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield from all_nodes(value)
