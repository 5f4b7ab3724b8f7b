"""The proof of a cut, in onnxruntime.

1. The masked reference (`reference`) and the cut model run on the same random input. Their outputs must agree to
   MAX_OUTPUT_ERROR, or to what the uncut model's outputs differ by between onnxruntime's optimisation levels, if that is more.
2. Every node that the cut touched runs alone, without optimisations, on the reference's tensors without the removed channels. It
   must give what the reference gave, to MAX_NODE_ERROR. This is the sharper test: a whole model can amplify rounding or hide a
   fault.
3. A reference with other channels masked runs as well. Its outputs must differ by SENSITIVE; otherwise the agreement in step 1
   proves nothing.
4. If they do not, steps 1 to 3 are repeated with weights rescaled so that signals reach the outputs.

Models with other float types are widened to float32 first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from onnxsparse.channels.cut import apply_cut
from onnxsparse.channels.groups import Group, Removed, Solution
from onnxsparse.channels.labelled_graph import Discovery
from onnxsparse.channels.reference import masked_reference
from onnxsparse.channels.widening import is_in_float32, widened
from onnxsparse.errors import BackendError
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array
from onnxsparse.ops import OpSpec, OpView, UnknownFact
from onnxsparse.ops.coupling import Role
from onnxsparse.ops.labels import Labels
from onnxsparse.ops.view import product
from onnxsparse.runtime.inputs import seeded_samples
from onnxsparse.runtime.session import Execution, Feeds, fused_runner, loads, runner

MAX_OUTPUT_ERROR = 1e-5
"""Bound on max |a − b| / max |b| of the model's outputs: about 80 units in the last place of float32."""
MAX_NODE_ERROR = 5e-6
"""Bound on max |a − b| / max |b| of one node's outputs, in float32."""

EPSILON = float(np.finfo(np.float32).eps)
"""Distance from 1 to the next float32."""

SENSITIVE = 1e-2
"""Share of an output's largest value by which masking other channels must move it. A thousand times the error bound."""


LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
"""onnxruntime's optimisation levels, from none to all."""


@dataclass(frozen=True)
class NodeError:
    """The error of one node that ran alone."""

    node: str
    """The node's name."""
    error: float
    """max |a − b| / max |b| over its outputs."""


@dataclass(frozen=True)
class Proof:
    """The measurements of a proof."""

    output_error: float
    """max |a − b| / max |b| over all outputs of the model."""
    tolerance: float
    """Bound on `output_error`: MAX_OUTPUT_ERROR, or what the uncut model, masked or not, moves between optimisation levels."""
    worst_node: NodeError | None
    """The node with the largest error. None: no node could run alone."""
    nodes: int
    """Number of nodes that ran alone."""
    moved: float
    """Least change of an output by masking other channels, as a share of its largest value."""
    rescaled: bool = False
    """Whether weights were rescaled to make outputs sensitive."""

    @property
    def holds(self) -> bool:
        """Whether both errors are within their bounds."""
        node = 0.0 if self.worst_node is None else self.worst_node.error
        return self.output_error <= self.tolerance and node <= MAX_NODE_ERROR

    @property
    def sensitive(self) -> bool:
        """Whether masking other channels moves every output enough for the agreement to prove anything."""
        return self.moved >= SENSITIVE


def prove(model: Model, solution: Solution, chosen: Labels, cut: Model, custom_ops: tuple[Path, ...] = ()) -> Proof:
    """Compare `cut` with `model`, from which the classes `chosen` were cut.

    Raises BackendError if onnxruntime does not run one of them, or the reference; the message names which. If the original does
    not run either, it is the one named.
    """
    try:
        return hold_together(model, solution, chosen, cut.copy("the cut version"), custom_ops)
    except BackendError:
        # raises with the original's name if that does not load either
        runner(model, custom_ops=custom_ops, execution=Execution.AS_RUN)
        raise


