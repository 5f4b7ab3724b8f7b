"""Layers: MACs of each linear op, the weights that it uses, and their sparsity.

    sparsity    = zero weights / weights
    sparsity_op = Σ zeros · uses / Σ weights · uses

where uses = MACs of the nodes that use a weight tensor / its elements. Definitions: Best of both, structured and unstructured
sparsity in neural networks (EuroMLSys 2023), doi 10.1145/3578356.3592583.

1. Inline calls of functions, and infer all shapes.
2. For each node with a MAC formula, compute its MACs, and find the stored tensor that each weight operand is a view of.
3. Bodies: of an If, count the branch with more MACs; of a Loop or Scan, multiply by the number of rounds, if it is constant.
4. Count the zeros of each stored tensor once.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import onnx

from onnxsparse.analysis.assembled_weights import sources
from onnxsparse.analysis.context import GraphContext, main_context
from onnxsparse.analysis.layer import Layer, Layers, UnknownNode, WeightUse, add_up
from onnxsparse.analysis.shape_inference import Shapes, infer_shapes
from onnxsparse.analysis.stored_weights import StoredWeight, count_zeros
from onnxsparse.ir.functions import find_calls, inlined
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.model import Model
from onnxsparse.ir.widths import integer_bits
from onnxsparse.ops import STANDARD_DOMAINS, OpSpec, OpView, Packing, UnknownFact, WeightSlot, Work
from onnxsparse.ops.sizes import OpenSize


def layers(model: Model, *, count: bool = True) -> Layers:
    """The linear ops of `model` for the input sizes in `model.binding`.

    `count=False`: weights are not read, and zeros are None. Raises ParamError for sizes at which a node cannot run, ModelError
    for damaged weights or calls that cannot be inlined.
    """
    return Survey(model).layers(count=count)


def with_zeros(found: list[Layer], model: Model) -> list[Layer]:
    """The layers with the zeros of their weights counted; a tensor that several layers use is read once."""
    zeros = {stored: count_zeros(stored, model.weights) for stored in {w.stored for layer in found for w in layer.weights}}
    return [replace(layer, weights=tuple(replace(w, zeros=zeros[w.stored]) for w in layer.weights)) for layer in found]


def with_shares(found: list[Layer]) -> list[Layer]:
    """The layers with `weight_share` filled in where their zero MACs are known."""
    weight_macs = add_up(found).weight_macs
    return [
        layer
        if layer.zero_macs is None or not layer.weights or not weight_macs
        else replace(layer, weight_share=layer.zero_macs / weight_macs)
        for layer in found
    ]


class Survey:
    """Goes through a model's graphs once, and collects layers, unknown ops and notes.

    `main`: names of the nodes of the main graph before inlining. `calls`: names of those of them that call functions.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        proto = inlined(model.proto)
        self.context = main_context(model, proto)
        self.main = set(Graph(model.proto.graph).names)
        self.calls = [graph.names[index] for graph, index in find_calls(model.proto) if not graph.scope]
        self.resolver = self.context.resolver
        self.shapes: Shapes = infer_shapes(proto, model.weights, model.binding, model.name)
        self.unknown: list[UnknownNode] = []
        self.notes: list[str] = []

    def layers(self, *, count: bool) -> Layers:
        """All layers of the model; `count`: whether zeros are counted."""
        found = self.graph_layers(self.context, 1)
        if count:
            found = with_zeros(found, self.model)
        return Layers(tuple(with_shares(found)), tuple(self.unknown), tuple(self.notes), self.model.binding)

    def spec(self, node: onnx.NodeProto) -> OpSpec | None:
        """The op table's entry for a node; None for an unknown op."""
        return self.context.spec(node)

    def view(self, graph: Graph, node: onnx.NodeProto) -> OpView:
        """A node with its shapes and small values, as the formulas of the op table read it."""
        return self.shapes.view(graph.scope, node)

    def graph_layers(self, context: GraphContext, times: int | None) -> list[Layer]:
        """The layers of one graph that runs `times` times (None: unknown). Unknown ops and notes are collected on the way."""
        found: list[Layer] = []
        graph = context.graph
        for index, (node, spec) in enumerate(zip(context.nodes, context.specs, strict=True)):
            name = graph.names[index]
            if spec is None:
                domain = "" if node.domain in STANDARD_DOMAINS else f"{node.domain}:"
                elements = sum(self._matrix_elements(graph, i) for i in node.input if i)
                self.unknown.append(UnknownNode(name, f"{domain}{node.op_type}", name, elements))
            elif spec.body is not None:
                found += self._body_layers(context, index, spec, times)
            elif spec.macs is not None and context.reads_constants_alone(index):
                self.notes.append(f"{name} computes on constants alone and is not counted; a runtime folds it")
            elif spec.macs is not None:
                found.append(self._layer(context, index, spec, times))
        if not graph.scope:
            found = [replace(layer, within=self._within(layer)) for layer in found]
            self.unknown = [replace(node, within=self._within(node)) for node in self.unknown]
        return found

    def _within(self, node: Layer | UnknownNode) -> str:
        """The node of the model's main graph that contains a layer or unknown node."""
        if node.within in self.main:
            return node.within
        return next((call for call in self.calls if node.within.startswith(f"{call}/")), node.within)

    def _matrix_elements(self, graph: Graph, name: str) -> int:
        """Elements of the stored tensor that `name` is a view of, if its rank is 2 or more; else 0."""
        stored = self.resolver.resolve(graph, name)
        axes = () if stored is None else self.model.weights.shape(stored.name)
        return math.prod(axes) if len(axes) > 1 else 0

    def _layer(self, context: GraphContext, index: int, spec: OpSpec, times: int | None) -> Layer:
        graph, node = context.graph, context.nodes[index]
        op = self.view(graph, node)
        assert spec.macs is not None
        macs = evaluate(spec.macs, op, times)
        weights: list[WeightUse] = []
        computed = None
        for slot in spec.weights:
            if not op.has_input(slot.at):
                continue
            used = evaluate(slot.macs, op, times) if slot.macs else macs
            stored = self.resolver.resolve(graph, node.input[slot.at])
            if stored is not None and slot.packed is not None and packing_of(slot, op) is None:
                computed = "how its weight is packed is not known"
            elif stored is not None:
                use = self._use(graph, op, slot, stored, used)
                weights.append(replace(use, bits=self._bits(graph, node.input[slot.at], use.stored)))
            elif node.input[slot.at] in context.constants:
                parts = self._assembled(graph, node.input[slot.at], used)
                weights += parts
                computed = None if parts else "its weight is computed in the graph, not stored"
        name = graph.names[index]
        depthwise = bool(spec.depthwise and evaluate(spec.depthwise, op, 1))
        lacking = why_unknown(spec.macs, op, times) if macs is None else None
        found = Layer(name, node.op_type, name, macs, tuple(weights), depthwise, None if weights else computed)
        return found if lacking is None else replace(found, unknown=str(lacking), open_size=isinstance(lacking, OpenSize))

    def _assembled(self, graph: Graph, name: str, macs: int | None) -> list[WeightUse]:
        """The stored tensors that an operand is assembled from; empty if it is computed in another way."""
        parts = sources(self.resolver, graph, name) or {}
        stored = {StoredWeight(key, None): times for key, times in parts.items()}
        sizes = {s: s.elements(self.resolver.weights) for s in stored}
        whole = sum(sizes[s] * times for s, times in stored.items())
        uses = None if macs is None else macs // max(whole, 1)
        return [
            WeightUse(s, sizes[s], None, None if uses is None else uses * times, None, self._bits(graph, name, s))
            for s, times in stored.items()
        ]

    def _use(self, graph: Graph, op: OpView, slot: WeightSlot, stored: StoredWeight, macs: int | None) -> WeightUse:
        if slot.zero_point is not None or slot.packed is not None:
            packing = packing_of(slot, op)
            axis = 0 if packing else slot_axis(op, slot)
            stored = replace(
                stored,
                scale=self.resolver.operand(graph, op, slot.scale),
                zero_point=self.resolver.operand(graph, op, slot.zero_point),
                quant_axis=axis,
                packing=packing,
            )
        elements = stored.elements(self.resolver.weights)
        uses = None if macs is None else macs // max(elements, 1)
        try:
            axes = slot.axes(op)
        except UnknownFact:
            axes = None
        return WeightUse(stored, elements, None, uses, axes)

    def _bits(self, graph: Graph, name: str, stored: StoredWeight) -> int | None:
        """Bits per element of a stored weight that an op reads as `name`; None for a float that is not quantized."""
        if stored.packing is not None:
            return stored.packing.bits
        own = integer_bits(self.model.weights.proto(stored.name).data_type)
        return self.width(graph, name) if own is None else own

    def width(self, graph: Graph, name: str) -> int | None:
        """Bits of the integers that a value is made of, directly or through a DequantizeLinear; None for a float."""
        while (bits := integer_bits(self.shapes.kind(graph.scope, name))) is None:
            made = graph.producer(name)
            if made is None:
                return None
            graph, index = made
            node = graph.proto.node[index]
            spec = self.spec(node)
            if spec is None or spec.shape.view is None or spec.cost.work is not Work.FREE:
                return None
            name = node.input[0]
        return bits

    def _body_layers(self, context: GraphContext, index: int, spec: OpSpec, times: int | None) -> list[Layer]:
        before, name = len(self.unknown), context.graph.names[index]
        found = self._layers_of_bodies(context, index, spec, times)
        self.unknown[before:] = [replace(node, within=name) for node in self.unknown[before:]]
        return [replace(layer, within=name) for layer in found]

    def _layers_of_bodies(self, context: GraphContext, index: int, spec: OpSpec, times: int | None) -> list[Layer]:
        assert spec.body is not None
        graph, node = context.graph, context.nodes[index]
        name, bodies = graph.names[index], context.bodies[index]
        if spec.body.branches:
            alive = {a: body for a, body in bodies.items() if body.graph.scope not in self.shapes.dead}
            return self._larger_branch(name, [(a, self.graph_layers(body, times)) for a, body in alive.items()])
        trips = spec.body.rounds(self.view(graph, node), lambda at: self._integer(graph, node, at))
        product = None if trips is None or times is None else trips * times
        found = [layer for body in bodies.values() for layer in self.graph_layers(body, product)]
        if trips is None and found:
            self.notes.append(f"{name}: the number of rounds of its body is not constant, so the MACs of its layers are unknown")
        return found

    def _larger_branch(self, name: str, branches: list[tuple[str, list[Layer]]]) -> list[Layer]:
        """The layers of the branch with the most MACs. A branch with unknown MACs counts as the largest."""
        sums = {attribute: add_up(found) for attribute, found in branches}
        order = {a: (not sums[a].macs_complete, sums[a].macs or 0, len(found)) for a, found in branches}
        attribute = max(order, key=order.__getitem__)
        if any(found for other, found in branches if other != attribute):
            which = "larger branch" if sums[attribute].macs_complete else "branch of unknown MACs"
            self.notes.append(f"{name}: only its {which}, {attribute}, is counted")
        return dict(branches)[attribute]

    def _integer(self, graph: Graph, node: onnx.NodeProto, at: int) -> int | None:
        key = self.resolver.constant(graph, node.input[at])
        if key is None:
            return None
        values = self.resolver.weights[key].reshape(-1)
        return int(values[0]) if values.size == 1 else None


def evaluate(formula: Callable[[OpView], int], op: OpView, times: int | None) -> int | None:
    """`times` × the formula's result; None if a fact is unknown."""
    if times is None:
        return None
    try:
        return times * formula(op)
    except UnknownFact:
        return None


def why_unknown(formula: Callable[[OpView], int], op: OpView, times: int | None) -> UnknownFact | None:
    """The fact that `evaluate` lacks; None if it lacks none."""
    if times is None:
        return UnknownFact("the number of rounds of its body is unknown")
    try:
        formula(op)
    except UnknownFact as error:
        return error
    return None


def slot_axis(op: OpView, slot: WeightSlot) -> int:
    """The axis of an op's own zero points: that of its outputs, 0 if it is unknown."""
    try:
        return slot.axes(op).output
    except UnknownFact:
        return 0


def packing_of(slot: WeightSlot, op: OpView) -> Packing | None:
    """How a weight is packed; None if it is not, or if its node does not say how."""
    try:
        return slot.packed(op) if slot.packed else None
    except UnknownFact:
        return None
