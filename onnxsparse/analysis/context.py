"""What every analysis of a graph asks for, built once for each state of the graph and handed on."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx

from onnxsparse.analysis.element_types import typed_values
from onnxsparse.analysis.stored_weights import Resolver
from onnxsparse.ir.graph import Graph, captured, main_graph
from onnxsparse.ir.model import Model
from onnxsparse.ops import STANDARD_DOMAINS, OpSpec, find


@dataclass(frozen=True, eq=False)
class GraphContext:
    """One graph of a model in one state: its main graph, or a body, whose `parent` is the graph around it.

    Everything is computed when first asked for, and describes the graph as it was then. A pass that changes the graph makes a new
    context for what it does next.
    """

    model: Model
    graph: Graph
    opsets: dict[str, int]
    """Domain → imported version."""
    parent: "GraphContext | None" = None

    @cached_property
    def nodes(self) -> list[onnx.NodeProto]:
        """The graph's nodes in order; other lists here have one entry for each."""
        return list(self.graph.proto.node)

    @cached_property
    def specs(self) -> list[OpSpec | None]:
        """What is known of each node's op, None for an unknown op."""
        return [self.spec(node) for node in self.nodes]

    def spec(self, node: onnx.NodeProto) -> OpSpec | None:
        """What is known of the op of a node, which need not be in this graph; None for an unknown op."""
        domain = "" if node.domain in STANDARD_DOMAINS else node.domain
        return find(domain, node.op_type, self.opsets.get(domain, 1))

    @cached_property
    def resolver(self) -> Resolver:
        """Finds the stored tensor behind a value. Bodies share the main graph's."""
        return Resolver(self.model.weights, self.opsets) if self.parent is None else self.parent.resolver

    @cached_property
    def types(self) -> dict[str, int]:
        """Value → element type, as far as inference finds it."""
        return typed_values(self.model) if self.parent is None else self.parent.types

    @cached_property
    def outputs(self) -> frozenset[str]:
        """The values that leave the graph."""
        return frozenset(value.name for value in self.graph.proto.output)

    @cached_property
    def captured(self) -> frozenset[str]:
        """The values that bodies of the nodes read from outside of themselves."""
        return frozenset(name for node in self.nodes for name in captured(node))

    def readers(self, name: str) -> list[int]:
        """Indices of the nodes that read a value, those whose bodies capture it included."""
        return self.graph.consumers.get(name, [])

    @cached_property
    def bodies(self) -> list[dict[str, "GraphContext"]]:
        """For each node, the contexts of its bodies by attribute name."""
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
        """The values that follow from constants alone: no input of the model and no random number reaches them."""
        return self.follow_constants()

    def reads_constants_alone(self, index: int) -> bool:
        """Whether every input of a node is in `constants`."""
        return all(name in self.constants for name in self.nodes[index].input if name)

    def follow_constants(
        self, *, defaults: bool = False, sizes: bool = False, bodies: bool = False, integers: bool = True
    ) -> frozenset[str]:
        """The initializers, those of the graphs around included, and what known ops compute from them without random numbers.

        `defaults`: initializers that callers may override count as well, for the cost of a run in which none is. `sizes`: so
        does what an op computes from shapes alone, which a compiler settles. `bodies`: so do the results of a node whose bodies
        capture nothing, which have no range to calibrate; without it such a node is not followed, since no runtime folds it.
        `integers`: False leaves out the integers that Constant nodes hold, so that a weight which is reshaped by one of them
        does not count as computed.
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
    """The context of a model's main graph. `proto`: the model in another form, as without calls of functions."""
    proto = model.proto if proto is None else proto
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    return GraphContext(model, main_graph(proto), opsets | {"": model.opset()})


FLOATS = frozenset((onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE))


def holds_floats(node: onnx.NodeProto) -> bool:
    """Whether an attribute of a node is a tensor of floats, as of a Constant that is one."""
    return any(attribute.t.data_type in FLOATS for attribute in node.attribute)