def hold_together(model: Model, solution: Solution, chosen: Labels, cut: Model, custom_ops: tuple[Path, ...]) -> Proof:
    """Steps 1 to 4. Raises BackendError."""
    if not is_in_float32(model):
        if loads(model, custom_ops):
            # the cut model must load in its own precision, not only widened
            runner(cut, custom_ops=custom_ops, execution=Execution.AS_RUN)
        model, cut = widened(model), widened(cut)
    found = attempt(model, solution, chosen, cut, custom_ops)
    if not found.holds or found.sensitive:
        return found
    louder = rescaled(model, solution)
    again = louder.copy("the cut version, rescaled,")
    apply_cut(again, solution, solution.removal(chosen))
    second = attempt(louder, solution, chosen, again, custom_ops)
    return Proof(
        # the worse of the two runs, each relative to its own tolerance
        max(found.output_error, second.output_error / second.tolerance * found.tolerance),
        found.tolerance,
        max(filter(None, (found.worst_node, second.worst_node)), key=lambda n: n.error, default=None),
        found.nodes,
        second.moved,
        rescaled=True,
    )


def attempt(model: Model, solution: Solution, chosen: Labels, cut: Model, custom_ops: tuple[Path, ...]) -> Proof:
    """Steps 1 to 3 for one set of weights. Raises BackendError."""
    removed = solution.removal(chosen)
    feeds = seeded_samples(model, 1).feeds[0]
    reference = masked_reference(model, solution, removed)
    inner = followed_values(solution)
    wanted = runner(reference, custom_ops=custom_ops, also=inner, execution=Execution.NODE_BY_NODE).run(feeds)
    outputs = [value.name for value in model.proto.graph.output]
    runner(cut, custom_ops=custom_ops, execution=Execution.AS_RUN)  # it must load with optimisations too
    plain = runner(cut, custom_ops=custom_ops, execution=Execution.NODE_BY_NODE).run(feeds)
    error = max((relative_error(plain[name], wanted[name]) for name in outputs), default=0.0)
    tolerance = MAX_OUTPUT_ERROR
    if error > tolerance:
        tolerance = max(tolerance, *(own_movement(m, feeds, outputs, custom_ops) for m in (model, reference)))
    nodes = list(node_errors(cut, solution, removed, wanted, feeds, custom_ops))
    worst = max(nodes, key=lambda n: n.error, default=None)
    other = masked_reference(model, solution, solution.removal(others(solution.groups, chosen)))
    moved = runner(other, custom_ops=custom_ops, execution=Execution.NODE_BY_NODE).run(feeds)
    least = min((relative_error(moved[name], wanted[name]) for name in outputs if is_moved(solution, name)), default=0.0)
    return Proof(error, tolerance, worst, len(nodes), least)


def relative_error(found: Array, wanted: Array) -> float:
    """max |a − b| / max |b|, where b is `wanted`. Infinite if shapes differ, or one is finite where the other is not. Integers
    must be equal.
    """
    if found.shape != wanted.shape:
        return float("inf")
    if found.dtype.kind not in "fV":
        return 0.0 if np.array_equal(found, wanted) else float("inf")
    a, b = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)):
        return float("inf")
    if not finite.any():
        return 0.0
    largest = float(np.abs(b[finite]).max())
    return float(np.abs(a[finite] - b[finite]).max()) / (largest or 1.0)


def own_movement(model: Model, feeds: Feeds, outputs: list[str], custom_ops: tuple[Path, ...]) -> float:
    """Largest relative difference of an uncut model's outputs with and without onnxruntime's optimisations."""
    plain, *others = (fused_runner(model, level, custom_ops).run(feeds) for level in LEVELS)
    return max(relative_error(other[name], plain[name]) for other in others for name in outputs)


def followed_values(solution: Solution) -> list[str]:
    """Names of the main graph's followed activations, which the reference has to return."""
    graph = solution.found.graph.proto
    names = [name for node in graph.node for name in (*node.input, *node.output) if name]
    initial = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    return [name for name in dict.fromkeys(names) if name not in initial and solution.found.axes.get(name) is not None]


