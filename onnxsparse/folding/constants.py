"""Constant folding: values that follow from constants alone become initializers.

1. Nodes are evaluated in order, each in onnxruntime, if all their inputs are known. Random ops and ops with bodies are not.
2. Ops that are not `allowed` (generators, quantizers, ops that enlarge) stay, and are evaluated only if they give few integers
   (`makes`), so that size arithmetic downstream can fold.
3. Values that a node outside of the folded region uses are candidates for replacement.
4. With `may_grow`, a candidate must not exceed its sources by more than SLACK_BYTES. Without it, the file must not grow
   (`growth.affordable`).
5. Replaced values become initializers, and nodes without users are removed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnxsparse.analysis.context import FLOATS, main_context
from onnxsparse.errors import BackendError
from onnxsparse.folding.growth import Replacement, affordable, all_outputs
from onnxsparse.folding.rewriting import Folding, is_constant_node, remove, rewire
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array
from onnxsparse.runtime.session import runner

SLACK_BYTES = 4096
"""Bytes by which a folded constant may exceed its sources where the file may grow, and bound on what is evaluated from an op
that stays. Large enough for vectors of sizes and biases; generated weights, which are larger, stay generated.
"""

INTEGER_BYTES = 8
"""Bytes per integer element, at most."""


@dataclass(frozen=True)
class Computed:
    """A value that follows from constants."""

    values: Array
    """The value."""
    sources: dict[str, int]
    """Name → size in bytes of each constant that it follows from."""


def computes_on_constants(model: Model) -> bool:
    """Whether a node of the main graph computes a float tensor from constants, other than as a view of one."""
    context = main_context(model)
    known = context.follow_constants(bodies=True, integers=False)
    computed = known - {name for name, tensor in context.graph.initializers.items() if tensor.data_type not in FLOATS}
    return any(
        set(filter(None, node.input)) <= known and not computed.isdisjoint(node.input)
        for node, spec in zip(context.nodes, context.specs, strict=True)
        if spec is not None and spec.shape.view is None and spec.fold.allowed and not spec.random
    )


def fold_constants(folding: Folding, graph: Any) -> None:
    """Fold the constants of one graph; its bodies are folded before it."""
    known: dict[int, Computed] = {}
    made: list[Any] = []
    for node in graph.nodes:
        results = compute(folding, node, known)
        known |= results
        made += [node] if results else []
    inside = {id(node) for node in made if folds(folding, node)}
    outputs = all_outputs(graph)
    wanted = [r for node in made if id(node) in inside for r in replacements(node, known, inside) if id(r.tensor) not in outputs]
    if folding.may_grow:
        chosen = [r for r in wanted if r.values.nbytes <= sum(known[id(r.tensor)].sources.values()) + SLACK_BYTES]
    else:
        chosen = affordable(folding, graph, wanted, made)
        folding.left += len(wanted) - len(chosen)
    for found in chosen:
        rewire(found.tensor, constant_for(folding, found.tensor, known[id(found.tensor)]), list(found.users))
    gone = []
    for node in reversed(made):
        if not any(o.outputs or id(o) in outputs for o in node.outputs):
            node.inputs.clear()
            gone.append(node)
    remove(graph, gone)


def replacements(node: Any, known: dict[int, Computed], inside: set[int]) -> Iterator[Replacement]:
    """The values of `node` that have users outside of the folded region `inside` (identities of nodes)."""
    for tensor in node.outputs:
        found = known.get(id(tensor))
        users = tuple(user for user in tensor.outputs if id(user) not in inside)
        if found is not None and found.values.dtype != object and users:
            yield Replacement(tensor, node, users, found.values)


def folds(folding: Folding, node: Any) -> bool:
    """Whether a node with known inputs may be replaced by its result."""
    spec = folding.spec(node)
    return spec is not None and spec.fold.allowed


def compute(folding: Folding, node: Any, known: dict[int, Computed]) -> dict[int, Computed]:
    """Identity of an output tensor → its value, for a node whose inputs are all known; empty for any other node."""
    spec = folding.spec(node)
    if is_constant_node(node):
        values = node.attrs["value"].values
        return {id(node.outputs[0]): Computed(values, {node.outputs[0].name: values.nbytes})}
    inputs = [t for t in node.inputs if t.name]
    if spec is None or spec.random or spec.body is not None or not inputs or not all(o.name for o in node.outputs):
        return {}
    if not all(isinstance(t, gs.Constant) or id(t) in known for t in inputs):
        return {}  # here already: `stored` would load the weights that the node reads
    given = [(t, stored(t, known)) for t in inputs]
    if any(found.values.dtype == object for _, found in given):
        return {}
    if not spec.fold.allowed and not makes_few(folding, node, [found.values for _, found in given]):
        return {}
    values = run_node(folding, node, {t.name: found.values for t, found in given})
    sources = {name: size for _, found in given for name, size in found.sources.items()}
    return {id(t): Computed(v, sources) for t, v in zip(node.outputs, values, strict=False)}


def makes_few(folding: Folding, node: Any, inputs: list[Array]) -> bool:
    """Whether an op that stays gives so few integers that values computed from them can be stored."""
    spec = folding.spec(node)
    made = None if spec is None or spec.fold.makes is None else spec.fold.makes(folding.view(node), inputs)
    return made is not None and made * INTEGER_BYTES <= SLACK_BYTES


def stored(tensor: Any, known: dict[int, Computed]) -> Computed:
    """The value of a constant, or of a computed tensor."""
    if isinstance(tensor, gs.Constant):
        return Computed(tensor.values, {tensor.name: tensor.values.nbytes})
    return known[id(tensor)]


def run_node(folding: Folding, node: Any, feeds: dict[str, Array]) -> list[Array]:
    """The outputs of one node in onnxruntime, so that values are those of the runtime; empty if it cannot run the node."""
    proto = folding.view(node).node
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()]
    outputs = [onnx.ValueInfoProto(name=o.name) for o in node.outputs]
    graph = helper.make_graph([proto], "one", inputs, outputs)
    imports = folding.model.proto.opset_import
    try:
        single = Model.from_proto(
            helper.make_model(graph, opset_imports=imports, ir_version=max(folding.model.proto.ir_version, 4))
        )
        return list(runner(single).run(feeds).values())
    except BackendError:
        return []


def constant_for(folding: Folding, tensor: Any, found: Computed) -> Any:
    """An initializer with a computed value; if it follows from exactly one matrix of weights, it is recorded as derived from
    that.
    """
    folding.count("constant folded")
    weights = folding.model.weights
    learnt = [name for name in found.sources if name in weights and weights[name].dtype.kind == "f" and weights[name].ndim > 1]
    if len(learnt) == 1:
        folding.names[tensor.name] = learnt[0]
    return gs.Constant(tensor.name, found.values)
