"""Which values of a graph can be negative."""

import onnx

from onnxsparse.analysis.context import GraphContext
from onnxsparse.ops import OpView, Quant, Sign

THROUGH = (Quant.FOLLOW, Quant.BOUNDARY)
"""Roles of ops that only move the values of their first input, or change them between integers and floats."""


class Signs:
    """The signs of a graph's values. `nonnegative`: values known to be nonnegative; for integers, by the real values they
    represent.

    Inputs of the model are among them: their range is for the caller to respect.
    """

    def __init__(self, context: GraphContext) -> None:
        self.graph, self.nodes, self.specs, self.resolver = context.graph, context.nodes, context.specs, context.resolver
        self.nonnegative = {value.name for value in context.graph.proto.input} - set(context.graph.initializers)

    def may_be_negative(self, name: str) -> bool:
        """Whether a value can be negative; True if that is unknown."""
        pending, seen = [name], set()
        while pending:
            value = pending.pop()
            if value in seen or value in self.nonnegative:
                continue
            seen.add(value)
            sources = self._sources(value)
            if sources is None:
                return True
            pending += sources
        self.nonnegative |= seen
        return False

    def _sources(self, name: str) -> list[str] | None:
        """The values that decide whether `name` can be negative: it cannot if none of them can.

        None if it can anyway, or is unknown.
        """
        key = self.resolver.constant(self.graph, name)
        if key is not None:
            values = self.resolver.weights[key]
            return [] if values.dtype.kind == "f" and float(values.min(initial=0)) >= 0 else None
        index = self.graph.producers.get(name)
        spec = None if index is None else self.specs[index]
        if index is None or spec is None:
            return None
        node = self.nodes[index]
        if spec.quant.sign is Sign.NONNEGATIVE or (spec.quant.floor is not None and spec.quant.floor(self._view(node)) >= 0):
            return []
        if spec.quant.role in THROUGH:
            return [node.input[0]]
        return [i for i in node.input if i] if spec.quant.sign is Sign.KEPT or spec.quant.role is Quant.JOIN else None

    def _view(self, node: onnx.NodeProto) -> OpView:
        """A node of which no more is known than its attributes and constant inputs."""
        keys = {name: self.resolver.constant(self.graph, name) for name in node.input if name}
        return OpView(node, (), (), {name: self.resolver.weights[key] for name, key in keys.items() if key is not None})
