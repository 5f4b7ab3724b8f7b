"""Shapes and element types of every value, from shape inference over the model without its weights."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, shape_inference

from onnxsparse.dims import Binding, Shape
from onnxsparse.graph import main_graph
from onnxsparse.ops import STANDARD_DOMAINS
from onnxsparse.propagate import Known, Propagation, is_static
from onnxsparse.protos import replace_all
from onnxsparse.weights import Array, Weights, bodies, body_scope, is_lifted
from onnxsparse.wire import BULK_BYTES


@dataclass(frozen=True)
class Shapes:
    """What is known of each value: (scope, name) → shape. A scope is a body's path, empty for the main graph.

    `dead`: scopes of branches that never run. `values`: of the main graph's small values that shape arithmetic computed on the
    way. `types`: value → element type (0: unknown), of the main graph and its bodies.
    """

    known: Known
    dead: frozenset[str] = frozenset()
    values: dict[str, Array] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)

    def get(self, scope: str, name: str) -> Shape | None:
        """The shape of `name` as seen from `scope`; None if even its rank is unknown."""
        while True:
            if (scope, name) in self.known:
                return self.known[scope, name]
            if not scope:
                return None
            scope = scope.rpartition("/")[0]


def infer_shapes(proto: onnx.ModelProto, weights: Weights, binding: Binding, wanted: Iterable[tuple[str, str]]) -> Shapes:
    """Shapes of `proto` with inputs bound as `binding` says.

    onnx's inference with data propagation comes first; where it leaves a `wanted` (scope, name) open, shape arithmetic
    is evaluated, then onnxruntime's symbolic inference is asked if there are ops that onnx does not define; what none of
    them knows is taken from what the file records.
    """
    work = weightless(proto, weights)
    recorded = take_recorded(work.graph, binding)
    bind_inputs(work.graph, binding)
    inferred = run_inference(work)
    shapes = collect(inferred.graph)
    types = element_types(inferred.graph)
    wanted = list(wanted)
    dead: set[str] = set()
    values: dict[str, Array] = {}
    if has_gaps(shapes, wanted) or any(scope for scope, _ in wanted):
        propagation = Propagation(inferred, shapes, types)
        propagation.run(main_graph(inferred))
        dead = propagation.dead
        made = {name for node in inferred.graph.node for name in node.output}
        values = {name: value for name, value in propagation.values.items() if name in made}
    if has_gaps(shapes, wanted) and any(o.domain not in STANDARD_DOMAINS for o in proto.opset_import):
        symbolic = run_symbolic(inferred).graph
        fill(shapes, collect(symbolic))
        types |= {name: found for name, found in element_types(symbolic).items() if not types.get(name)}
    fill(shapes, recorded)
    return Shapes(shapes, frozenset(dead), values, types)


def has_gaps(shapes: Known, wanted: list[tuple[str, str]]) -> bool:
    return any(not is_static(shapes.get(key)) for key in wanted)


def element_types(graph: onnx.GraphProto) -> dict[str, int]:
    """Value → element type, over a graph and its bodies."""
    found = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    found |= {t.name: t.data_type for t in graph.initializer}
    for body in (b for node in graph.node for a in node.attribute for b in bodies(a)):
        found |= element_types(body)
    return found


def fill(shapes: Known, more: Known) -> None:
    """Add what `more` knows and `shapes` does not."""
    for key, shape in more.items():
        old = shapes.get(key)
        if old is None:
            shapes[key] = shape
        elif len(old) == len(shape):
            shapes[key] = tuple(a if a is not None else b for a, b in zip(old, shape, strict=True))


def run_inference(proto: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return shape_inference.infer_shapes(proto, data_prop=True)
    except (shape_inference.InferenceError, ValueError):
        # a model may contradict itself where no weight is concerned; what is known without inference still counts
        return proto


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


def weightless(proto: onnx.ModelProto, weights: Weights) -> onnx.ModelProto:
    """A copy in which bulk tensors are typed graph inputs, so that inference and the checker see no weights."""
    work = onnx.ModelProto()
    work.CopyFrom(proto)
    present = {value.name for value in work.graph.input}
    graphs = [work.graph]
    for graph in graphs:
        for name, tensor in take_bulk(graph, weights):
            if name not in present:
                present.add(name)
                work.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
        graphs += [g for node in graph.node for a in node.attribute for g in bodies(a)]
    return work


def take_bulk(graph: onnx.GraphProto, weights: Weights) -> list[tuple[str, TensorProto]]:
    """Remove bulk tensors from one graph; small ones that came in a side file are put into the proto instead."""
    taken: list[tuple[str, TensorProto]] = []
    kept_initializers: list[TensorProto] = []
    kept_nodes: list[onnx.NodeProto] = []
    for tensor in graph.initializer:
        if is_bulk(tensor, weights):
            taken.append((tensor.name, tensor))
        else:
            kept_initializers.append(tensor)
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is not None and is_bulk(value, weights):
            taken.append((node.output[0], value))
        else:
            kept_nodes.append(node)
    if taken:
        taken = [(name, copy_header(tensor)) for name, tensor in taken]
        replace_all(graph.initializer, kept_initializers)
        replace_all(graph.node, kept_nodes)
    return taken


def copy_header(tensor: TensorProto) -> TensorProto:
    return TensorProto(dims=tensor.dims, data_type=tensor.data_type)


def is_bulk(tensor: TensorProto, weights: Weights) -> bool:
    if tensor.data_location != TensorProto.EXTERNAL:
        return False
    if is_lifted(tensor):
        return True
    payload = weights.payload(tensor)
    assert payload is not None
    if payload.length < BULK_BYTES:
        data = bytes(payload.view())
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = data
        return False
    return True


def take_recorded(graph: onnx.GraphProto, binding: Binding) -> Known:
    """What the file records of its values, which is then removed but for the outputs of ops that inference cannot know."""
    for value in (*graph.value_info, *graph.output):
        binding.apply(value.type.tensor_type.shape)
    recorded = collect(graph)
    unknown = {o for node in graph.node if node.domain not in STANDARD_DOMAINS for o in node.output}
    kept = [value for value in graph.value_info if value.name in unknown]
    replace_all(graph.value_info, kept)
    for output in graph.output:
        if output.name not in unknown:
            output.type.tensor_type.ClearField("shape")
    return recorded


def bind_inputs(graph: onnx.GraphProto, binding: Binding) -> None:
    for value in graph.input:
        if value.name in binding.shapes and value.type.HasField("tensor_type"):
            set_shape(value, binding.shapes[value.name])


def set_shape(value: onnx.ValueInfoProto, shape: Shape) -> None:
    """Record a shape; what is not known of it keeps the name it has."""
    dims = value.type.tensor_type.shape
    symbols = [d.dim_param for d in dims.dim] if len(dims.dim) == len(shape) else [""] * len(shape)
    dims.Clear()
    value.type.tensor_type.shape.SetInParent()
    for size, symbol in zip(shape, symbols, strict=True):
        added = dims.dim.add()
        if size is not None:
            added.dim_value = size
        elif symbol:
            added.dim_param = symbol


def collect(graph: onnx.GraphProto, scope: str = "") -> Known:
    """Every recorded shape of a graph and its bodies."""
    found: Known = {}
    for tensor in graph.initializer:
        found[scope, tensor.name] = tuple(tensor.dims)
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            found[scope, value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
    for node in graph.node:
        for attribute in node.attribute:
            for body in bodies(attribute):
                found |= collect(body, body_scope(scope, node, attribute))
    return found
