"""The weight tensors that pruning may touch, and the reason for each that it may not."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from onnxsparse.analysis.layer import Layer, Layers, WeightUse
from onnxsparse.analysis.layer_filter import choose
from onnxsparse.analysis.stored_weights import StoredWeight
from onnxsparse.errors import ModelError
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Weights
from onnxsparse.ops import find
from onnxsparse.pruning.learnt import why_not_learnt
from onnxsparse.records import Skip


@dataclass(frozen=True)
class Candidate:
    """One weight tensor that may be pruned, with all nodes that use it."""

    stored: StoredWeight
    elements: int
    """Elements of the tensor."""
    zeros: int
    """Elements that are zero before pruning."""
    uses: int
    """MACs per element, summed over all nodes that use the tensor; unknown ones count as 0."""
    nodes: tuple[str, ...]
    """The layers that use the tensor, in graph order."""
    use: WeightUse
    """The first of its uses; the axes of blocks and N:M groups are taken from it."""
    protected: str | None
    """Why soft protection spares the tensor ("stem", "depthwise", …); None if it is not protected."""

    @property
    def name(self) -> str:
        """The name of the stored tensor, which masks are filed under."""
        return self.stored.name


def find_candidates(
    model: Model, layers: Layers, chosen: set[str], excluded: set[str], *, by_operations: bool
) -> tuple[list[Candidate], list[Skip]]:
    """Prunable tensors among the `chosen` layers, in graph order, and a reason for every layer whose tensor is not prunable.

    `by_operations` leaves out tensors with a use whose MACs are unknown. Raises ModelError for a weight without elements.
    """
    protected = protection(model, layers)
    users: dict[str, list[tuple[Layer, WeightUse]]] = defaultdict(list)
    skipped = [Skip(layer.node, reason) for layer in layers if (reason := why_no_weights(layer))]
    for layer in layers:
        for use in layer.weights:
            users[use.tensor].append((layer, use))
    candidates: list[Candidate] = []
    for name, found in users.items():
        reason = why_not_chosen(found, chosen, excluded) or why_not(model.weights, found)
        if reason is None and by_operations and any(use.uses is None for _, use in found):
            reason = "its MACs are unknown"
        if reason is not None:
            skipped += [Skip(layer.node, reason) for layer, _ in found]
            continue
        uses = [use.uses or 0 for _, use in found]
        reasons = {protected[layer.node] for layer, _ in found if layer.node in protected}
        first = found[0][1]
        nodes = tuple(layer.node for layer, _ in found)
        whole = ", ".join(sorted(reasons)) or None
        candidates.append(Candidate(first.stored, first.elements, first.zeros or 0, sum(uses), nodes, first, whole))
        if first.elements == 0:
            shape = "x".join(map(str, model.weights.shape(name)))
            raise ModelError(f"{model.name}: weight '{name}' of node '{nodes[0]}' has no elements (shape {shape})")
    return candidates, skipped


def select_candidates(
    model: Model, facts: Layers, only: Sequence[str], exclude: Sequence[str], command: str, *, by_operations: bool
) -> tuple[list[Candidate], list[Skip]]:
    """`find_candidates` among the layers that match `only` (empty: all) and none of `exclude`.

    Raises ParamError for a pattern that matches no layer, and as `find_candidates` does.
    """
    chosen = choose(facts, only, f"{command}: --only", model.name) if only else {layer.node for layer in facts}
    excluded = choose(facts, exclude, f"{command}: --exclude", model.name)
    return find_candidates(model, facts, chosen, excluded, by_operations=by_operations)


def why_no_weights(layer: Layer) -> str | None:
    """Why a layer has no weight tensor to prune; None if it has one."""
    if layer.weights:
        return None
    return layer.computed_weight or "multiplies activations, it has no weights"


def why_not_chosen(found: Sequence[tuple[Layer, WeightUse]], chosen: set[str], excluded: set[str]) -> str | None:
    """Why `chosen` and `excluded` (layer names) rule a tensor out; None if they do not.

    A shared tensor is pruned only if all layers that use it may be pruned.
    """
    nodes = [layer.node for layer, _ in found]
    if any(node in excluded for node in nodes):
        return "excluded" if len(nodes) == 1 else "excluded, or shares its weight with an excluded layer"
    return None if all(node in chosen for node in nodes) else "not among --only"


def why_not(weights: Weights, found: Sequence[tuple[Layer, WeightUse]]) -> str | None:
    """Why a tensor cannot be pruned (packed, no common zero point) or should not be (not learnt); None if it may be."""
    stored = found[0][1].stored
    if len({(use.stored.scale, use.stored.zero_point) for _, use in found}) > 1:
        return "several layers read its weight with different zero points"
    if stored.packing is not None:
        return f"its weight is packed at {stored.packing.bits} bits per element"
    # numpy gives ml_dtypes' bfloat16 and float8 the kind V
    if weights[stored.name].dtype.kind not in "fiuV":
        return f"its weight has element type {weights[stored.name].dtype}"
    return why_not_learnt(weights, stored, found[0][0].depthwise)


def protection(model: Model, layers: Layers) -> dict[str, str]:
    """Layer → why soft protection spares it; unprotected layers are left out.

    1. Stem: the first layers with weights after the model's inputs. Each of their weights is used at many positions.
    2. Output layer: the last layers with weights before the model's outputs. They have few redundant weights.
    3. Depthwise layer: one filter per channel, so few redundant weights.

    Paths stop at nodes that return only sizes (Shape, Size): sizes pass through them, data does not.
    """
    graph = Graph(model.proto.graph)
    weighted = {layer.within for layer in layers if layer.weights}
    initializers = graph.initializers
    opaque = {name for name, node in zip(graph.names, graph.proto.node, strict=True) if gives_sizes(model, node)}
    stem = reach(graph, [v.name for v in graph.proto.input if v.name not in initializers], weighted, opaque, forward=True)
    last = reach(graph, [v.name for v in graph.proto.output], weighted, opaque, forward=False)
    found: dict[str, str] = {}
    for layer in layers:
        reasons = [text for nodes, text in ((stem, "stem"), (last, "output layer")) if layer.within in nodes]
        if layer.depthwise:
            reasons.append("depthwise")
        if reasons and layer.weights:
            found[layer.node] = " and ".join(reasons)
    return found


def gives_sizes(model: Model, node: onnx.NodeProto) -> bool:
    """Whether an op's outputs hold only the sizes of its inputs, as those of Shape and Size do."""
    spec = find(node.domain, node.op_type, model.opset(node.domain))
    return spec is not None and spec.shape.value is not None


def reach(graph: Graph, values: list[str], stops: set[str], opaque: set[str], *, forward: bool) -> set[str]:
    """The first nodes in `stops` on every path from `values`, which are tensor names.

    `forward` follows paths to consumers, otherwise to producers. Paths end at `opaque` nodes.
    """
    met: set[str] = set()
    seen: set[str] = set()
    pending = list(values)
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        found = graph.consumers.get(value, []) if forward else [graph.producers[value]] if value in graph.producers else []
        for index in found:
            if graph.names[index] in stops:
                met.add(graph.names[index])
            elif graph.names[index] not in opaque:
                node = graph.proto.node[index]
                pending += [name for name in (node.output if forward else node.input) if name]
    return met
