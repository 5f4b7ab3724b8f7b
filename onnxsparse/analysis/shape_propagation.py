"""Shapes node by node: small values are computed where all inputs are known, and every other node is inferred on its own.

onnx's data propagation stops at many ops that exporters put between a Shape and a Reshape. Here such ops are evaluated on the
few integers that they work on, so that the shapes downstream become known. For each node:

1. With bodies: enter the branch that is taken or both, or the loop's body (`_run_bodies`, `_run_rounds`).
2. With known small inputs: compute the outputs (`_evaluate`).
3. Otherwise infer its shapes by onnx's inference for the op, then by the op's own formulas, then by its sequence rule.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import onnx
from onnx import TypeProto, defs, numpy_helper, shape_inference
from onnx.checker import ValidationError
from onnx.defs import SchemaError
from onnx.shape_inference import InferenceError

from onnxsparse.analysis.node_evaluation import evaluate_node
from onnxsparse.analysis.schemas import schema_of, twin
from onnxsparse.ir.binding import Shape
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.protos import opsets_of
from onnxsparse.ir.weights import Array, read_small
from onnxsparse.ops import STANDARD_DOMAINS, Body, OpSpec, OpView, UnknownFact, find
from onnxsparse.ops.parts import Parts, Sequences

MAX_VALUE_ELEMENTS = 4096
"""Largest value that is computed, in elements. Shape arithmetic works on small values."""

HIGHEST_VERSION = 2**31 - 1
"""The highest version, of an opset or of the IR, that onnx's functions accept. A damaged file may record a higher one."""

DOES_NOT_FIT = (InferenceError, SchemaError, ValidationError, RuntimeError, ValueError)
"""The errors with which onnx's inference refuses a node: its inputs do not fit the op, or onnx lacks it."""

Key = tuple[str, str]
"""(scope, name)."""

Known = dict[Key, Shape]

Fact = TypeVar("Fact")


