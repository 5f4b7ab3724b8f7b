"""Annotations: metrics in node and model metadata, and in Netron attachments. Their keys are known in this file alone.

Netron shows the metadata of a node (`metadata_props`) in the order in which it was written, and clips long keys. Keys are
therefore short and without a prefix; the model's metadata says that they are from this package.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from onnxsparse.analysis.layer import (
    MACS,
    NODE_KEYS,
    NONZERO_MACS,
    PARAMS,
    SPARSITY,
    SPARSITY_OP,
    Layer,
    Layers,
    Totals,
    add_up,
    marks_of,
)
from onnxsparse.cost.estimate import Deployment
from onnxsparse.format import OF_KNOWN, format_count, format_share, marked
from onnxsparse.ir.functions import every_node, find_calls
from onnxsparse.ir.graph import Graph, all_nodes
from onnxsparse.ir.metadata import NAMES, PREFIX, compact, remove

SUMMARY, LATENCY_MS, BOUND, ADVICE = COST_KEYS = ("summary", "latency_ms", "bound", "advice")
ALL_KEYS = (*COST_KEYS, *NODE_KEYS)

FINGERPRINT = f"{PREFIX}fingerprint"
TOTALS = f"{PREFIX}totals"
LAYERS = f"{PREFIX}layers"
DISPLACED = f"{PREFIX}displaced"
"""Metadata of other tools under the same node keys. `write` moves it here; `strip` puts it back."""

ATTACHMENT_SIGNATURE = "netron:attachment"
"""The value by which Netron recognises an attachment."""

CostEntries = dict[str, list[tuple[str, str]]]
"""Node name → (key, value) pairs in the order in which they are written."""


@dataclass(frozen=True)
class NodeFacts:
    """The metrics of one node. A metric that is None is unknown and is not written."""

    macs: int | None
    nonzero_macs: int | None = None
    params: int | None = None
    sparsity: float | None = None
    sparsity_op: float | None = None

    def entries(self) -> list[tuple[str, str]]:
        """(key, value) pairs with exact values: integers, and floats as Python's `repr` gives them."""
        values = (self.macs, self.nonzero_macs, self.params, self.sparsity, self.sparsity_op)
        return [(key, repr(value)) for key, value in zip(NODE_KEYS, values, strict=True) if value is not None]


def node_facts(layers: Sequence[Layer]) -> NodeFacts:
    """The metrics of a node that is one of these layers, or contains them in a body or function.

    MACs are None if those of one layer are unknown. `sparsity_op` is the sum over the layers of their share in the model's.
    """
    totals = add_up(layers)
    shares = [layer.weight_share for layer in layers if layer.weight_share is not None]
    macs = None if any(layer.macs is None for layer in layers) else totals.macs
    return NodeFacts(
        macs,
        None if macs is None else totals.nonzero_macs,
        sum(layer.elements for layer in layers),
        totals.sparsity,
        sum(shares) if shares and totals.macs_complete else None,
    )


def totals_json(totals: Totals) -> dict[str, int | float | None]:
    """The totals as JSON.

    If `complete` is false, something is unknown: the sums are lower bounds, and sparsity_op is a ratio over the known part.
    """
    return {
        "weights": totals.weights,
        "zero_weights": totals.zero_weights,
        "sparsity": totals.sparsity,
        "macs": totals.macs,
        "nonzero_macs": totals.nonzero_macs,
        "sparsity_op": totals.sparsity_op,
        "complete": totals.complete,
    }


def fingerprint(proto: onnx.ModelProto) -> str:
    """Digest of the graph's structure, as 16 hexadecimal digits: nodes, value names, scalar and integer attributes, tensor
    shapes.

    Weight values do not count. Annotations are valid for a graph with the fingerprint that they record.
    """
    digest = hashlib.sha256()
    for node in proto.graph.node:
        attributes = sorted((a.name, a.type, a.i, a.f, a.s, tuple(a.ints)) for a in node.attribute)
        digest.update(repr((node.domain, node.op_type, node.name, *node.input, "", *node.output, attributes)).encode())
    for tensor in proto.graph.initializer:
        digest.update(repr((tensor.name, tensor.data_type, *tensor.dims)).encode())
    return digest.hexdigest()[:16]


def is_annotated(proto: onnx.ModelProto) -> bool:
    """Whether the model carries annotations of this package."""
    return any(entry.key == FINGERPRINT for entry in proto.metadata_props)


def is_stale(proto: onnx.ModelProto) -> bool:
    """Whether the graph has changed since it was annotated. False for a model without annotations."""
    return any(entry.key == FINGERPRINT and entry.value != fingerprint(proto) for entry in proto.metadata_props)


def cost_entries(found: Deployment) -> CostEntries:
    """Node → its predicted cost: `#3 · 2.81 ms · 8 % · io`, the exact milliseconds, the bound, and advice if there is any.

    A layer of unknown cost gets the reason instead. Ranks and shares of the others are then over the known costs alone.
    """
    total = found.latency_ms
    ranked = sorted((r for r in found.rows if r.cost is not None), key=lambda r: -(r.cost.latency_ms if r.cost else 0))
    entries: CostEntries = {row.item.node: [(SUMMARY, f"cost unknown: {row.reason}")] for row in found.unknown}
    for rank, row in enumerate(ranked, start=1):
        assert row.cost is not None
        ms, bound = row.cost.latency_ms, row.cost.bound.value
        share = marked(f"{100 * ms / total if total else 0.0:.0f} %", None if found.costs_complete else OF_KNOWN)
        summary = f"#{rank} · {ms:.2f} ms · {share} · {bound}"
        advice = [] if row.advice is None else [(ADVICE, str(row.advice))]
        entries[row.item.node] = [(SUMMARY, summary), (LATENCY_MS, repr(ms)), (BOUND, bound), *advice]
    return entries


