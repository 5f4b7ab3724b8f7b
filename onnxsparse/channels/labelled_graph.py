"""A model whose axes carry labels: every node in order, what reads which constant, and what ties the labels."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import onnx

from onnxsparse.analysis.context import GraphContext
from onnxsparse.analysis.layers import Survey
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.model import Model
from onnxsparse.ops import OpSpec, OpView
from onnxsparse.ops.coupling import Role
from onnxsparse.ops.labels import Axes, Labels, LabelSpace


@dataclass(frozen=True)
class Use:
    """A constant as one node reads it. `tensor`: its name in the weights."""

    node: int
    at: int
    tensor: str
    axes: Axes
    roles: dict[int, Role]


@dataclass(frozen=True)
class Operand:
    """An axis of a constant operand, stored or computed (as behind a DequantizeLinear), and what it does for its node."""

    node: int
    labels: Labels
    role: Role


@dataclass(frozen=True)
class Place:
    """One node of the model: in the main graph, or in the body of an If, Loop or Scan."""

    graph: Graph
    node: onnx.NodeProto
    name: str
    bodies: tuple[Graph, ...] = ()


def all_places(graph: Graph) -> Iterator[Place]:
    """Every node of a graph in order, what is in a node's bodies before the node."""
    for index, node in enumerate(graph.proto.node):
        inner = tuple(graph.bodies(index).values())
        for body in inner:
            yield from all_places(body)
        yield Place(graph, node, graph.names[index], inner)


@dataclass
class Discovery:
    """What a walk found: labels of every activation's axes, of every constant where it is used, and what ties them.

    Nodes are numbered as in `places`; values are called by their key, which is their name in the main graph, and begins with the
    scope in a body. `contracted`: node → (input, axis) pairs that it sums over; `stopped`: nodes no cut passes through, and why;
    `open_sizes`: whether that is because of sizes that are open, at one of them.
    """

    model: Model
    survey: Survey
    context: GraphContext
    space: LabelSpace = field(default_factory=LabelSpace)
    axes: dict[str, Axes | None] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    operands: list[Operand] = field(default_factory=list)
    contracted: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)
    origins: dict[str, tuple[Graph, str]] = field(default_factory=dict)
    open_sizes: bool = False

    @property
    def graph(self) -> Graph:
        """The main graph."""
        return self.context.graph

    @cached_property
    def places(self) -> list[Place]:
        return list(all_places(self.graph))

    @cached_property
    def makers(self) -> dict[str, int]:
        """Value → the node that makes it."""
        return {self.key(p.graph, name): i for i, p in enumerate(self.places) for name in p.node.output if name}

    def key(self, graph: Graph, name: str) -> str:
        """What a value is called that a graph knows by this name: its own, or one of a graph around it."""
        while graph.parent is not None and name not in graph.defined:
            graph = graph.parent
        found = f"{graph.scope}/{name}" if graph.scope else name
        self.origins[found] = (graph, name)
        return found

    def input_key(self, index: int, at: int) -> str:
        place = self.places[index]
        return self.key(place.graph, place.node.input[at])

    def output_key(self, index: int, at: int) -> str:
        place = self.places[index]
        return self.key(place.graph, place.node.output[at])

    def tensor(self, index: int, at: int) -> str | None:
        """The name in the weights of an input that is an initializer or Constant."""
        place = self.places[index]
        return self.stored(place.graph, place.node.input[at])

    def stored(self, graph: Graph, name: str) -> str | None:
        return self.survey.resolver.constant(graph, name) if name else None

    def shape(self, key: str) -> tuple[int | None, ...] | None:
        graph, name = self.origins[key]
        return self.survey.shapes.get(graph.scope, name)

    def view(self, index: int) -> OpView:
        place = self.places[index]
        return self.survey.view(place.graph, place.node)

    def spec(self, index: int) -> OpSpec | None:
        return self.survey.spec(self.places[index].node)
