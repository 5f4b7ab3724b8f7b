"""Common to all folds: what is known of a node of an onnx-graphsurgeon graph, and exchanging tensors in it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnxsparse.ir.graphsurgeon.origins import StoredValues
from onnxsparse.ir.model import Model
from onnxsparse.ir.new_tensors import Names
from onnxsparse.ir.sparse import written_bytes
from onnxsparse.ops import OpSpec, OpView, find

FIELD_BYTES = 4
"""Bytes for the tag and length of a message within its parent, estimated: one for the tag, up to three for lengths below 2 MB."""


@dataclass
class Folding:
    """The state of a fold, and its result."""

    model: Model
    """The model being folded."""
    may_grow: bool = False
    """Whether the file may become larger."""
    left: int = 0
    """Number of folds left out because the file would grow."""
    stored: dict[int, tuple[Any, int]] = field(default_factory=dict)
    """Identity of a constant → the constant, and its bytes in the file before the fold."""
    exposed: set[int] = field(default_factory=set)
    """Identities of the constants that are outputs of the graph or of a body: their values stay as they are."""
    notes: dict[str, int] = field(default_factory=dict)
    """Description of a fold → how often it was made."""
    names: dict[str, str] = field(default_factory=dict)
    """Name of a new tensor → the tensor it was derived from."""

    @cached_property
    def unused(self) -> Names:
        """Names of tensors that are unused in the model."""
        return Names(self.model.proto)

    def look(self, graph: Any) -> None:
        """Record which constants are outputs, and the bytes of all constants before any is read.

        Reading loads a constant, after which its stored form is unknown.
        """
        for body in bodies(graph):
            self.exposed |= {id(output) for output in body.outputs}
            tensors = [t for node in body.nodes for t in (*node.inputs, *node.attrs.values())]
            for constant in tensors:
                if isinstance(constant, gs.Constant) and isinstance(constant._values, StoredValues):
                    tensor = constant._values.tensor
                    header = onnx.TensorProto(name=constant.name, dims=tensor.dims, data_type=tensor.data_type)
                    size = header.ByteSize() + FIELD_BYTES + written_bytes(tensor, self.model.weights)
                    self.stored[id(constant)] = (constant, size)

    def count(self, what: str) -> None:
        """Count a fold."""
        self.notes[what] = self.notes.get(what, 0) + 1

    def spec(self, node: Any) -> OpSpec | None:
        """What is known of the node's op. None for an unknown op."""
        domain = node.domain or ""
        return find(domain, node.op, self.model.opset(domain))

    def view(self, node: Any) -> OpView:
        """The node with its attributes, names and the shapes of its initializers; without bodies, which folding rules do not
        read.
        """
        plain = {name: value for name, value in node.attrs.items() if not isinstance(value, gs.Graph)}
        proto = helper.make_node(
            node.op, [t.name for t in node.inputs], [t.name for t in node.outputs], name=node.name, domain=node.domain or ""
        )
        proto.attribute.extend(OnnxExporter.export_attributes(plain))
        shapes = tuple(tuple(t.shape) if isinstance(t, gs.Constant) else None for t in node.inputs)
        return OpView(proto, shapes, ())


def bodies(graph: Any) -> Iterator[Any]:
    """The bodies within a graph, inner ones first, then the graph itself."""
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield from bodies(value)
    yield graph


def is_output(graph: Any, tensor: Any) -> bool:
    """Whether the tensor is an output of the graph."""
    return any(o is tensor for o in graph.outputs)


def rewire(tensor: Any, other: Any, users: list[Any]) -> None:
    """Let `users` read `other` instead of `tensor`."""
    for user in users:
        user.inputs = [other if i is tensor else i for i in user.inputs]


def remove(graph: Any, nodes: Sequence[Any]) -> None:
    """Remove nodes of a graph whose outputs are unused."""
    for node in nodes:
        node.inputs.clear()
        node.outputs.clear()
    # graphsurgeon compares nodes field by field, so list.remove would be quadratic in large graphs
    gone = {id(node) for node in nodes}
    graph.nodes[:] = [node for node in graph.nodes if id(node) not in gone]


def is_constant_node(node: Any) -> bool:
    """Whether the node is a Constant with a tensor value."""
    return isinstance(node.attrs.get("value"), gs.Constant) and not node.inputs
