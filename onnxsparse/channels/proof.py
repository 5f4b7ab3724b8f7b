"""The proof of a cut, in onnxruntime.

Three parts. The cut model's outputs equal the masked reference's. Every node that the cut touched, alone and without
optimisations, makes of the reference's compressed tensors what the reference made: that is sharp where a whole model amplifies
rounding, or hides a fault. And masking *other* channels moves the outputs, or agreement proves nothing: where it does not, all
is run again with weights rescaled so that signals reach the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from onnxsparse.channels.cut import apply_cut
from onnxsparse.channels.discovery import Discovery
from onnxsparse.channels.groups import Group, Removed, Solution
from onnxsparse.channels.reference import masked_reference
from onnxsparse.channels.widening import is_in_float32, widened
from onnxsparse.errors import BackendError
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array
from onnxsparse.ops import OpSpec, OpView, UnknownFact
from onnxsparse.ops.labels import Labels
from onnxsparse.ops.view import product
from onnxsparse.runtime.inputs import seeded_samples
from onnxsparse.runtime.session import Execution, Feeds, fused_runner, runner

MAX_OUTPUT_ERROR = 1e-5
MAX_NODE_ERROR = 5e-6
"""Of an output's largest value, in float32."""

EPSILON = float(np.finfo(np.float32).eps)

SENSITIVE = 1e-2
"""Masking other channels must move an output by this share, or its agreement proves nothing."""


LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")


@dataclass(frozen=True)
class NodeError:
    node: str
    error: float


@dataclass(frozen=True)
class Proof:
    """`output_error`, `worst_node`: share of the largest value. `tolerance`: what the uncut model, masked or not, moves between
    optimisation levels, where that is more than MAX_OUTPUT_ERROR. `moved`: by masking other channels, the least of all outputs.
    `rescaled`: whether weights had to be rescaled for that.
    """

    output_error: float
    tolerance: float
    worst_node: NodeError | None
    nodes: int
    moved: float
    rescaled: bool = False

    @property
    def holds(self) -> bool:
        node = 0.0 if self.worst_node is None else self.worst_node.error
        return self.output_error <= self.tolerance and node <= MAX_NODE_ERROR

    @property
    def sensitive(self) -> bool:
        return self.moved >= SENSITIVE


def prove(model: Model, solution: Solution, chosen: Labels, cut: Model, custom_ops: tuple[Path, ...] = ()) -> Proof:
    """Hold `cut` against `model`, from which `chosen` were cut. Raises BackendError where onnxruntime does not run one of them,
    or the reference, and names which.

    Floats of other sizes are widened to float32 on both sides first: half precision rounds more than a fault may hide behind.
    """
    try:
        return hold_together(model, solution, chosen, cut.copy("the cut version"), custom_ops)
    except BackendError:
        runner(
            model, custom_ops=custom_ops, execution=Execution.AS_RUN
        )  # where the original does not load either, that is the reason
        raise


def hold_together(model: Model, solution: Solution, chosen: Labels, cut: Model, custom_ops: tuple[Path, ...]) -> Proof:
    if not is_in_float32(model):
        if loads(model, custom_ops):
            # in its own precision the cut model has to load as well
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
        # the worse of the two runs, as a share of what each was allowed
        max(found.output_error, second.output_error / second.tolerance * found.tolerance),
        found.tolerance,
        max(filter(None, (found.worst_node, second.worst_node)), key=lambda n: n.error, default=None),
        found.nodes,
        second.moved,
        rescaled=True,
    )


def loads(model: Model, custom_ops: tuple[Path, ...]) -> bool:
    try:
        runner(model, custom_ops=custom_ops, execution=Execution.AS_RUN)
    except BackendError:
        return False
    return True


def attempt(model: Model, solution: Solution, chosen: Labels, cut: Model, custom_ops: tuple[Path, ...]) -> Proof:
    removed = solution.removal(chosen)
    feeds = seeded_samples(model, 1).feeds[0]
    reference = masked_reference(model, solution, removed)
    inner = followed_values(solution)
    wanted = runner(reference, custom_ops=custom_ops, also=inner, execution=Execution.NODE_BY_NODE).run(feeds)
    outputs = [value.name for value in model.proto.graph.output]
    runner(cut, custom_ops=custom_ops, execution=Execution.AS_RUN)  # with optimisations it has to load as well
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
    """max |a − b| / max |b|; infinite for different shapes or where one is not finite and the other is."""
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
    """How far an uncut model's outputs are apart with and without onnxruntime's optimisations."""
    plain, *others = (fused_runner(model, level, custom_ops).run(feeds) for level in LEVELS)
    return max(relative_error(other[name], plain[name]) for other in others for name in outputs)


def followed_values(solution: Solution) -> list[str]:
    """The activations that a touched node reads or makes."""
    graph = solution.found.graph.proto
    names = [name for node in graph.node for name in (*node.input, *node.output) if name]
    initial = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    return [name for name in dict.fromkeys(names) if name not in initial and solution.found.axes.get(name) is not None]


def is_moved(solution: Solution, output: str) -> bool:
    """Whether an output could depend on what is cut: one that is computed from inputs alone cannot."""
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
    """As many channels of every group, but others: the ones that were kept, as far as there are enough."""
    picked = []
    for group in groups:
        gone = np.isin(group.classes, chosen)
        order = np.concatenate([group.classes[~gone], group.classes[gone]])
        picked.append(order[: int(gone.sum())])
    return np.concatenate(picked) if picked else np.zeros(0, np.int64)


