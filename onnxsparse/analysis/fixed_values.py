"""Values that follow from constants and fixed sizes, whatever the open sizes of the file are.

A shape with open sizes is known in part: `Gather(Shape(x), 1)` is 3 for an x of shape N × 3. To find the known part:

1. Compute each small value twice, with two different numbers in place of every open size (STAND_INS).
2. Compute only ops that move elements from such a value: any other op could give equal results by accident.
3. A value that is equal both times does not depend on open sizes.
"""

import math
from dataclasses import dataclass

import numpy as np

from onnxsparse.analysis.context import GraphContext
from onnxsparse.analysis.node_evaluation import evaluate_node
from onnxsparse.analysis.shape_inference import Shapes
from onnxsparse.analysis.shape_propagation import MAX_VALUE_ELEMENTS
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.weights import Array
from onnxsparse.ops import OpSpec, OpView, UnknownFact

STAND_INS = (0, (1 << 40) + 7)
"""The two numbers for an open size. No real size is as large as the second."""


@dataclass(frozen=True)
class Twice:
    """A value computed with each of the two stand-ins."""

    first: Array
    second: Array

    @property
    def is_known(self) -> bool:
        """Whether the value depends on no open size."""
        return self.first.shape == self.second.shape and np.array_equal(self.first, self.second)


class FixedValues:
    """The fixed values of a model. `shapes`: inferred with its open sizes left open."""

    def __init__(self, context: GraphContext, shapes: Shapes) -> None:
        self.context = context
        self.shapes = shapes
        self.resolver = context.resolver
        self.found: dict[tuple[str, str], Twice | None] = {}

    def get(self, graph: Graph, name: str) -> Array | None:
        """The value of `name` as seen from `graph`.

        None if it depends on an open size or an input, or has over MAX_VALUE_ELEMENTS.
        """
        found = self._twice(graph, name)
        return None if found is None or not found.is_known else found.first

    def _twice(self, graph: Graph, name: str) -> Twice | None:
        key = (graph.scope, name)
        if key not in self.found:
            self.found[key] = None  # ends the recursion in an invalid graph with a cycle
            self.found[key] = self._find(graph, name)
        return self.found[key]

    def _find(self, graph: Graph, name: str) -> Twice | None:
        stored = None if graph.is_default(name) else self.resolver.constant(graph, name)
        if stored is not None:
            values = (
                self.resolver.weights[stored] if math.prod(self.resolver.weights.shape(stored)) <= MAX_VALUE_ELEMENTS else None
            )
            return None if values is None else Twice(values, values)
        made = graph.producer(name)
        if made is None:
            return None
        graph, index = made
        node = graph.proto.node[index]
        spec = self.context.spec(node)
        if spec is None or spec.random or spec.macs is not None or spec.body is not None or len(node.output) != 1:
            return None
        return self._of_sizes(graph, index, spec) if spec.shape.value is not None else self._computed(graph, index, spec)

    def _of_sizes(self, graph: Graph, index: int, spec: OpSpec) -> Twice | None:
        node = graph.proto.node[index]
        shape = self.shapes.get(graph.scope, node.input[0])
        if shape is None or spec.shape.value is None:
            return None
        views = [OpView(node, (tuple(other if d is None else d for d in shape),), ()) for other in STAND_INS]
        try:
            return Twice(*(spec.shape.value(view) for view in views))
        except UnknownFact:
            return None

    def _computed(self, graph: Graph, index: int, spec: OpSpec) -> Twice | None:
        node = graph.proto.node[index]
        given = [self._twice(graph, name) if name else None for name in node.input]
        if not given or any(name and found is None for name, found in zip(node.input, given, strict=True)):
            return None
        open_at = [at for at, found in enumerate(given) if found is not None and not found.is_known]
        if open_at and (open_at != [0] or not spec.shape.moves):
            return None
        made = []
        for side in ("first", "second"):
            feeds = {name: getattr(found, side) for name, found in zip(node.input, given, strict=True) if found is not None}
            try:
                values = evaluate_node(node, feeds, self.context.opsets)
            except UnknownFact:
                return None
            if values[0].size > MAX_VALUE_ELEMENTS:
                return None
            made.append(values[0])
        return Twice(*made)