class Propagation:
    """Goes through the graphs of a model whose bulk weights are typed inputs. Known facts are only added to, never removed.

    `shapes`, `types`: of tensors. `parts`: shapes of the elements of sequences. `values`: small tensors.
    `dead`: scopes of branches that never run at these sizes.
    """

    def __init__(self, proto: onnx.ModelProto, shapes: Known, types: dict[Key, int]) -> None:
        """`shapes`, `types` (of a sequence: of its elements): findings of inference, to which more are added."""
        self.opsets = {d: max(-HIGHEST_VERSION, min(version, HIGHEST_VERSION)) for d, version in opsets_of(proto).items()}
        self.imports = [onnx.helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]
        self.ir_version = max(-HIGHEST_VERSION, min(proto.ir_version, HIGHEST_VERSION))
        self.shapes = shapes
        self.types = types
        self.parts: dict[Key, Parts] = {}
        self.values: dict[Key, Array] = {}
        self.dead: set[str] = set()

    def run(self, graph: Graph) -> None:
        """Propagate through a graph and its bodies once, in graph order."""
        self.read_initializers(graph)
        for index, node in enumerate(graph.proto.node):
            spec = self.spec(node)
            if spec is not None and spec.body is not None:
                self._run_bodies(graph, index, spec)
            else:
                self._step(graph.scope, node, spec)

    def spec(self, node: onnx.NodeProto) -> OpSpec | None:
        """The op table's entry for a node; None for an unknown op."""
        return find(node.domain, node.op_type, self.opsets.get(node.domain, 1))

    def read_initializers(self, graph: Graph) -> None:
        """Read the small initializers. Defaults of inputs are left out, because a caller may override them."""
        for tensor in graph.proto.initializer:
            if tensor.name not in graph.overridable and math.prod(tensor.dims) <= MAX_VALUE_ELEMENTS:
                self._set_value(graph.scope, tensor.name, read_small(tensor.name, tensor))

    def extent(self) -> int:
        """The number of known facts: ranks, sizes, elements of sequences, values, dead branches. It never decreases."""
        sizes = sum(1 + sum(size is not None for size in shape) for shape in self.shapes.values())
        parts = sum(1 + sum(part is not None for part in parts) for parts in self.parts.values())
        return sizes + parts + len(self.values) + len(self.dead)

    def _run_bodies(self, graph: Graph, index: int, spec: OpSpec) -> None:
        """The taken branch of an If, or both if the condition is unknown: an output gets the shape on which they agree.

        Or a loop.
        """
        assert spec.body is not None
        node = graph.proto.node[index]
        bodies = graph.bodies(index)
        condition = self.value(graph.scope, node.input[0]) if spec.body.branches else None
        if condition is not None and condition.size == 1:
            name = spec.body.if_true if condition.reshape(-1)[0] else spec.body.if_false
            self.dead |= {body.scope for attribute, body in bodies.items() if attribute != name}
            bodies = {name: bodies[name]}
        if not spec.body.branches:
            self._run_rounds(graph, node, spec.body, *bodies.values())
            return
        for body in bodies.values():
            self.run(body)
        results = min((len(body.proto.output) for body in bodies.values()), default=0)
        for position, output in enumerate(node.output[:results]):
            ends = [(body.scope, body.proto.output[position].name) for body in bodies.values()]
            found = {self.shape(scope, name) for scope, name in ends}
            parts = {nearest(self.parts, scope, name) for scope, name in ends}
            self._set_type(graph.scope, output, *ends[0])
            if len(found) == 1 and (shape := found.pop()) is not None:
                self._set_shape(graph.scope, output, shape)
            if len(parts) == 1 and (same := parts.pop()) is not None:
                self.parts[graph.scope, output] = same
            if len(ends) == 1 and (value := self.value(*ends[0])) is not None:
                self._set_value(graph.scope, output, value)

    def _run_rounds(self, graph: Graph, node: onnx.NodeProto, body: Body, inner: Graph) -> None:
        """A loop.

        A carried value keeps its first shape if one round leaves it as it is; else nothing is known of any carried value.
        """
        op = self.view(graph.scope, node)
        carried = range(0) if body.carried is None else body.carried(op)
        before = self.shapes.copy(), self.values.copy(), self.dead.copy(), self.parts.copy()
        seeds = self.enter(graph, node, carried, inner)
        # output 0 of a Loop's body is the condition to continue, so carried values start at output 1
        ends = {at: inner.proto.output[at - carried.start + 1].name for at in carried}
        if any(self.shape(inner.scope, ends[at]) != shape for at, shape in seeds.items()):
            self.shapes.clear()
            self.shapes.update(before[0])
            self.values, self.dead, self.parts = before[1:]
            self.run(inner)
            seeds = {}
        for position, shape in seeds.items():
            if shape is not None:
                output = node.output[position - carried.start]
                self._set_type(graph.scope, output, graph.scope, node.input[position])
                self._set_shape(graph.scope, output, shape)
        if body.carried is not None:
            trips = body.rounds(op, lambda at: self.integer(graph.scope, node, at))
            self._stack(graph.scope, node.output[len(carried) :], inner, inner.proto.output[1 + len(carried) :], trips)

    def enter(self, graph: Graph, node: onnx.NodeProto, carried: range, inner: Graph) -> dict[int, Shape | None]:
        """Propagate through a loop's body with the values that are carried into its first round. Position → shape."""
        seeds = {position: self.shape(graph.scope, node.input[position]) for position in carried if node.input[position]}
        for position, shape in seeds.items():
            name = inner.proto.input[position].name
            self._set_type(inner.scope, name, graph.scope, node.input[position])
            if shape is not None:
                self._set_shape(inner.scope, name, shape)
        self.run(inner)
        return seeds

    def _stack(
        self, scope: str, outputs: Sequence[str], inner: Graph, results: Sequence[onnx.ValueInfoProto], trips: int | None
    ) -> None:
        """Shapes of scan outputs: the results of all rounds, stacked along a new first axis.

        `trips` None: their number is unknown.
        """
        for output, result in zip(outputs, results, strict=False):
            shape = self.shape(inner.scope, result.name)
            if output and shape is not None:
                self._set_shape(scope, output, (trips, *shape))
                self._set_type(scope, output, inner.scope, result.name)

    def _step(self, scope: str, node: onnx.NodeProto, spec: OpSpec | None) -> None:
        known = self._evaluate(scope, node, spec)
        if known is not None:
            for name, value in zip(filter(None, node.output), known, strict=False):
                self._set_value(scope, name, value)
            return
        if any(not is_static(self.shape(scope, o)) for o in node.output if o):
            self._infer(scope, node, spec)
            if spec is not None:
                self._apply_formulas(scope, node, spec)
        if spec is not None and spec.shape.sequence is not None:
            self._follow_sequence(scope, node, spec.shape.sequence, spec)

    def _apply_formulas(self, scope: str, node: onnx.NodeProto, spec: OpSpec) -> None:
        """Apply the op's own shape formulas to outputs that inference left open."""
        for name, formula in zip(node.output, (spec.shape.infer, *spec.shape.more), strict=False):
            if not name or formula is None or is_static(self.shape(scope, name)):
                continue
            try:
                shape = formula(self.view(scope, node))
            except UnknownFact:
                continue
            self._set_shape(scope, name, shape)
            self._type_as_input(scope, name, node, spec)

    def sequences(self, scope: str, node: onnx.NodeProto, rule: Callable[[Sequences], None]) -> Sequences:
        """What a node does with its sequences, by its op's rule; what the rule lacks facts for is None."""
        op = self.view(scope, node)
        asked = Sequences(op, lambda at: self._elements(scope, op, at))
        with suppress(UnknownFact):
            rule(asked)
        return asked

    def _follow_sequence(self, scope: str, node: onnx.NodeProto, rule: Callable[[Sequences], None], spec: OpSpec) -> None:
        asked = self.sequences(scope, node, rule)
        if asked.made is None and asked.shape is None:
            return
        name = node.output[0]
        if asked.made is not None:
            self.parts[scope, name] = asked.made
        if asked.shape is not None:
            self._set_shape(scope, name, asked.shape)
        if asked.value is not None:
            self._set_value(scope, name, asked.value)
        self._type_as_input(scope, name, node, spec)

    def _elements(self, scope: str, op: OpView, at: int) -> Parts:
        found = nearest(self.parts, scope, op.node.input[at]) if op.has_input(at) else None
        if found is None:
            raise UnknownFact(f"the elements of its input {at} are not known")
        return found

    def _evaluate(self, scope: str, node: onnx.NodeProto, spec: OpSpec | None) -> list[Array] | None:
        """The outputs of a node, computed from known small inputs; None if that is impossible or the outputs are large."""
        if spec is None or spec.random or spec.macs is not None:
            return None
        if spec.shape.value is not None:
            try:
                return [spec.shape.value(self.view(scope, node))]
            except UnknownFact:
                return None
        feeds = self._values(scope, node)
        if node.domain not in STANDARD_DOMAINS or len(feeds) < len(set(filter(None, node.input))):
            return None
        sizes = [self.shape(scope, o) for o in node.output if o]
        if any(s is not None and None not in s and math.prod(d or 0 for d in s) > MAX_VALUE_ELEMENTS for s in sizes):
            return None
        try:
            return evaluate_node(node, feeds, self.opsets)
        except UnknownFact:
            return None

    def _infer(self, scope: str, node: onnx.NodeProto, spec: OpSpec | None) -> None:
        """Apply onnx's inference for the op, or for the standard op that it is declared to be like."""
        try:
            outputs = self.inferred(scope, node, spec)
        except DOES_NOT_FIT:
            return  # the outputs stay unknown
        for name, found in outputs.items():
            if found.tensor_type.elem_type and (spec is None or spec.shape.typed_by == (0,)):
                self.types.setdefault((scope, name), found.tensor_type.elem_type)
            if found.tensor_type.HasField("shape"):
                dims = found.tensor_type.shape.dim
                self._set_shape(scope, name, tuple(d.dim_value if d.HasField("dim_value") else None for d in dims))

    def inferred(self, scope: str, node: onnx.NodeProto, spec: OpSpec | None, *, sizes: bool = True) -> Mapping[str, TypeProto]:
        """Output name → type and shape by onnx's inference for the op. Empty if onnx lacks the op, or an input's type is unknown.

        `sizes=False`: from the types of the inputs alone. Raises InferenceError, SchemaError, ValidationError, RuntimeError or
        ValueError if the inputs do not fit the op.
        """
        schema = self._schema(node, spec)
        if schema is None:
            return {}
        if spec is not None and spec.shape.like is not None:
            node = twin(node, spec.shape.like, self.opsets.get("", 1))
        given = [i for i in node.input if i]
        if any(nearest(self.types, scope, i) is None or nearest(self.parts, scope, i) is not None for i in given):
            return {}
        types = {i: self._type(scope, i, sizes) for i in given}
        data = {i: numpy_helper.from_array(value, i) for i, value in self._values(scope, node).items()} if sizes else {}
        found: Mapping[str, TypeProto] = shape_inference.infer_node_outputs(
            schema, node, types, data, None, self.imports, self.ir_version
        )
        return found

    def _schema(self, node: onnx.NodeProto, spec: OpSpec | None) -> defs.OpSchema | None:
        if spec is not None and spec.shape.like is not None:
            return schema_of(spec.shape.like, self.opsets.get("", 1))
        domain = "" if node.domain in STANDARD_DOMAINS else node.domain
        version = self.opsets.get(node.domain, 1)
        return defs.get_schema(node.op_type, version, domain) if defs.has(node.op_type, version, domain) else None

    def view(self, scope: str, node: onnx.NodeProto) -> OpView:
        """A node with its known shapes and values, as the formulas of the op table read it."""
        inputs, outputs = (tuple(self.shape(scope, name) for name in names) for names in (node.input, node.output))
        types = {i: kind for i in node.input if (kind := nearest(self.types, scope, i))}
        return OpView(node, inputs, outputs, self._values(scope, node), types)

    def shape(self, scope: str, name: str) -> Shape | None:
        """The shape of `name` as seen from `scope`; None if its rank is unknown."""
        return nearest(self.shapes, scope, name)

    def value(self, scope: str, name: str) -> Array | None:
        """The value of `name` as seen from `scope`; None if it is unknown or large."""
        return nearest(self.values, scope, name)

    def integer(self, scope: str, node: onnx.NodeProto, at: int) -> int | None:
        """The value of input `at` of a node; None if it is unknown or has several elements."""
        value = self.value(scope, node.input[at])
        return int(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def _values(self, scope: str, node: onnx.NodeProto) -> dict[str, Array]:
        """The known values among a node's inputs."""
        found = {i: self.value(scope, i) for i in node.input if i}
        return {name: value for name, value in found.items() if value is not None}

    def _type(self, scope: str, name: str, sizes: bool) -> TypeProto:
        shape = self.shape(scope, name) if sizes else None
        dims = None if shape is None else list(shape)
        return onnx.helper.make_tensor_type_proto(nearest(self.types, scope, name) or 0, dims)

    def _type_as_input(self, scope: str, name: str, node: onnx.NodeProto, spec: OpSpec) -> None:
        known = [node.input[at] for at in spec.shape.typed_by if any(node.input[at : at + 1])]
        if known:
            self._set_type(scope, name, scope, known[0])

    def _set_type(self, scope: str, name: str, other_scope: str, other: str) -> None:
        """Copy the element type of another value, if it is known."""
        kind = nearest(self.types, other_scope, other)
        if kind is not None:
            self.types.setdefault((scope, name), kind)

    def _set_shape(self, scope: str, name: str, shape: Shape) -> None:
        """Add a shape. Sizes that were known before stay; unknown ones are filled in if the ranks agree."""
        old = self.shapes.get((scope, name))
        if old is None:
            self.shapes[scope, name] = shape
        elif len(old) == len(shape):
            self.shapes[scope, name] = tuple(b if a is None else a for a, b in zip(old, shape, strict=True))

    def _set_value(self, scope: str, name: str, value: Array) -> None:
        self._set_shape(scope, name, value.shape)
        self.types.setdefault((scope, name), onnx.helper.np_dtype_to_tensor_dtype(value.dtype))
        if value.size <= MAX_VALUE_ELEMENTS:
            self.values[scope, name] = value


def nearest(table: Mapping[Key, Fact], scope: str, name: str) -> Fact | None:
    """The fact about `name` as seen from `scope`, since a body sees the values of the graphs around it. None if there is none."""
    while (scope, name) not in table and scope:
        scope = scope.rpartition("/")[0]
    return table.get((scope, name))


def is_static(shape: Shape | None) -> bool:
    """Whether the rank and all sizes are known."""
    return shape is not None and None not in shape