def write(proto: onnx.ModelProto, layers: Layers, costs: CostEntries | None = None) -> None:
    """Annotate a model that carries no annotations of this package. Predicted costs come first on each node, if given.

    Changes `proto` in place: the metadata of its nodes, and three or four entries of the model's metadata.
    """
    costs = costs or {}
    facts = facts_by_node(proto, layers)
    displaced: dict[str, list[tuple[str, str]]] = {}
    for name, node in all_nodes(Graph(proto.graph)):
        if name in facts or name in costs:
            theirs = [(e.key, e.value) for e in node.metadata_props if e.key in ALL_KEYS]
            if theirs:
                displaced[name] = theirs
            remove(node, ALL_KEYS)
            for key, value in (*costs.get(name, []), *(facts[name].entries() if name in facts else [])):
                node.metadata_props.add(key=key, value=value)
    rows = [[layer.node, *table_row(layer)] for layer in layers]
    found = {
        FINGERPRINT: fingerprint(proto),
        TOTALS: compact(totals_json(layers.totals) | ({"assumed_free": sorted(layers.free)} if layers.free else {})),
        LAYERS: compact({"columns": ["node", *NODE_KEYS], "rows": rows}),
    }
    if displaced:
        found[DISPLACED] = compact(displaced)
    for key, value in found.items():
        proto.metadata_props.add(key=key, value=value)


def table_row(layer: Layer) -> list[int | float | None]:
    """The values of one layer in the order of NODE_KEYS; None where unknown."""
    return [layer.macs, layer.nonzero_macs, layer.elements, layer.sparsity, layer.weight_share]


def facts_by_node(proto: onnx.ModelProto, layers: Layers) -> dict[str, NodeFacts]:
    """Node name → metrics, for every node whose op is known.

    That is: layers; nodes that contain layers (If, Loop, Scan, calls of functions); and 0 MACs for all others.
    """
    unknown = {u.node for u in layers.unknown}
    found = {name: NodeFacts(macs=0) for name, _ in all_nodes(Graph(proto.graph)) if name not in unknown}
    calls = [graph.names[index] for graph, index in find_calls(proto)]
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        inside = (call for call in calls if layer.node.startswith(f"{call}/"))
        for name in dict.fromkeys((layer.node, layer.within, *inside)):
            groups.setdefault(name, []).append(layer)
    return found | {name: node_facts(group) for name, group in groups.items()}


def strip(proto: onnx.ModelProto) -> int:
    """Remove all annotations of this package, and restore the metadata that they displaced.

    Returns the number of nodes changed.
    """
    displaced: dict[str, list[tuple[str, str]]] = next(
        (json.loads(e.value) for e in proto.metadata_props if e.key == DISPLACED), {}
    )
    count = 0
    if is_annotated(proto):
        for name, node in all_nodes(Graph(proto.graph)):
            count += remove(node, ALL_KEYS) > 0
            for key, value in displaced.get(name, []):
                node.metadata_props.add(key=key, value=value)
    remove(proto, [e.key for e in proto.metadata_props if e.key.startswith(PREFIX) and e.key != NAMES])
    return count


def attachment(proto: onnx.ModelProto, layers: Layers, costs: CostEntries | None = None) -> tuple[str, int]:
    """A Netron attachment (JSON) that adds readable metrics to the unchanged model, and the number of layers it cannot reach.

    Netron finds nodes by name alone. It cannot reach a node without a name, or with a name that another node has too.
    """
    graph = Graph(proto.graph)
    counts = Counter(node.name for node in every_node(proto))
    named = {name for name, node in zip(graph.names, proto.graph.node, strict=True) if name == node.name and counts[name] == 1}
    metrics = [metric("model", "", *entry) for entry in readable_totals(layers.totals)]
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.within, []).append(layer)
    costs = costs or {}
    for name in graph.names:
        if name in named and (name in groups or name in costs):
            facts = readable(node_facts(groups[name])) if name in groups else []
            metrics += [metric("node", name, *entry) for entry in (*readable_cost(costs.get(name, [])), *facts)]
    unreachable = sum(len(group) for name, group in groups.items() if name not in named)
    return json.dumps({"signature": ATTACHMENT_SIGNATURE, "metrics": metrics}, indent=1), unreachable


def metric(kind: str, target: str, name: str, value: str) -> dict[str, str]:
    """One entry of a Netron attachment. `kind`: `model` or `node`; `target`: the node's name, empty for the model."""
    return {"kind": kind, "target": target, "name": name, "value": value}


def readable_cost(entries: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Cost entries with milliseconds rounded to three decimals."""
    return [(key, f"{float(value):.3f}" if key == LATENCY_MS else value) for key, value in entries]


def readable(facts: NodeFacts) -> list[tuple[str, str]]:
    """(key, text) of the known metrics of a node, rounded for people."""
    numbers = [(MACS, facts.macs), (NONZERO_MACS, facts.nonzero_macs), (PARAMS, facts.params)]
    shares = [(SPARSITY, facts.sparsity), (SPARSITY_OP, facts.sparsity_op)]
    found = [(key, format_count(value)) for key, value in numbers if value is not None]
    return found + [(key, format_share(value)) for key, value in shares if value is not None]


def readable_totals(totals: Totals) -> list[tuple[str, str]]:
    """(key, text) of the model's totals, rounded for people; incomplete ones are marked as bounds."""
    found = readable(NodeFacts(totals.macs, totals.nonzero_macs, totals.weights, totals.sparsity, totals.sparsity_op))
    known = marks_of(totals)
    return [(key, marked(value, known.get(key))) for key, value in found]
