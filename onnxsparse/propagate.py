"""Shapes through live shape arithmetic: values are computed where every input is known, and inference goes node by node.

onnx's own data propagation stops at many ops that exporters put between a Shape and a Reshape. This pass evaluates
those on the handful of integers they work on, so the shapes behind them become known. It costs more per node, so it
runs only on models where plain inference left gaps.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import onnx
from onnx import TypeProto, defs, numpy_helper, shape_inference
from onnx.checker import ValidationError
from onnx.defs import SchemaError
from onnx.shape_inference import InferenceError

from onnxsparse.dims import Shape
from onnxsparse.evaluate import evaluate_node
from onnxsparse.graph import Graph
from onnxsparse.ops import STANDARD_DOMAINS, Body, OpSpec, OpView, UnknownFact, find
from onnxsparse.weights import Array, read_small

MAX_VALUE_ELEMENTS = 4096
"""Values larger than this are not computed: shapes are made of small ones."""

Result = TypeVar("Result")
Known = dict[tuple[str, str], Shape]


class Propagation:
    """Walks the graphs of a model whose bulk weights are typed inputs; `shapes` grows as it goes.

    `dead`: scopes of branches that the model's own shapes and constants rule out.
    """

    def __init__(self, proto: onnx.ModelProto, shapes: Known, types: dict[str, int]) -> None:
        """`shapes`: what inference found; `types`: value → element type."""
        self.opsets = {o.domain: o.version for o in proto.opset_import}
        self.imports = list(proto.opset_import)
        self.ir_version = proto.ir_version
        self.shapes = shapes
        self.types = types
        self.values: dict[str, Array] = {}
        self.dead: set[str] = set()

    def run(self, graph: Graph) -> None:
        for tensor in graph.proto.initializer:
            self._set_value(graph.scope, tensor.name, read_small(tensor.name, tensor))
        for index, node in enumerate(graph.proto.node):
            version = self.opsets.get(node.domain, 1)
            spec = find(node.domain, node.op_type, version)
            if spec is not None and spec.body is not None:
                self._run_bodies(graph, index, spec)
            elif node.domain in STANDARD_DOMAINS:
                self._step(graph.scope, node, spec, version)
            elif spec is not None:
                self._step_beyond_onnx(graph.scope, node, spec)

    def _run_bodies(self, graph: Graph, index: int, spec: OpSpec) -> None:
        """Both branches of an If, unless its condition is known; the outputs take the shapes the branches agree on."""
        assert spec.body is not None
        node = graph.proto.node[index]
        bodies = graph.bodies(index)
        condition = self.values.get(node.input[0]) if spec.body.branches else None
        if condition is not None and condition.size == 1:
            name = "then_branch" if condition.reshape(-1)[0] else "else_branch"
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
            found = {self._shape(scope, name) for scope, name in ends}
            self.types.setdefault(output, self.types.get(ends[0][1], 0))
            if len(found) == 1 and (shape := found.pop()) is not None:
                self._set_shape(graph.scope, output, shape)
            if len(ends) == 1 and ends[0][1] in self.values:
                self._set_value(graph.scope, output, self.values[ends[0][1]])

    def _run_rounds(self, graph: Graph, node: onnx.NodeProto, body: Body, inner: Graph) -> None:
        """What a loop carries has the shape that it came in with, if one round leaves that as it is; else nothing is known."""
        op = OpView(node, tuple(self._shape(graph.scope, i) for i in node.input), ())
        carried = range(0) if body.carried is None else body.carried(op)
        before = self.shapes.copy(), self.values.copy(), self.dead.copy()
        seeds = {position: self._shape(graph.scope, node.input[position]) for position in carried if node.input[position]}
        for position, shape in seeds.items():
            name = inner.proto.input[position].name
            self.types.setdefault(name, self.types.get(node.input[position], 0))
            if shape is not None:
                self._set_shape(inner.scope, name, shape)
        self.run(inner)
        # the body's first result says whether it goes on
        ends = {at: inner.proto.output[at - carried.start + 1].name for at in carried}
        if any(self._shape(inner.scope, ends[at]) != shape for at, shape in seeds.items()):
            self.shapes.clear()
            self.shapes.update(before[0])
            self.values, self.dead = before[1:]
            self.run(inner)
            return
        for position, shape in seeds.items():
            if shape is not None:
                output = node.output[position - carried.start]
                self.types.setdefault(output, self.types.get(node.input[position], 0))
                self._set_shape(graph.scope, output, shape)

    def _step(self, scope: str, node: onnx.NodeProto, spec: OpSpec | None, version: int) -> None:
        known = self._evaluate(scope, node, spec)
        if known is not None:
            for name, value in zip(node.output, known, strict=False):
                if name:
                    self._set_value(scope, name, value)
        elif any(not is_static(self._shape(scope, o)) for o in node.output if o):
            self._infer(scope, node, version)
            if spec is not None and spec.shape is not None and not is_static(self._shape(scope, node.output[0])):
                self._apply_formula(scope, node, spec)

    def _step_beyond_onnx(self, scope: str, node: onnx.NodeProto, spec: OpSpec) -> None:
        """An op that onnx does not define: by the standard op it is like, or by its own formula."""
        if spec.like is not None:
            twin = onnx.helper.make_node(spec.like, node.input, node.output)
            allowed = defs.get_schema(spec.like, self.opsets[""]).attributes
            twin.attribute.extend(a for a in node.attribute if a.name in allowed)
            self._infer(scope, twin, self.opsets[""])
        elif spec.shape is not None:
            self._apply_formula(scope, node, spec)

    def _apply_formula(self, scope: str, node: onnx.NodeProto, spec: OpSpec) -> None:
        op = OpView(node, tuple(self._shape(scope, i) for i in node.input), ())
        shape = attempt(lambda: None if spec.shape is None else spec.shape(op))
        if shape is not None:
            self._set_shape(scope, node.output[0], shape)
            self.types.setdefault(node.output[0], self.types.get(node.input[spec.typed_by], 0))

    def _evaluate(self, scope: str, node: onnx.NodeProto, spec: OpSpec | None) -> list[Array] | None:
        """The node's outputs, if they follow from values that are known and small."""
        if spec is None or spec.random or spec.macs is not None:
            return None
        if spec.value is not None:
            op = OpView(node, tuple(self._shape(scope, i) for i in node.input), ())
            return attempt(lambda: [spec.value(op)] if spec.value else None)
        if not all(i in self.values for i in node.input if i):
            return None
        sizes = [self._shape(scope, o) for o in node.output if o]
        if any(s is not None and None not in s and math.prod(d or 0 for d in s) > MAX_VALUE_ELEMENTS for s in sizes):
            return None
        feeds = {i: self.values[i] for i in node.input if i}
        return attempt(lambda: evaluate_node(node, feeds, self.opsets))

    def _infer(self, scope: str, node: onnx.NodeProto, version: int) -> None:
        if not all(self.types.get(i) for i in node.input if i):
            return
        types = {i: self._type(scope, i) for i in node.input if i}
        data = {i: numpy_helper.from_array(self.values[i], i) for i in node.input if i in self.values}
        outputs = ask_onnx(
            lambda: shape_inference.infer_node_outputs(
                defs.get_schema(node.op_type, version, node.domain), node, types, data, None, self.imports, self.ir_version
            )
        )
        for name, found in (outputs or {}).items():
            self.types.setdefault(name, found.tensor_type.elem_type)
            if found.tensor_type.HasField("shape"):
                dims = found.tensor_type.shape.dim
                self._set_shape(scope, name, tuple(d.dim_value if d.HasField("dim_value") else None for d in dims))

    def _shape(self, scope: str, name: str) -> Shape | None:
        while (scope, name) not in self.shapes and scope:
            scope = scope.rpartition("/")[0]
        return self.shapes.get((scope, name))

    def _type(self, scope: str, name: str) -> TypeProto:
        shape = self._shape(scope, name)
        dims = None if shape is None else list(shape)
        return onnx.helper.make_tensor_type_proto(self.types[name], dims)

    def _set_shape(self, scope: str, name: str, shape: Shape) -> None:
        old = self.shapes.get((scope, name))
        if old is not None and len(old) == len(shape):
            shape = tuple(a if a is not None else b for a, b in zip(old, shape, strict=True))
        self.shapes[scope, name] = shape

    def _set_value(self, scope: str, name: str, value: Array) -> None:
        self._set_shape(scope, name, value.shape)
        self.types.setdefault(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype))
        if value.size <= MAX_VALUE_ELEMENTS:
            self.values[name] = value


def is_static(shape: Shape | None) -> bool:
    return shape is not None and None not in shape


def attempt(step: Callable[[], Result | None]) -> Result | None:
    """What `step` gives, None where a node's inputs do not fit its op: shapes behind it stay unknown, which is reported."""
    try:
        return step()
    except UnknownFact:
        return None


def ask_onnx(step: Callable[[], Result]) -> Result | None:
    """What a call of onnx gives, None for its own words for an op that it lacks, or inputs that do not fit."""
    try:
        return step()
    except (InferenceError, SchemaError, ValidationError, RuntimeError, TypeError, ValueError):
        return None