def is_moved(solution: Solution, output: str) -> bool:
    """Whether an output can depend on what is cut; one that follows from inputs without any cut channel cannot."""
    reached: set[str] = set()
    found = solution.found
    for index, place in enumerate(found.places):
        keys = [found.output_key(index, at) for at in range(len(place.node.output))]
        made = [labels for key in keys for labels in found.axes.get(key) or () if labels is not None]
        cuttable = any(not solution.classes.is_frozen(labels).all() for labels in made)
        given = [found.input_key(index, at) for at in range(len(place.node.input))]
        given += [found.key(body, value.name) for body in place.bodies for value in body.proto.output]
        if cuttable or any(key in reached for key in given):
            reached.update(keys)
    return output in reached


def others(groups: tuple[Group, ...], chosen: Labels) -> Labels:
    """For every group as many classes as `chosen` has of it, but other ones: kept channels first, removed ones if those do not
    suffice.
    """
    picked = []
    for group in groups:
        gone = np.isin(group.classes, chosen)
        order = np.concatenate([group.classes[~gone], group.classes[gone]])
        picked.append(order[: int(gone.sum())])
    return np.concatenate(picked) if picked else np.zeros(0, np.int64)


def node_errors(
    cut: Model, solution: Solution, removed: Removed, wanted: dict[str, Array], feeds: Feeds, custom_ops: tuple[Path, ...]
) -> Iterator[NodeError]:
    """The error of every touched node that runs alone (step 2). Raises BackendError if one does not run.

    Nodes within bodies are left out, because onnxruntime does not return their values.
    """
    found = solution.found
    by_name = {tensor.name: tensor for tensor in cut.proto.graph.initializer}
    makers = {name: node for node in cut.proto.graph.node for name in node.output}
    sizes = [name for name, value in wanted.items() if value.dtype.kind in "iu"]
    read = {name for node in cut.proto.graph.node for name in node.input}
    computed = [name for name in makers if name in read and name not in wanted]
    integers = runner(cut, custom_ops=custom_ops, also=[*sizes, *computed], execution=Execution.NODE_BY_NODE).run(feeds)
    for index, place in enumerate(found.places):
        original, spec = place.node, found.spec(index)
        if place.graph.scope:
            continue  # onnxruntime does not return values from within a body
        old, new = found.view(index), solution.new_view(index, removed)
        if (old.inputs, old.outputs) == (new.inputs, new.outputs) or spec is None or spec.shape.value is not None:
            continue
        node = makers.get(original.output[0])
        if node is None or node.op_type != original.op_type or any(a.HasField("g") for a in node.attribute):
            continue
        given = {name: compressed(solution, removed, name, wanted.get(name, feeds.get(name))) for name in node.input}
        single: Feeds = {}
        constants: dict[str, Array] = {}
        for name in filter(None, node.input):
            value = given[name]
            if name in by_name or is_constant(makers.get(name)):
                constants[name] = cut.weights[name]
            elif value is None or (name in integers and is_size(found, name, value)):
                single[name] = integers[name]
            else:
                single[name] = value
        outputs = {o: compressed(solution, removed, o, wanted[o]) for o in node.output if o in wanted}
        try:
            error = run_node(cut, node, single, constants, outputs, terms_of(spec, new), custom_ops)
        except BackendError as reason:
            raise BackendError(f"the cut node {place.name} does not run alone: {reason}") from None
        yield NodeError(place.name, error)


def is_size(found: Discovery, name: str, value: Array) -> bool:
    """Whether an integer may be a size that the cut changes: no axis of it is followed, and it is wider than a byte."""
    followed = any(labels is not None for labels in found.axes.get(name) or ())
    return value.dtype.kind in "iu" and value.dtype.itemsize > 1 and not followed


def terms_of(spec: OpSpec, op: OpView) -> int:
    """Number of products that each output element sums; 1 if unknown."""
    try:
        return 1 if spec.macs is None else spec.macs(op) // max(product(op.output()), 1)
    except UnknownFact:
        return 1


def is_constant(maker: onnx.NodeProto | None) -> bool:
    """Whether the value is produced by a Constant node."""
    return maker is not None and maker.op_type == "Constant"


