"""Shapes and element types of all values of a model, weights left out.

1. Bulk weights become typed inputs. Recorded shapes are taken out of the file, because they may be wrong, or hold at other
   sizes. The inputs get the sizes of the binding.
2. onnx's inference runs over the whole model, with data propagation.
3. If shapes are missing, `Propagation` goes node by node: it computes small values, follows branches, loops and sequences, and
   applies the formulas of the op table.
4. Its findings are written into the model, and 2 and 3 are repeated until 2 finds nothing new.
5. So far, everything follows from the input sizes. A node that cannot run at these sizes is an error (`size_conflicts`).
6. If shapes are still missing and the model has ops that onnx does not define, onnxruntime's symbolic inference is asked, and
   its findings are propagated as in 2 to 4.
7. Last come the recorded shapes of step 1, for values that are still unknown; they are propagated likewise.
"""

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
    """The known shapes and types of a model. Keys are (scope, name); the scope of the main graph is empty, see
    `weights.body_scope`.

    `known`: shapes. `types`: element types. `dead`: scopes of branches that never run at these sizes.
    `small`: small values that were read or computed. `values`: those of them that nodes of the main graph produce, by name.
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
        """A node with its shapes and small values, as the formulas of the op table read it."""
        inputs, outputs = (tuple(self.get(scope, name) for name in names) for names in (node.input, node.output))
        values = {name: value for name in node.input if (value := nearest(self.small, scope, name)) is not None}
        types = {name: kind for name in node.input if (kind := self.kind(scope, name))}
        return OpView(node, inputs, outputs, values, types)


def infer_shapes(proto: onnx.ModelProto, weights: Weights, binding: Binding, name: str) -> Shapes:
    """Shapes of all values of `proto`, with inputs bound to the sizes of `binding`. `name`: the model's, in messages.

    See the head of this file for the steps. Raises ParamError for sizes at which a node that every run reaches cannot run.
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
    """Steps 2 to 5: what follows from the sizes of the inputs, and the first node that cannot run at them (None: there is
    none).
    """
    search = Search(work)
    search.settle()
    return search, find_conflict(search.propagation, main_graph(search.work), suspected=search.suspected)


def impossible(name: str, binding: Binding, conflict: Conflict, *, always: bool) -> ParamError:
    """The error for sizes at which a node cannot run. It names the sizes that the caller gave or that were assumed.

    `always`: the sizes that the file fixes are the cause, whatever the open sizes are.
    """
    given, assumed = " ".join(binding.given), " and ".join(binding.assumed)
    if not given and not assumed:
        return ParamError(f"{name} cannot run: {conflict}; the cause is the input sizes that the file itself fixes")
    if always:
        return ParamError(f"{name} cannot run: {conflict}, whatever its open sizes are")
    if assumed:
        sizes = f"with {given}, where {assumed}" if given else f"where {assumed}"
        return ParamError(f"{name} cannot run {sizes}: {conflict}; give the sizes with --input-shape or --dim")
    return ParamError(f"{name} cannot run with {given}: {conflict}")


class Search:
    """The search for shapes: alternates between onnx's inference over the whole model and `Propagation` node by node.

    `work`: the model without bulk weights, its inputs bound. `suspected`: whether onnx's inference reported an error, which may
    concern a node that never runs. `made`: values whose shapes are wanted. `asked`: values that formulas need as numbers.
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
        """Fill `made` and `asked` from a graph and the bodies in it."""
        for index, node in enumerate(graph.proto.node):
            spec = self.propagation.spec(node)
            self.made += [(graph.scope, name) for name in node.output if name]
            if spec is not None:
                self.asked += [(graph.scope, node.input[at]) for at in spec.shape.needs_values if any(node.input[at : at + 1])]
            for body in graph.bodies(index).values():
                self.has_bodies = True
                self._list(body)

    def settle(self) -> None:
        """Steps 3 and 4: propagate and infer in turn, until inference finds nothing that propagation had not found."""
        graph = main_graph(self.work)
        more = self.has_bodies or self.has_gaps()
        while more:
            self.propagation.run(graph)
            known = self.propagation.extent()
            self._infer(self.recorded())
            more = self.propagation.extent() > known and self.has_gaps()

    def learn(self, more: Known) -> None:
        """Add shapes from another source where they were unknown, and what follows from them."""
        known = self.propagation.extent()
        fill(self.shapes, more)
        if self.propagation.extent() > known:
            self.settle()

    def _infer(self, proto: onnx.ModelProto) -> None:
        """Run onnx's inference over the whole model, and add its findings."""
        inferred, self.suspected = run_inference(proto)
        fill(self.shapes, collect(inferred.graph))
        for key, kind in element_types(inferred.graph):
            if kind and key not in self.types:
                self.types[key] = kind

    def has_gaps(self) -> bool:
        """Whether a shape in `made` or a value in `asked` is unknown."""
        known = self.propagation
        return any(not is_static(self.shapes.get(key)) and key not in known.parts for key in self.made) or any(
            known.value(*key) is None for key in self.asked
        )

    def recorded(self) -> onnx.ModelProto:
        """A copy of the model in which everything known is recorded."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self.work)
        record(copy.graph, self.shapes, self.types)
        return copy

    def result(self) -> Shapes:
        """Everything known so far."""
        known = self.propagation
        made = {name for node in self.work.graph.node for name in node.output}
        values = {name: value for (scope, name), value in known.values.items() if not scope and name in made}
        return Shapes(self.shapes, frozenset(known.dead), values, known.values, self.types)


def fill(shapes: Known, more: Known) -> None:
    """Add to `shapes` the shapes and sizes that are known in `more` alone. Shapes of another rank are ignored."""
    for key, shape in more.items():
        old = shapes.get(key)
        if old is None:
            shapes[key] = shape
        elif len(old) == len(shape):
            shapes[key] = tuple(a if a is not None else b for a, b in zip(old, shape, strict=True))


def run_inference(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    """`proto` with the findings of onnx's inference, and whether it reported an error.

    Strict mode reports errors; if it does, the findings are those of the lenient mode, or none if that fails too.
    """
    for strict in (True, False):
        try:
            return shape_inference.infer_shapes(proto, data_prop=True, strict_mode=strict), not strict
        except (shape_inference.InferenceError, ValueError):
            continue  # the error may concern a node that never runs, so it must not hide all other shapes
    return proto, True


def run_symbolic(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` with the findings of onnxruntime's symbolic shape inference; `proto` itself if that fails, as for many unknown ops.

    Its public entry point writes a file into the working folder if it cannot infer everything, so its steps are called here.
    """
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # it reports each unknown op to the root logger
    try:
        inference = SymbolicShapeInference(2**31 - 1, auto_merge=True, guess_output_rank=False, verbose=0)
        inference._preprocess(proto)
        while inference.run_:
            inference._infer_impl()
        inference._update_output_from_vi()
        inferred: onnx.ModelProto = inference.out_mp_
        return inferred
    except Exception:  # it raises bare Exception and any error of sympy's; what it could not infer stays unknown
        return proto
    finally:
        logging.disable(level)
