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
    """A constant as one node reads it."""

    node: int
    """Index of the node."""
    at: int
    """Position of the input."""
    tensor: str
    """The constant's name in the weights."""
    axes: Axes
    """Labels of its axes."""
    roles: dict[int, Role]
    """Axis → role, where it is not PER_CHANNEL."""


@dataclass(frozen=True)
class Operand:
    """An axis of a constant operand, stored or computed (for example by a DequantizeLinear)."""

    node: int
    """Index of the node that reads it."""
    labels: Labels
    """Labels of the axis."""
    role: Role
    """What the axis does for the node."""


@dataclass(frozen=True)
class Place:
    """One node of the model, in the main graph or in the body of an If, Loop or Scan."""

    graph: Graph
    """The graph that holds it."""
    node: onnx.NodeProto
    """The node."""
    name: str
    """The node's name, unique in the model."""
    bodies: tuple[Graph, ...] = ()
    """Graphs in its attributes."""


def all_places(graph: Graph) -> Iterator[Place]:
    """Every node of a graph in order; the nodes of a node's bodies come before the node."""
    for index, node in enumerate(graph.proto.node):
        inner = tuple(graph.bodies(index).values())
        for body in inner:
            yield from all_places(body)
        yield Place(graph, node, graph.names[index], inner)


@dataclass
class Discovery:
    """The labelled graph: labels of every activation's axes and of every constant where it is used, and what ties them.

    Nodes are numbered as in `places`. A value's key is its name in the main graph, and starts with the scope in a body.
    """

    model: Model
    """The model, a copy of the caller's."""
    survey: Survey
    """Its layers and shapes."""
    context: GraphContext
    """The main graph as it is; that of `survey` has calls of functions inlined."""
    space: LabelSpace = field(default_factory=LabelSpace)
    """Labels, and what ties them."""
    axes: dict[str, Axes | None] = field(default_factory=dict)
    """Key → labels of an activation's axes. None: the rank is unknown."""
    uses: list[Use] = field(default_factory=list)
    """Constants with followed axes, one entry per input that reads one."""
    operands: list[Operand] = field(default_factory=list)
    """Axes of constant operands with a role."""
    contracted: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Node → (input, axis) pairs that it sums over."""
    stopped: dict[str, str] = field(default_factory=dict)
    """Name of a node through which no cut passes → why."""
    origins: dict[str, tuple[Graph, str]] = field(default_factory=dict)
    """Key → (graph, name) of the value."""
    open_sizes: bool = False
    """Whether some node is in `stopped` because of a size that the caller can supply."""

    @property
    def graph(self) -> Graph:
        """The main graph."""
        return self.context.graph

    @cached_property
    def places(self) -> list[Place]:
        """Every node, those of bodies before the node that holds them."""
        return list(all_places(self.graph))

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """The main graph and every body."""
        return (self.graph, *(body for place in self.places for body in place.bodies))

    @cached_property
    def makers(self) -> dict[str, int]:
        """Key → index of the node that produces the value."""
        return {self.key(p.graph, name): i for i, p in enumerate(self.places) for name in p.node.output if name}

    def key(self, graph: Graph, name: str) -> str:
        """The key of the value that `graph` knows by this name, which may belong to a graph around it."""
        while graph.parent is not None and name not in graph.defined:
            graph = graph.parent
        found = f"{graph.scope}/{name}" if graph.scope else name
        self.origins[found] = (graph, name)
        return found

    def input_key(self, index: int, at: int) -> str:
        """Key of a node's input."""
        place = self.places[index]
        return self.key(place.graph, place.node.input[at])

    def output_key(self, index: int, at: int) -> str:
        """Key of a node's output."""
        place = self.places[index]
        return self.key(place.graph, place.node.output[at])

    def tensor(self, index: int, at: int) -> str | None:
        """Name in the weights of an input that is an initializer or Constant. None for any other input."""
        place = self.places[index]
        return self.stored(place.graph, place.node.input[at])

    def stored(self, graph: Graph, name: str) -> str | None:
        """Name in the weights of a constant. None for any other value."""
        return self.survey.resolver.constant(graph, name) if name else None

    def shape(self, key: str) -> tuple[int | None, ...] | None:
        """Shape by key, None for each unknown size. None: the rank is unknown."""
        graph, name = self.origins[key]
        return self.survey.shapes.get(graph.scope, name)

    def view(self, index: int) -> OpView:
        """The node with its shapes, before the cut."""
        place = self.places[index]
        return self.survey.view(place.graph, place.node)

    def spec(self, index: int) -> OpSpec | None:
        """What is known of the node's op. None for an unknown op."""
        return self.survey.spec(self.places[index].node)
