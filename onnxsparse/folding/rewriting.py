"""What every fold needs: what is known of a node of an onnx-graphsurgeon graph, and how tensors are exchanged in it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnxsparse.ir.graphsurgeon.origins import StoredValues
from onnxsparse.ir.model import Model
from onnxsparse.ir.sparse import written_bytes
from onnxsparse.ops import OpSpec, OpView, find

FIELD_BYTES = 4
"""Of a message in its parent: its tag and length."""


@dataclass
class Folding:
    """What was done, and which tensor each new one was made from.

    `may_grow`: whether the file may get larger by it; `left`: how many folds were left for that.
    """

    model: Model
    may_grow: bool = False
    left: int = 0
    stored: dict[int, tuple[Any, int]] = field(default_factory=dict)
    """Constants as they came, by identity, and the bytes of each in the file."""
    notes: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def look(self, graph: Any) -> None:
        """Note what constants take in the file, before any is read, which loads it."""
        for body in bodies(graph):
            tensors = [t for node in body.nodes for t in (*node.inputs, *node.attrs.values())]
            for constant in tensors:
                if isinstance(constant, gs.Constant) and isinstance(constant._values, StoredValues):
                    tensor = constant._values.tensor
                    header = onnx.TensorProto(name=constant.name, dims=tensor.dims, data_type=tensor.data_type)
                    size = header.ByteSize() + FIELD_BYTES + written_bytes(tensor, self.model.weights)
                    self.stored[id(constant)] = (constant, size)

    def count(self, what: str) -> None:
        self.notes[what] = self.notes.get(what, 0) + 1

    def spec(self, node: Any) -> OpSpec | None:
        domain = node.domain or ""
        return find(domain, node.op, self.model.opset(domain))

    def view(self, node: Any) -> OpView:
        """The node's attributes, names and the shapes of its initializers; without bodies, which no rule here looks at."""
        plain = {name: value for name, value in node.attrs.items() if not isinstance(value, gs.Graph)}
        proto = helper.make_node(
            node.op, [t.name for t in node.inputs], [t.name for t in node.outputs], name=node.name, domain=node.domain or ""
        )
        proto.attribute.extend(OnnxExporter.export_attributes(plain))
        shapes = tuple(tuple(t.shape) if isinstance(t, gs.Constant) else None for t in node.inputs)
        return OpView(proto, shapes, ())


def bodies(graph: Any) -> Iterator[Any]:
    """A graph and, before it, the bodies inside it."""
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield from bodies(value)
    yield graph


def is_output(graph: Any, tensor: Any) -> bool:
    return any(o is tensor for o in graph.outputs)


def rewire(tensor: Any, other: Any, users: list[Any]) -> None:
    for user in users:
        user.inputs = [other if i is tensor else i for i in user.inputs]


def is_constant_node(node: Any) -> bool:
    return isinstance(node.attrs.get("value"), gs.Constant) and not node.inputs
