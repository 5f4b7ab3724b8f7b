"""One graph of a model: producers and consumers of its values, and unique names of its nodes."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx

from onnxsparse.ir.weights import bodies, body_scope

FIRST_IR_WITH_DEFAULTS = 4
"""From this IR version on, an initializer with the name of an input is the default of that input, not a constant.

Below it, every initializer has to be listed as an input.
"""


@dataclass(frozen=True)
class Graph:
    """The main graph of a model, or the body of an If, Loop or Scan.

    `parent`: the graph around a body, whose values the body may use; None for the main graph.
    `scope`: identifies a body by the outputs and attributes that lead to it (`body_scope`); empty for the main graph.
    `path`: the same for messages, made of node names.
    `overridable`: the initializers that are defaults of inputs, so that a caller may override them.
    """

    proto: onnx.GraphProto
    scope: str = ""
    parent: "Graph | None" = None
    path: str = ""
    overridable: frozenset[str] = frozenset()

    @cached_property
    def names(self) -> list[str]:
        """The name of each node in messages, unique in the model.

        It is the node's own name if no other node of the graph has it, else `#<index> <first output>`. Nodes of a body are
        prefixed by its path.
        """
        prefix = f"{self.path}/" if self.path else ""
        return [prefix + name for name in self._own_names]

    @cached_property
    def _own_names(self) -> list[str]:
        """`names` without the prefix."""
        counts = Counter(node.name for node in self.proto.node)
        fallbacks = [fallback_name(index, node) for index, node in enumerate(self.proto.node)]
        taken = {"", *fallbacks, *(name for name, count in counts.items() if count > 1)}
        # a name that begins with the path of a body could equal that of a node in the body
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
        """Value → index of the node of this graph that produces it."""
        return {name: i for i, node in enumerate(self.proto.node) for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[int]]:
        """Value → indices of the nodes of this graph that use it, nodes included whose bodies use it."""
        found: dict[str, list[int]] = {}
        for index, node in enumerate(self.proto.node):
            for name in dict.fromkeys([*node.input, *captured(node)]):
                if name:
                    found.setdefault(name, []).append(index)
        return found

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        """Name → tensor. Sparse initializers are not among them."""
        return {t.name: t for t in self.proto.initializer}

    @cached_property
    def defined(self) -> frozenset[str]:
        """The values defined in this graph: outputs of nodes, initializers and inputs."""
        return frozenset((*self.producers, *self.initializers, *(value.name for value in self.proto.input)))

    def is_default(self, name: str) -> bool:
        """Whether `name`, as seen from this graph, is an input with a default, so that its value may be overridden."""
        graph = self
        while graph.parent is not None and name not in graph.defined:
            graph = graph.parent
        return name in graph.overridable

    def producer(self, name: str) -> "tuple[Graph, int] | None":
        """The graph and index of the node that produces `name`, in this graph or one around it.

        None for an input or initializer.
        """
        graph: Graph | None = self
        while graph is not None:
            if name in graph.producers:
                return graph, graph.producers[name]
            if name in graph.initializers:
                return None
            graph = graph.parent
        return None

    def bodies(self, index: int) -> "dict[str, Graph]":
        """The graphs that node `index` holds, by attribute name."""
        node = self.proto.node[index]
        return {
            a.name: Graph(g, body_scope(self.scope, node, a), self, f"{self.names[index]}.{a.name}")
            for a in node.attribute
            for g in bodies(a)
        }


def main_graph(proto: onnx.ModelProto) -> Graph:
    """The main graph of a model, with its `overridable` initializers."""
    return Graph(proto.graph, overridable=overridable(proto))


def overridable(proto: onnx.ModelProto) -> frozenset[str]:
    """The inputs that have a default.

    Below IR version 4 there are none: every initializer is listed as an input and is constant.
    """
    if proto.ir_version < FIRST_IR_WITH_DEFAULTS:
        return frozenset()
    return frozenset({value.name for value in proto.graph.input} & {tensor.name for tensor in proto.graph.initializer})


def fallback_name(index: int, node: onnx.NodeProto) -> str:
    """The name of a node that has none of its own: `#<index> <first output>`, or the op type if it has no output."""
    return f"#{index} {next(filter(None, node.output), node.op_type)}"


def captured(node: onnx.NodeProto) -> Iterator[str]:
    """The values of outer graphs that the bodies of a node use. A value may come several times."""
    for attribute in node.attribute:
        for body in bodies(attribute):
            own = {t.name for t in body.initializer} | {v.name for v in body.input} | {o for n in body.node for o in n.output}
            used = [i for n in body.node for i in (*n.input, *captured(n))]
            yield from (name for name in (*used, *(o.name for o in body.output)) if name not in own)


def all_nodes(graph: Graph) -> Iterable[tuple[str, onnx.NodeProto]]:
    """(name, node) of every node in a graph and its bodies."""
    for index, node in enumerate(graph.proto.node):
        yield graph.names[index], node
        for body in graph.bodies(index).values():
            yield from all_nodes(body)