def compressed(solution: Solution, removed: Removed, name: str, value: Array | None) -> Array | None:
    """A tensor of the reference without the removed channels. None for None."""
    axes = solution.found.axes.get(name)
    if value is None or axes is None or len(axes) != value.ndim:
        return value
    for axis, labels in enumerate(axes):
        kept = solution.kept(labels, removed)
        if kept is not None and value.shape[axis] == (0 if labels is None else labels.size):
            value = np.take(value, kept, axis)
    return np.asarray(value, order="C")


def run_node(
    cut: Model,
    node: onnx.NodeProto,
    feeds: Feeds,
    constants: dict[str, Array],
    wanted: dict[str, Array | None],
    terms: int,
    custom_ops: tuple[Path, ...],
) -> float:
    """The largest relative error of a node's outputs, each of which sums `terms` products. Raises BackendError."""
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in feeds.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in wanted]
    initial = [onnx.numpy_helper.from_array(np.asarray(v, order="C"), n) for n, v in constants.items()]
    graph = helper.make_graph([node], "one", inputs, outputs, initial)
    proto = helper.make_model(graph, opset_imports=list(cut.proto.opset_import), ir_version=max(cut.proto.ir_version, 4))
    made = runner(Model.from_proto(proto, "a node"), custom_ops=custom_ops, execution=Execution.NODE_BY_NODE).run(feeds)
    worst = max((relative_error(made[name], value) for name, value in wanted.items() if value is not None), default=0.0)
    # leeway costs another run, and above 1e-3 no rounding explains an error
    return worst / leeway(proto, feeds, wanted, terms, custom_ops) if MAX_NODE_ERROR < worst < 1e-3 else worst


def leeway(
    proto: onnx.ModelProto, feeds: Feeds, wanted: dict[str, Array | None], terms: int, custom_ops: tuple[Path, ...]
) -> float:
    """Factor by which a node's error may exceed MAX_NODE_ERROR, at least 1.

    1. If terms cancel, an error is compared with the size of the terms: what the node computes from magnitudes, over what it
       computes.
    2. If all terms have one sign, rounding errors do not average out: a sum may be off by half a unit in the last place per term.
    """
    loud = onnx.ModelProto()
    loud.CopyFrom(proto)
    for tensor in loud.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype.kind == "f":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.abs(values), tensor.name))
    magnitudes = {name: np.abs(value) if value.dtype.kind == "f" else value for name, value in feeds.items()}
    loud_model = Model.from_proto(loud, "a node, of magnitudes,")
    made = runner(loud_model, custom_ops=custom_ops, execution=Execution.NODE_BY_NODE).run(magnitudes)
    shares = [float(np.abs(made[n]).max()) / float(np.abs(v).max() or 1) for n, v in wanted.items() if v is not None and v.size]
    one_sign = max(shares, default=1.0) < 1 + 1e-6
    return max(1.0, terms * EPSILON / 2 / MAX_NODE_ERROR if one_sign else 1.0, *shares)


def rescaled(model: Model, solution: Solution) -> Model:
    """A copy whose weights keep the size of a signal: each gets the spread of He's initialisation, sqrt(2 / fan-in). Constant
    weights become random.
    """
    louder = model.copy(f"{model.role or 'the copy'} with rescaled weights")
    rng = np.random.default_rng(0)
    for tensor in dict.fromkeys(use.tensor for use in solution.found.uses if use.roles):
        if model.weights[tensor].dtype != np.float32 or len(model.weights.shape(tensor)) < 2:
            continue
        values = np.asarray(model.weights[tensor], np.float32)
        roles = next(use.roles for use in solution.found.uses if use.tensor == tensor and use.roles)
        output = next((axis for axis, role in roles.items() if role is Role.PRODUCES), 0)
        fan_in = values.size / values.shape[output]
        spread = float(values.std())
        base = values if spread > 0 else rng.standard_normal(values.shape, np.float32)
        louder.weights[tensor] = (base * np.float32(np.sqrt(2 / fan_in) / (spread or 1.0))).astype(np.float32)
    return louder
