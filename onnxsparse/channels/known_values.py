"""Values that follow from constants and sizes, for channel rules that need them (indices, target sizes, repeats)."""

import math

from onnxsparse.analysis.node_evaluation import evaluate_node
from onnxsparse.channels.labelled_graph import Discovery
from onnxsparse.ir.weights import Array
from onnxsparse.ops import OpSpec, UnknownFact

MAX_COMPUTED = 1 << 16
"""Largest number of elements that is evaluated: far above any vector of sizes or indices; bounds the time of an evaluation."""


class Values:
    """Values by key, each evaluated once, when it is first asked for."""

    def __init__(self, found: Discovery) -> None:
        self.found = found
        self.known: dict[str, Array | None] = {**found.survey.shapes.values}

    def at(self, index: int, at: int) -> Array | None:
        """The value of a node's input. None if it is missing or unknown."""
        node = self.found.places[index].node
        return self.get(self.found.input_key(index, at)) if at < len(node.input) and node.input[at] else None

    def get(self, key: str) -> Array | None:
        """The value with this key. None if it is unknown, for example because it depends on activations."""
        if key not in self.known:
            self.known[key] = None  # ends the recursion in an invalid graph with a cycle
            self.known[key] = self._find(key)
        return self.known[key]

    def _find(self, key: str) -> Array | None:
        found = self.found
        graph, name = found.origins[key]
        tensor = None if graph.is_default(name) else found.stored(graph, name)
        if tensor is not None:
            return found.model.weights[tensor]
        index = found.makers.get(key)
        spec = None if index is None else found.spec(index)
        if index is None or spec is None or spec.random or spec.macs is not None or spec.body is not None:
            return None
        try:
            return self._compute(index, spec, key)
        except UnknownFact:
            return None  # a node that does not fit its op has no known value

    def _compute(self, index: int, spec: OpSpec, key: str) -> Array | None:
        node = self.found.places[index].node
        if spec.shape.value is not None:
            return spec.shape.value(self.found.view(index))
        shape = self.found.shape(key)
        if shape is None or None in shape or math.prod(d or 0 for d in shape) > MAX_COMPUTED:
            return None
        feeds = {}
        for at, name in enumerate(node.input):
            value = self.at(index, at)
            if name and (value is None or value.size > MAX_COMPUTED):
                return None
            if name and value is not None:
                feeds[name] = value
        made = evaluate_node(node, feeds, self.found.survey.context.opsets)
        return dict(zip(filter(None, node.output), made, strict=True))[self.found.origins[key][1]]
