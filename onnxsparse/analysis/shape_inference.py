"""Shapes and element types of every value, from shape inference over the model without its weights."""

import logging
from dataclasses import dataclass, field

import onnx
from onnx import shape_inference

from onnxsparse.analysis.recorded_shapes import bind_inputs, collect, element_types, record, take_recorded, weightless
from onnxsparse.analysis.shape_propagation import Key, Known, Propagation, is_static, nearest
from onnxsparse.analysis.size_conflicts import Conflict, find_conflict
from onnxsparse.errors import ParamError
from onnxsparse.ir.binding import Binding, Shape
from onnxsparse.ir.graph import Graph, main_graph
from onnxsparse.ir.weights import Array, Weights
from onnxsparse.ops import STANDARD_DOMAINS, OpView


@dataclass(frozen=True)
class Shapes:
    """What is known of each value: (scope, name) → shape. A scope is a body's path, empty for the main graph.

    `dead`: scopes of branches that never run. `values`: of the main graph's small values that shape arithmetic computed on the
    way. `small`: (scope, name) → every small value that was read or computed. `types`: (scope, name) → element type.
    """

    known: Known
    dead: frozenset[str] = frozenset()
    values: dict[str, Array] = field(default_factory=dict)
    small: dict[Key, Array] = field(default_factory=dict)
    types: dict[Key, int] = field(default_factory=dict)

    def get(self, scope: str, name: str) -> Shape | None:
        """The shape of `name` as seen from `scope`; None if even its rank is unknown."""
        return nearest(self.known, scope, name)

    def kind(self, scope: str, name: str) -> int:
        """The element type of `name` as seen from `scope`; 0 if it is unknown."""
        return nearest(self.types, scope, name) or 0

    def view(self, scope: str, node: onnx.NodeProto) -> OpView:
        """A node as formulas see it."""
        inputs, outputs = (tuple(self.get(scope, name) for name in names) for names in (node.input, node.output))
        values = {name: value for name in node.input if (value := nearest(self.small, scope, name)) is not None}
        return OpView(node, inputs, outputs, values)


def infer_shapes(proto: onnx.ModelProto, weights: Weights, binding: Binding, name: str) -> Shapes:
    """Shapes of every value of `proto`, which messages call `name`, with inputs bound as `binding` says.

    What follows from the sizes of the inputs comes first. Where that leaves something open, onnxruntime's symbolic inference is
    asked if there are ops that onnx does not define; what it does not know either is taken from what the file records. Raises
    ParamError for sizes at which a node cannot run.
    """
    work = weightless(proto, weights)
    recorded = take_recorded(work.graph, binding)
    bind_inputs(work.graph, binding)
    search, conflict = settled(work)
    if conflict is not None:
        fixed = weightless(proto, weights)
        take_recorded(fixed.graph, binding)
        _, own = settled(fixed)
        raise impossible(name, binding, conflict, always=own is not None)
    if search.has_gaps() and any(o.domain not in STANDARD_DOMAINS for o in proto.opset_import):
        symbolic = run_symbolic(search.recorded()).graph
        search.types.update({key: kind for key, kind in element_types(symbolic) if kind and key not in search.types})
        search.learn(collect(symbolic))
    search.learn(recorded)
    return search.result()


def settled(work: onnx.ModelProto) -> "tuple[Search, Conflict | None]":
    """What follows from the sizes of the inputs, and the first node that cannot run at them."""
    search = Search(work)
    search.settle()
    return search, find_conflict(search.propagation, main_graph(search.work), suspected=search.suspected)


def impossible(name: str, binding: Binding, conflict: Conflict, *, always: bool) -> ParamError:
    """The error for sizes at which a node cannot run: those that the caller gave or left out, or that the file fixes itself.

    `always`: the sizes that the file fixes lead there, whatever those are that it leaves open.
    """
    given, assumed = " ".join(binding.given), " and ".join(binding.assumed)
    if not given and not assumed:
        return ParamError(f"{name} cannot run: {conflict}; its own input sizes lead there")
    if always:
        return ParamError(f"{name} cannot run: {conflict}, whatever the sizes are that it leaves open")
    if assumed:
        sizes = f"with {given}, where {assumed}" if given else f"where {assumed}"
        return ParamError(f"{name} cannot run {sizes}: {conflict}; give the sizes with --input-shape or --dim")
    return ParamError(f"{name} cannot run with {given}: {conflict}")


