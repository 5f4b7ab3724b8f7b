"""Removal of nodes from a model's main graph, and of everything that becomes unused."""

from collections.abc import Iterator, Set

import onnx
from onnx import helper

from onnxsparse.ir.graph import captured
from onnxsparse.ir.model import Model
from onnxsparse.ir.new_tensors import Additions
from onnxsparse.ir.protos import replace_all


class Removal:
    """Nodes to remove from the main graph, collected first and removed together by `write`.

    `aliases`: value → the value that its users read instead. `retyped`: value → new element type.
    `behind`: new nodes, by the index of the node that they follow.
    `loose`: constants to remove if they are unused at the end.
    `wanted`: value → new name, used if that is free.
    """

    def __init__(self, model: Model, outer: Set[str]) -> None:
        """`outer`: values that leave the main graph or that bodies capture, which keep their names."""
        self.model = model
        self.nodes = list(model.proto.graph.node)
        self.additions = Additions(model)
        self.outer = outer
        self.removed: set[int] = set()
        self.aliases: dict[str, str] = {}
        self.behind: dict[int, list[onnx.NodeProto]] = {}
        self.retyped: dict[str, int] = {}
        self.loose: set[str] = set()
        self.wanted: dict[str, str] = {}

    def remove(self, index: int, alias: str | None) -> None:
        """Mark a node for removal.

        `alias`: the value that users of its first output read instead; None if a new tensor takes its name.
        """
        self.removed.add(index)
        if alias is not None:
            self.aliases[self.nodes[index].output[0]] = alias
        self.loose.update(self.nodes[index].input[1:])

    def write(self) -> None:
        """Change the model:

        1. Leave out the removed nodes, and insert the new ones. A removed node whose result is an output of the graph, or is used
           in a body, becomes an Identity of its alias.
        2. Let all nodes read aliases.
        3. Rename values whose alias is an output, where possible, and leave out the Identity that this makes unnecessary.
        4. Write the new tensors, then remove constants that became unused.
        5. Update the recorded types.
        """
        nodes = [node for index in range(len(self.nodes)) for node in self._replacement(index)]
        for node in nodes:
            node.input[:] = [self._source(name) for name in node.input]
        made = {name for node in nodes for name in node.output}
        renamed = self._renamed(made)
        present = [n for n in nodes if not (n.output[0] in renamed.values() and n.output[0] in self.aliases)]
        for node in present:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
        replace_all(self.model.proto.graph.node, present)
        self.additions.write()  # before constants are removed, from which new tensors may be computed
        self._drop_loose()
        self._describe(renamed)

    def _replacement(self, index: int) -> Iterator[onnx.NodeProto]:
        """The node, or what replaces it, followed by the new nodes after it."""
        if index not in self.removed:
            yield self.nodes[index]
        else:
            result = self.nodes[index].output[0]
            if result in self.outer and result in self.aliases:
                yield helper.make_node("Identity", [self.aliases[result]], [result], name=self.nodes[index].name)
        yield from self.behind.get(index, [])

    def _source(self, name: str) -> str:
        while name in self.aliases:
            name = self.aliases[name]
        return name

    def _renamed(self, made: set[str]) -> dict[str, str]:
        """Old name → new name: a value whose alias is an output of the graph takes that name if it has no other use outside
        of the graph.
        """
        found: dict[str, str] = {}
        for name in self.aliases:
            source = self._source(name)
            if name in self.outer and source in made and source not in self.outer and source not in found:
                found[source] = name
        for name, wanted in self.wanted.items():
            if wanted not in made and name in made and name not in found:
                found[name] = wanted
        return found

    def _drop_loose(self) -> None:
        graph = self.model.proto.graph
        read = {name for node in graph.node for name in (*node.input, *captured(node))} | self.outer
        gone = self.loose - read
        replace_all(graph.node, [node for node in graph.node if node.input or not gone.intersection(node.output)])
        replace_all(graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in gone])
        replace_all(graph.input, [value for value in graph.input if value.name not in gone])
        self.model.weights.refresh()

    def _describe(self, renamed: dict[str, str]) -> None:
        """Update the recorded types: new names and element types, and no entries for values that no longer exist."""
        graph = self.model.proto.graph
        made = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
        kept: dict[str, onnx.ValueInfoProto] = {}
        for value in (*graph.value_info, *graph.input):
            value.type.tensor_type.elem_type = self.retyped.get(value.name, value.type.tensor_type.elem_type)
        for value in graph.value_info:
            if value.name in renamed or (value.name in made and value.name not in renamed.values()):
                value.name = renamed.get(value.name, value.name)
                kept.setdefault(value.name, value)
        outputs = {value.name for value in graph.output}
        replace_all(graph.value_info, [value for name, value in kept.items() if name not in outputs])
        annotated = [
            a for a in graph.quantization_annotation if not self.loose & {e.value for e in a.quant_parameter_tensor_names}
        ]
        replace_all(graph.quantization_annotation, annotated)
