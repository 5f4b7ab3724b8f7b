"""A copy of a model for Netron: annotated, and with the most expensive nodes searchable by rank."""

from onnxsparse import annotations
from onnxsparse.analysis.layers import layers
from onnxsparse.cost.estimate import Deployment, deploy
from onnxsparse.format import OF_KNOWN, marked
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.model import Model


def for_viewing(model: Model, *, heat: bool, target: str) -> Model:
    """A copy annotated with facts and with the predicted cost on `target`, a name or file.

    `heat` prefixes node names with rank, bound and share of the latency, so that Netron's search finds them. Raises ParamError
    for an unknown target.
    """
    shown = model.copy()
    found = deploy(model, target)
    annotations.strip(shown.proto)
    annotations.write(shown.proto, layers(model), annotations.cost_entries(found))
    if heat:
        rename_by_cost(shown, found)
    return shown


def rename_by_cost(shown: Model, found: Deployment) -> None:
    """Rename layers like `#1 io 12.3 % conv1`, ranked by latency; fused nodes and nodes without a cost keep their names."""
    ranked = sorted(((r.item.node, r.cost) for r in found.rows if r.cost is not None), key=lambda row: -row[1].latency_ms)
    mark = None if found.costs_complete else OF_KNOWN
    whole = found.latency_ms or 1.0  # avoids 0 / 0 if all costs are 0
    labels = {
        node: f"#{rank} {cost.bound.value} {marked(f'{100 * cost.latency_ms / whole:.1f} %', mark)}"
        for rank, (node, cost) in enumerate(ranked, start=1)
    }
    names = Graph(shown.proto.graph).names
    for name, node in zip(names, shown.proto.graph.node, strict=True):
        if name in labels:
            node.name = f"{labels[name]} {name}"
