"""A graph with its surroundings: who makes a value, who uses it, what a node is called."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx

from onnxsparse.ir.weights import bodies, body_scope

FIRST_IR_WITH_DEFAULTS = 4
"""From here on an initializer that is an input as well is the default of that input."""


@dataclass(frozen=True)
class Graph:
    """One graph of a model: the main one, or the body of an If, Loop or Scan, whose outer values are its parent's.

    `scope` identifies a body by the outputs and attributes that lead to it, empty for the main graph. `path`: the same for
    people, by what the nodes are called. `overridable`: initializers that are inputs as well, so that their values are defaults,
    which a caller may override.
    """

    proto: onnx.GraphProto
    scope: str = ""
    parent: "Graph | None" = None
    path: str = ""
    overridable: frozenset[str] = frozenset()

    @cached_property
    def names(self) -> list[str]:
        """What each node is called, unique in the model: its own name where it has one that no other node of the graph has,
        else `#index first-output`; a body's nodes are preceded by its path.
        """
        prefix = f"{self.path}/" if self.path else ""
        return [prefix + name for name in self._own_names]

    @cached_property
    def _own_names(self) -> list[str]:
        counts = Counter(node.name for node in self.proto.node)
        fallbacks = [fallback_name(index, node) for index, node in enumerate(self.proto.node)]
        taken = {"", *fallbacks, *(name for name, count in counts.items() if count > 1)}
        # a name that begins like a body's path could be that of a node in the body
        holders = [
            (own, a.name)
            for node, fallback in zip(self.proto.node, fallbacks, strict=True)
            for a in node.attribute
            if bodies(a)
            for own in (node.name, fallback)
        ]
        inside = tuple(f"{own}.{attribute}/" for own, attribute in holders)
        return [
            fallback if node.name in taken or node.name.startswith(inside) else node.name
            for node, fallback in zip(self.proto.node, fallbacks, strict=True)
        ]

    @cached_property
    def producers(self) -> dict[str, int]:
        """Value → index of the node that makes it, within this graph."""
        return {name: i for i, node in enumerate(self.proto.node) for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[int]]:
        """Value → indices of the nodes that use it, a node whose body captures it included."""
        found: dict[str, list[int]] = {}
        for index, node in enumerate(self.proto.node):
            for name in dict.fromkeys([*node.input, *captured(node)]):
                if name:
                    found.setdefault(name, []).append(index)
        return found

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        return {t.name: t for t in self.proto.initializer}

    @cached_property
    def defined(self) -> frozenset[str]:
        """The values that are this graph's own."""
        return frozenset((*self.producers, *self.initializers, *(value.name for value in self.proto.input)))

    def is_default(self, name: str) -> bool:
        """Whether a value, as seen from here, is what an input is where the caller gives it no other."""
        graph = self
        while graph.parent is not None and name not in graph.defined:
            graph = graph.parent
        return name in graph.overridable

    def producer(self, name: str) -> "tuple[Graph, int] | None":
        """The graph and index of the node that makes `name`, here or in a graph around this one."""
        graph: Graph | None = self
        while graph is not None:
            if name in graph.producers:
                return graph, graph.producers[name]
            if name in graph.initializers:
                return None
            graph = graph.parent
        return None

    def bodies(self, index: int) -> "dict[str, Graph]":
        """The graphs node `index` holds, by attribute name."""
        node = self.proto.node[index]
        return {
            a.name: Graph(g, body_scope(self.scope, node, a), self, f"{self.names[index]}.{a.name}")
            for a in node.attribute
            for g in bodies(a)
        }


def main_graph(proto: onnx.ModelProto) -> Graph:
    """The main graph of a model, which knows its defaults."""
    return Graph(proto.graph, overridable=overridable(proto))


def overridable(proto: onnx.ModelProto) -> frozenset[str]:
    """The inputs that have a default. Below IR version 4 every initializer is listed as an input, and means a constant."""
    if proto.ir_version < FIRST_IR_WITH_DEFAULTS:
        return frozenset()
    return frozenset({value.name for value in proto.graph.input} & {tensor.name for tensor in proto.graph.initializer})


def fallback_name(index: int, node: onnx.NodeProto) -> str:
    return f"#{index} {next(filter(None, node.output), node.op_type)}"


def captured(node: onnx.NodeProto) -> Iterator[str]:
    """The outer values that a node's bodies use."""
    for attribute in node.attribute:
        for body in bodies(attribute):
            own = {t.name for t in body.initializer} | {v.name for v in body.input} | {o for n in body.node for o in n.output}
            used = [i for n in body.node for i in (*n.input, *captured(n))]
            yield from (name for name in (*used, *(o.name for o in body.output)) if name not in own)


def all_nodes(graph: Graph) -> Iterable[tuple[str, onnx.NodeProto]]:
    """Every node with what it is called, bodies included."""
    for index, node in enumerate(graph.proto.node):
        yield graph.names[index], node
        for body in graph.bodies(index).values():
            yield from all_nodes(body)
