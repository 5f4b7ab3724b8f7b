"""Upgrade of a model to opset 13 in place, by the rules of `ops/raising.py`. Bodies and functions are included.

onnx's version converter is not used: it loses functions, and the metadata of nodes and graphs.
"""

import onnx
from onnx import helper, numpy_helper

from onnxsparse.analysis.recorded_shapes import collect, element_types, weightless
from onnxsparse.analysis.shape_inference import Shapes, run_inference
from onnxsparse.analysis.stored_weights import Resolver
from onnxsparse.ir.graph import FIRST_IR_WITH_DEFAULTS, Graph
from onnxsparse.ir.model import Model
from onnxsparse.ir.new_tensors import Names
from onnxsparse.ir.protos import replace_all
from onnxsparse.ir.weights import Array, Weights, function_scopes
from onnxsparse.ops import STANDARD_DOMAINS
from onnxsparse.ops.raising import OLDEST_OPSET, RAISED_OPSET, CannotRaise, Raise, raise_node


def raise_opset(model: Model) -> str | None:
    """Upgrade the standard domain to opset 13 if it is lower. Returns None if that succeeded, else the reason; then nothing
    changed.

    The IR version stays: onnx's checker and onnxruntime accept opset 13 with any version from 3 on.
    """
    if model.opset() >= RAISED_OPSET:
        return None
    if model.proto.training_info:
        return "it holds graphs for training"
    work = model.copy()
    try:
        Raiser(model, work.proto).run()
    except CannotRaise as reason:
        return str(reason)
    model.assign(work)
    return None


def shapes_of_every_run(model: Model) -> Shapes:
    """The shapes and element types that hold for every input."""
    inferred = run_inference(weightless(model.proto, model.weights))[0].graph
    return Shapes(collect(inferred), types=dict(element_types(inferred)))


class Raiser:
    """Upgrades `proto`, a copy of the proto of `model`."""

    def __init__(self, model: Model, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.shapes = shapes_of_every_run(model)
        self.resolver = Resolver(model.weights, {})
        self.functions = {(f.domain, f.name) for f in proto.functions}
        self.fresh = Names(proto).fresh

    def run(self) -> None:
        """Upgrade the main graph, its bodies and all functions. Raises CannotRaise, which names the node."""
        RaisedGraph(self, Graph(self.proto.graph), raised_import(self.proto), self.shapes).run()
        for scope, function in function_scopes(self.proto):
            if all(o.domain not in STANDARD_DOMAINS or o.version >= RAISED_OPSET for o in function.opset_import):
                continue
            graph = onnx.GraphProto(node=function.node, output=[onnx.ValueInfoProto(name=name) for name in function.output])
            RaisedGraph(self, Graph(graph, scope, path=scope), raised_import(function), None).run()
            replace_all(function.node, graph.node)


class RaisedGraph:
    """Upgrades one graph and the bodies in it. `version`: the opset that it was written in.

    `shapes`: of its values; None in a function, whose inputs may be anything. `made`: constants added so far.
    """

    def __init__(self, raiser: Raiser, graph: Graph, version: int, shapes: Shapes | None) -> None:
        self.raiser = raiser
        self.graph = graph
        self.version = version
        self.shapes = shapes
        self.made: dict[str, Array] = {}
        self.read = {*graph.consumers, *(output.name for output in graph.proto.output)}

    def run(self) -> None:
        """Upgrade all nodes, those of bodies first. Raises CannotRaise, which names the node."""
        ordered: list[onnx.NodeProto] = []
        for index, node in enumerate(self.graph.proto.node):
            for body in self.graph.bodies(index).values():
                RaisedGraph(self.raiser, body, self.version, self.shapes).run()
            ordered += self._raised(index, node)
        if len(ordered) > len(self.graph.proto.node):
            replace_all(self.graph.proto.node, ordered)

    def _raised(self, index: int, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The upgraded node, with the nodes that are added before and after it."""
        if node.domain not in STANDARD_DOMAINS or (node.domain, node.op_type) in self.raiser.functions:
            return [node]
        constants: list[onnx.NodeProto] = []
        name = self.graph.names[index]
        asked = Raise(
            node,
            self._shape(node),
            self._kind(node),
            constant=self._constant,
            is_used=self.read.__contains__,
            fresh=self.raiser.fresh,
            tensor=lambda wanted, value: self._tensor(wanted, value, constants),
        )
        try:
            raise_node(asked, self.version)
        except CannotRaise as reason:
            raise CannotRaise(f"{node.op_type} '{name}': {reason}") from None
        return [*constants, *asked.before, node, *asked.behind]

    def _shape(self, node: onnx.NodeProto) -> tuple[int | None, ...] | None:
        return self.shapes.get(self.graph.scope, node.input[0]) if self.shapes is not None and node.input else None

    def _kind(self, node: onnx.NodeProto) -> int | None:
        return self.shapes.kind(self.graph.scope, node.input[0]) or None if self.shapes is not None and node.input else None

    def _constant(self, name: str) -> Array | None:
        if name in self.made or self.shapes is None:
            return self.made.get(name)
        key = self.raiser.resolver.constant(self.graph, name)
        return None if key is None else self._weights[key]

    @property
    def _weights(self) -> Weights:
        return self.raiser.resolver.weights

    def _tensor(self, wanted: str, value: Array, constants: list[onnx.NodeProto]) -> str:
        """Add a constant, and return its name. It is an initializer where that needs no input of the same name.

        It is a Constant node in a function, which has no initializers, and in a body below IR version 4.
        """
        name, graph = self.raiser.fresh(wanted), self.graph
        self.made[name] = value
        tensor = numpy_helper.from_array(value, name)
        listed = self.raiser.proto.ir_version < FIRST_IR_WITH_DEFAULTS
        if self.shapes is None or (graph.scope and listed):
            constants.append(helper.make_node("Constant", [], [name], name=self.raiser.fresh(f"{name}_Constant"), value=tensor))
            return name
        graph.proto.initializer.append(tensor)
        if listed:
            graph.proto.input.append(helper.make_tensor_value_info(name, tensor.data_type, value.shape))
        return name


def raised_import(proto: onnx.ModelProto | onnx.FunctionProto) -> int:
    """Set the import of the standard domain to 13, and return the former version.

    Raises CannotRaise for a version below OLDEST_OPSET, for which there are no rules.
    """
    imports = [o for o in proto.opset_import if o.domain in STANDARD_DOMAINS]
    version = max((o.version for o in imports), default=0)
    if version < OLDEST_OPSET:
        raise CannotRaise(f"it is written in opset {version}, and upgrades from below {OLDEST_OPSET} are not supported")
    for entry in imports:
        entry.version = RAISED_OPSET
    return version
