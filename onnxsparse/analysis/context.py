"""Facts about one graph that several analyses need, computed once for each state of the graph."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx

from onnxsparse.analysis.element_types import typed_values
from onnxsparse.analysis.stored_weights import Resolver
from onnxsparse.ir.graph import Graph, captured, main_graph
from onnxsparse.ir.model import Model
from onnxsparse.ir.protos import opsets_of
from onnxsparse.ops import OpSpec, find


@dataclass(frozen=True, eq=False)
class GraphContext:
    """One graph of a model in one state: the main graph, or a body, whose `parent` is the context of the graph around it.

    Everything is computed at first use, and describes the graph as it was then. A pass that changes the graph builds a new
    context afterwards.
    """

    model: Model
    graph: Graph
    opsets: dict[str, int]
    """Domain → imported version."""
    parent: "GraphContext | None" = None

    @cached_property
    def nodes(self) -> list[onnx.NodeProto]:
        """The graph's nodes in order. `specs` and `bodies` have one entry for each."""
        return list(self.graph.proto.node)

    @cached_property
    def specs(self) -> list[OpSpec | None]:
        """The op table's entry for each node; None for an unknown op."""
        return [self.spec(node) for node in self.nodes]

    def spec(self, node: onnx.NodeProto) -> OpSpec | None:
        """The op table's entry for a node, which need not be in this graph; None for an unknown op."""
        return find(node.domain, node.op_type, self.opsets.get(node.domain, 1))

    @cached_property
    def resolver(self) -> Resolver:
        """Finds the stored tensor that a value is a view of. Bodies share that of the main graph."""
        return Resolver(self.model.weights, self.opsets) if self.parent is None else self.parent.resolver

    @cached_property
    def types(self) -> dict[str, int]:
        """Value of the main graph → element type, 0 if unknown."""
        return typed_values(self.model) if self.parent is None else self.parent.types

    @cached_property
    def outputs(self) -> frozenset[str]:
        """The names of the graph's outputs."""
        return frozenset(value.name for value in self.graph.proto.output)

    @cached_property
    def captured(self) -> frozenset[str]:
        """The values of this graph and those around it that bodies of its nodes use."""
        return frozenset(name for node in self.nodes for name in captured(node))

    def readers(self, name: str) -> list[int]:
        """Indices of the nodes that use a value, nodes included whose bodies use it."""
        return self.graph.consumers.get(name, [])

    @cached_property
    def bodies(self) -> list[dict[str, "GraphContext"]]:
        """For each node, attribute name → context of the body."""
        return [
            {name: GraphContext(self.model, body, self.opsets, self) for name, body in self.graph.bodies(index).items()}
            for index in range(len(self.nodes))
        ]

    def with_bodies(self) -> "Iterator[GraphContext]":
        """This context and those of all bodies inside, at any depth."""
        yield self
        for inner in self.bodies:
            for body in inner.values():
                yield from body.with_bodies()

    @cached_property
    def constants(self) -> frozenset[str]:
        """The values that follow from constants alone: they depend on no input of the model and on no random number."""
        return self.follow_constants()

    def reads_constants_alone(self, index: int) -> bool:
        """Whether every input of a node is in `constants`."""
        return all(name in self.constants for name in self.nodes[index].input if name)

    def follow_constants(
        self, *, defaults: bool = False, sizes: bool = False, bodies: bool = False, integers: bool = True
    ) -> frozenset[str]:
        """The values that follow from constants alone, by the rules of the caller.

        They are the initializers of this graph and those around it, and the outputs of known ops without random numbers whose
        inputs are all among them.

        `defaults`: whether defaults of inputs count, as in a run in which no caller overrides them.
        `sizes`: whether values computed from shapes alone (Shape, Size) count, which a compiler knows.
        `bodies`: whether results of a node count whose bodies capture nothing. By default they do not, since no runtime folds
        such a node. `integers`: if False, Constant nodes that hold integers do not count, so that a weight that is reshaped by
        one of them does not count as computed.
        """
        found = set(self.graph.initializers) - (frozenset() if defaults else self.graph.overridable)
        if self.parent is not None:
            found |= self.parent.follow_constants(defaults=defaults, sizes=sizes, bodies=bodies, integers=integers)
        for node, spec in zip(self.nodes, self.specs, strict=True):
            if spec is None or spec.random or not (integers or node.input or holds_floats(node)):
                continue
            closed = spec.body is None or (bodies and not any(True for _ in captured(node)))
            if closed and ((sizes and spec.shape.value is not None) or all(name in found for name in node.input if name)):
                found.update(name for name in node.output if name)
        return frozenset(found)


def main_context(model: Model, proto: onnx.ModelProto | None = None) -> GraphContext:
    """The context of a model's main graph. `proto`: the model in another form, as with calls inlined; None: as it is."""
    proto = model.proto if proto is None else proto
    return GraphContext(model, main_graph(proto), opsets_of(proto))


FLOATS = frozenset((onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE))


def holds_floats(node: onnx.NodeProto) -> bool:
    """Whether an attribute of a node is a tensor of floats, as in a Constant."""
    return any(attribute.t.data_type in FLOATS for attribute in node.attribute)
