"""Operands that are assembled from stored tensors by moving elements, as torch.export writes the gates of an LSTM.

Such an operand is not a tensor of the model. Its elements are counted and pruned where they are stored. To find them:

1. Give each element of each stored tensor that is reached a number.
2. Run the same moves (Slice, Concat, Transpose, …) over the numbers in place of the values.
3. The numbers in the result say which stored elements it holds, and how often.
"""

from dataclasses import dataclass, field

import numpy as np

from onnxsparse.analysis.node_evaluation import evaluate_node
from onnxsparse.analysis.stored_weights import Resolver
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.weights import Array
from onnxsparse.ops import UnknownFact, find

MAX_ELEMENTS = 1 << 24
"""Largest operand that is traced, in elements. A number takes eight bytes, so this is 128 MB."""


@dataclass
class Assembly:
    """The element numbers of one operand. `starts`: stored tensor → number of its first element. `size`: numbers given so far."""

    resolver: Resolver
    starts: dict[str, int] = field(default_factory=dict)
    size: int = 0
    values: dict[tuple[str, str], Array] = field(default_factory=dict)

    def trace(self, graph: Graph, name: str) -> Array | None:
        """The numbers of the elements in `name`, in its shape; the values of an integer constant.

        None if the value is computed.
        """
        if (graph.scope, name) in self.values:
            return self.values[graph.scope, name]
        key = self.resolver.constant(graph, name)
        if key is not None:
            return self._leaf(key)
        producer = graph.producer(name)
        if producer is None:
            return None
        graph, index = producer
        node = graph.proto.node[index]
        spec = find(node.domain, node.op_type, self.resolver.opsets.get(node.domain, 1))
        if spec is None or not spec.shape.moves:
            return None
        feeds = {i: self.trace(graph, i) for i in node.input if i}
        known = {i: a for i, a in feeds.items() if a is not None}
        if len(known) < len(feeds):
            return None
        try:
            outputs = evaluate_node(node, known, self.resolver.opsets)
        except UnknownFact:
            return None
        for output, value in zip(node.output, outputs, strict=False):
            self.values[graph.scope, output] = value
        return self.values.get((graph.scope, name))

    def _leaf(self, key: str) -> Array | None:
        values = self.resolver.weights[key]
        if values.dtype.kind == "i" and values.dtype.itemsize >= 4:
            return values  # indices, axes and sizes; weights are floats or bytes
        if self.size + values.size > MAX_ELEMENTS:
            return None
        start = self.starts.setdefault(key, self.size)
        self.size = max(self.size, start + values.size)
        return np.arange(start, start + values.size, dtype=np.int64).reshape(values.shape)


def sources(resolver: Resolver, graph: Graph, name: str) -> dict[str, int] | None:
    """Stored tensor → how often `name` holds each of its elements.

    None if the value is computed, or if the elements of one tensor occur unequally often.
    """
    assembly = Assembly(resolver)
    numbers = assembly.trace(graph, name)
    if numbers is None or not assembly.starts:
        return None
    counts = np.bincount(numbers.reshape(-1), minlength=assembly.size)
    found: dict[str, int] = {}
    for key, start in assembly.starts.items():
        own = counts[start : start + resolver.weights[key].size]
        if not own.size or own.min() != own.max() or own.min() == 0:
            return None
        found[key] = int(own.min())
    return found
