"""Import: protos to graphsurgeon objects, with weights left unread."""

from collections import ChainMap
from collections.abc import Set
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, helper

from onnxsparse.ir.graph import overridable
from onnxsparse.ir.graphsurgeon.origins import (
    SIMPLE_FIELDS,
    BodyOrigin,
    NodeOrigin,
    Origins,
    StoredValues,
    TensorOrigin,
    held_back,
)
from onnxsparse.ir.protos import opset_of
from onnxsparse.ir.weights import Weights

REFERENCE_TYPES = {AttributeProto.FLOAT: float, AttributeProto.INT: int, AttributeProto.STRING: str}
"""Attribute type → Python type, as graphsurgeon describes a reference to an attribute of a function."""


class Importer:
    """Builds the graphsurgeon objects of a model, and records their protos in `origins`."""

    def __init__(self, proto: onnx.ModelProto, weights: Weights, origins: Origins) -> None:
        self.proto = proto
        self.weights = weights
        self.origins = origins

    def model_graph(self) -> Any:
        """The main graph of the model, with its functions, imports and IR version."""
        proto = self.proto
        functions = [self.function(f) for f in proto.functions]
        graph = self.graph(proto.graph, ChainMap(), overridable(proto))
        graph.functions = functions
        graph.import_domains = list(proto.opset_import)
        graph.opset = opset_of(self.proto) or graph.opset
        graph.ir_version = proto.ir_version
        return graph

    def graph(self, proto: onnx.GraphProto, outer: "ChainMap[str, Any]", defaults: Set[str] = frozenset()) -> Any:
        """The graph of a proto. `outer`: name → tensor of the graphs around it.

        `defaults`: inputs with defaults, which callers may override. They are imported as variables, not as constants.
        """
        own = {t.name: self.constant(t, t.name) for t in proto.initializer if t.name not in defaults}
        described = {v.name: v for v in (*proto.value_info, *proto.input, *proto.output)}
        made = [*(v.name for v in proto.input), *(o for node in proto.node for o in node.output if o)]
        for name in made:
            if name not in own:
                own[name] = self.variable(name, described.get(name))
        tensors = outer.new_child(own)
        nodes = [self.node(node, tensors) for node in proto.node]
        inputs = [own[v.name] for v in proto.input if not isinstance(own[v.name], gs.Constant)]
        outputs = [self.lookup(v.name, tensors) for v in proto.output]
        graph = gs.Graph(nodes, inputs, outputs, name=proto.name, doc_string=proto.doc_string, opset=opset_of(self.proto) or None)
        used = {t.name for t in own.values() if isinstance(t, gs.Constant) and (t.outputs or any(t is o for o in outputs))}
        self.origins.bodies[id(graph)] = BodyOrigin(graph, proto, own, used)
        return graph

    def function(self, proto: onnx.FunctionProto) -> Any:
        """The graphsurgeon function of a model-local function."""
        own = {name: self.variable(name, None) for name in (*proto.input, *(o for n in proto.node for o in n.output if o))}
        tensors = ChainMap(own)
        nodes = [self.node(node, tensors) for node in proto.node]
        inputs = [own[name] for name in proto.input]
        outputs = [self.lookup(name, tensors) for name in proto.output]
        function = gs.Function(proto.name, proto.domain, nodes, inputs, outputs, doc_string=proto.doc_string)
        self.origins.bodies[id(function)] = BodyOrigin(function, proto, own, set())
        return function

    def constant(self, proto: onnx.TensorProto, name: str) -> Any:
        """A constant whose values are read when needed. `name`: for messages."""
        values = StoredValues(self.weights, proto, name)
        made = gs.Constant(proto.name, values)
        self.origins.tensors[id(made)] = TensorOrigin(made, proto.name, values)
        return made

    def variable(self, name: str, described: onnx.ValueInfoProto | None) -> Any:
        """A variable with the dtype and shape that `described` records; None: nothing is recorded."""
        made = gs.Variable(name, *describe(described))
        shape = None if made.shape is None else list(made.shape)
        self.origins.tensors[id(made)] = TensorOrigin(made, name, described=(made.dtype, shape))
        return made

    def lookup(self, name: str, tensors: "ChainMap[str, Any]") -> Any:
        """The tensor of this name. An empty name gives graphsurgeon's empty tensor, an unknown one a new variable."""
        if not name:
            return gs.Variable.empty()
        if name not in tensors:
            tensors[name] = self.variable(name, None)  # an undefined value: onnx's checker reports it, not the import
        return tensors[name]

    def node(self, proto: onnx.NodeProto, tensors: "ChainMap[str, Any]") -> Any:
        """The node of a proto. Attributes that graphsurgeon cannot represent stay in the recorded proto."""
        values = {a.name: self.attribute(proto, a, tensors) for a in proto.attribute if not held_back(a)}
        inputs, outputs = ([self.lookup(name, tensors) for name in names] for names in (proto.input, proto.output))
        domain = proto.domain if proto.HasField("domain") else None
        made = gs.Node(proto.op_type, proto.name, dict(values), inputs, outputs, domain)
        snapshot = {name: list(v) if isinstance(v, list) else v for name, v in values.items()}
        self.origins.nodes[id(made)] = NodeOrigin(made, proto, snapshot)
        return made

    def attribute(self, node: onnx.NodeProto, proto: AttributeProto, tensors: "ChainMap[str, Any]") -> Any:
        """The value of an attribute as graphsurgeon represents it."""
        if proto.ref_attr_name:
            return gs.Node.AttributeRef(proto.ref_attr_name, REFERENCE_TYPES.get(proto.type, list))
        if proto.type == AttributeProto.TENSOR:
            return self.constant(proto.t, node.output[0] if node.output else node.name)
        if proto.type == AttributeProto.GRAPH:
            return self.graph(proto.g, tensors)
        value = getattr(proto, SIMPLE_FIELDS[proto.type])
        if proto.type in (AttributeProto.FLOATS, AttributeProto.INTS):
            return list(value)
        if proto.type == AttributeProto.STRINGS:
            return [decoded(v) for v in value]
        return decoded(value) if proto.type == AttributeProto.STRING else value


def decoded(value: bytes) -> str | bytes:
    """The text of UTF-8 bytes; the bytes themselves if they are not valid UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def describe(value: onnx.ValueInfoProto | None) -> tuple[Any, Any]:
    """numpy dtype and shape that a description records, each None if unknown.

    A symbolic size is its name, an unknown one None.
    """
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