def node_errors(
    cut: Model, solution: Solution, removed: Removed, wanted: dict[str, Array], feeds: Feeds, custom_ops: tuple[Path, ...]
) -> Iterator[NodeError]:
    """Every node that the cut touched, alone, on the reference's tensors without the removed channels."""
    found = solution.found
    by_name = {tensor.name: tensor for tensor in cut.proto.graph.initializer}
    makers = {name: node for node in cut.proto.graph.node for name in node.output}
    sizes = [name for name, value in wanted.items() if value.dtype.kind in "iu"]
    computed = [name for name in makers if name in {i for n in cut.proto.graph.node for i in n.input} and name not in wanted]
    integers = runner(cut, custom_ops=custom_ops, also=[*sizes, *computed], execution=Execution.NODE_BY_NODE).run(feeds)
    for index, place in enumerate(found.places):
        original, spec = place.node, found.spec(index)
        if place.graph.scope:
            continue  # what happens in a body cannot be looked at
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
            error = run_node(cut, node, single, constants, outputs, terms_of(spec, new))
        except BackendError as reason:
            raise BackendError(f"the cut node {place.name} does not run alone: {reason}") from None
        yield NodeError(place.name, error)


def is_size(found: Discovery, name: str, value: Array) -> bool:
    """Whether an integer may be a size, which the cut changes: it has no axis that is followed, and is no byte."""
    followed = any(labels is not None for labels in found.axes.get(name) or ())
    return value.dtype.kind in "iu" and value.dtype.itemsize > 1 and not followed


def terms_of(spec: OpSpec, op: OpView) -> int:
    """How many products an output element sums."""
    try:
        return 1 if spec.macs is None else spec.macs(op) // max(product(op.output()), 1)
    except UnknownFact:
        return 1


def is_constant(maker: onnx.NodeProto | None) -> bool:
    return maker is not None and maker.op_type == "Constant"


def compressed(solution: Solution, removed: Removed, name: str, value: Array | None) -> Array | None:
    """A tensor of the reference without the removed channels."""
    axes = solution.found.axes.get(name)
    if value is None or axes is None or len(axes) != value.ndim:
        return value
    for axis, labels in enumerate(axes):
        kept = solution.kept(labels, removed)
        if kept is not None and value.shape[axis] == (0 if labels is None else labels.size):
            value = np.take(value, kept, axis)
    return np.asarray(value, order="C")


def run_node(
    cut: Model, node: onnx.NodeProto, feeds: Feeds, constants: dict[str, Array], wanted: dict[str, Array | None], terms: int
) -> float:
    """The largest error of a node's outputs, each of which sums `terms` products."""
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in feeds.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in wanted]
    initial = [onnx.numpy_helper.from_array(np.asarray(v, order="C"), n) for n, v in constants.items()]
    graph = helper.make_graph([node], "one", inputs, outputs, initial)
    proto = helper.make_model(graph, opset_imports=list(cut.proto.opset_import), ir_version=max(cut.proto.ir_version, 4))
    made = runner(Model.from_proto(proto, "a node"), execution=Execution.NODE_BY_NODE).run(feeds)
    worst = max((relative_error(made[name], value) for name, value in wanted.items() if value is not None), default=0.0)
    return worst / leeway(proto, feeds, wanted, terms) if MAX_NODE_ERROR < worst < 1e-3 else worst


def leeway(proto: onnx.ModelProto, feeds: Feeds, wanted: dict[str, Array | None], terms: int) -> float:
    """By how much more than usual a node may be off, at least 1.

    Where terms cancel, an error is held against their size: what the node makes of magnitudes, over what it makes. Where all
    have one sign, rounding does not even out, and a sum may be off by half a unit in the last place per term.
    """
    loud = onnx.ModelProto()
    loud.CopyFrom(proto)
    for tensor in loud.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype.kind == "f":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.abs(values), tensor.name))
    magnitudes = {name: np.abs(value) if value.dtype.kind == "f" else value for name, value in feeds.items()}
    made = runner(Model.from_proto(loud, "a node, of magnitudes,"), execution=Execution.NODE_BY_NODE).run(magnitudes)
    shares = [float(np.abs(made[n]).max()) / float(np.abs(v).max() or 1) for n, v in wanted.items() if v is not None and v.size]
    one_sign = max(shares, default=1.0) < 1 + 1e-6
    return max(1.0, terms * EPSILON / 2 / MAX_NODE_ERROR if one_sign else 1.0, *shares)


def rescaled(model: Model, solution: Solution) -> Model:
    """A copy whose weights keep a signal at its size: each with the spread of He's initialisation, random where it was
    constant.
    """
    louder = model.copy(f"{model.role or 'the copy'} with rescaled weights")
    rng = np.random.default_rng(0)
    for tensor in dict.fromkeys(use.tensor for use in solution.found.uses if use.roles):
        if model.weights[tensor].dtype != np.float32 or len(model.weights.shape(tensor)) < 2:
            continue
        values = np.asarray(model.weights[tensor], np.float32)
        roles = next(use.roles for use in solution.found.uses if use.tensor == tensor and use.roles)
        output = next((axis for axis, role in roles.items() if role.value == "produces"), 0)
        fan_in = values.size / values.shape[output]
        spread = float(values.std())
        base = values if spread > 0 else rng.standard_normal(values.shape, np.float32)
        louder.weights[tensor] = (base * np.float32(np.sqrt(2 / fan_in) / (spread or 1.0))).astype(np.float32)
    return louder