class Search:
    """What is known of a model's shapes, and what more follows from it. `work`: without bulk weights, its inputs bound.

    `suspected`: whether onnx's inference found fault with the model; that may be a node that never runs.
    """

    def __init__(self, work: onnx.ModelProto) -> None:
        self.work = work
        self.suspected = False
        self.shapes: Known = {}
        self.types: dict[Key, int] = {}
        self._infer(work)
        self.propagation = Propagation(work, self.shapes, self.types)
        self.made: list[Key] = []
        self.asked: list[Key] = []
        self.has_bodies = False
        self._list(main_graph(work))

    def _list(self, graph: Graph) -> None:
        """The values that shapes are wanted of, and those that formulas want to read."""
        for index, node in enumerate(graph.proto.node):
            spec = self.propagation.spec(node)
            self.made += [(graph.scope, name) for name in node.output if name]
            if spec is not None:
                self.asked += [(graph.scope, node.input[at]) for at in spec.shape.needs_values if any(node.input[at : at + 1])]
            for body in graph.bodies(index).values():
                self.has_bodies = True
                self._list(body)

    def settle(self) -> None:
        """Node by node and over the whole model in turn, until the second brings nothing new after the first."""
        graph = main_graph(self.work)
        more = self.has_bodies or self.has_gaps()
        while more:
            self.propagation.run(graph)
            known = self.propagation.extent()
            self._infer(self.recorded())
            more = self.propagation.extent() > known and self.has_gaps()

    def learn(self, more: Known) -> None:
        """Add shapes from elsewhere, and what follows from them."""
        known = self.propagation.extent()
        fill(self.shapes, more)
        if self.propagation.extent() > known:
            self.settle()

    def _infer(self, proto: onnx.ModelProto) -> None:
        """onnx's inference with data propagation over the whole model."""
        inferred, self.suspected = run_inference(proto)
        fill(self.shapes, collect(inferred.graph))
        for key, kind in element_types(inferred.graph):
            if kind and key not in self.types:
                self.types[key] = kind

    def has_gaps(self) -> bool:
        known = self.propagation
        return any(not is_static(self.shapes.get(key)) and key not in known.parts for key in self.made) or any(
            known.value(*key) is None for key in self.asked
        )

    def recorded(self) -> onnx.ModelProto:
        """The model with all that is known written into it."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self.work)
        record(copy.graph, self.shapes, self.types)
        return copy

    def result(self) -> Shapes:
        known = self.propagation
        made = {name for node in self.work.graph.node for name in node.output}
        values = {name: value for (scope, name), value in known.values.items() if not scope and name in made}
        return Shapes(self.shapes, frozenset(known.dead), values, known.values, self.types)


def fill(shapes: Known, more: Known) -> None:
    """Add what `more` knows and `shapes` does not."""
    for key, shape in more.items():
        old = shapes.get(key)
        if old is None:
            shapes[key] = shape
        elif len(old) == len(shape):
            shapes[key] = tuple(a if a is not None else b for a, b in zip(old, shape, strict=True))


def run_inference(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    """`proto` with what onnx's inference finds, and whether that found fault with some node."""
    for strict in (True, False):
        try:
            return shape_inference.infer_shapes(proto, data_prop=True, strict_mode=strict), not strict
        except (shape_inference.InferenceError, ValueError):
            continue  # a model may contradict itself where nothing runs; what is known without inference still counts
    return proto, True


def run_symbolic(proto: onnx.ModelProto) -> onnx.ModelProto:
    """onnxruntime's symbolic shape inference; `proto` as it is where that gives up, as it does on many ops it lacks.

    Its public entry writes a file into the working folder when it cannot infer everything, so this drives its steps.
    """
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # it reports every op it does not know to the root logger
    try:
        inference = SymbolicShapeInference(2**31 - 1, auto_merge=True, guess_output_rank=False, verbose=0)
        inference._preprocess(proto)
        while inference.run_:
            inference._infer_impl()
        inference._update_output_from_vi()
        inferred: onnx.ModelProto = inference.out_mp_
        return inferred
    except Exception:  # it raises bare Exception and whatever sympy does; values it could not infer stay unknown
        return proto
    finally:
        logging.disable(level)
