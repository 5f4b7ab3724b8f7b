"""A model as Netron is to show it: annotated, and with the costliest nodes findable by name."""

from onnxsparse import annotations
from onnxsparse.analysis.layers import layers
from onnxsparse.cost.estimate import Deployment, deploy
from onnxsparse.format import OF_KNOWN, marked
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.model import Model


def for_viewing(model: Model, *, heat: bool, target: str) -> Model:
    """A copy annotated with facts and with the predicted cost on `target`.

    `heat` puts rank, bound and share of the latency in front of its node names, which Netron's search finds.
    """
    shown = model.copy()
    found = deploy(model, target)
    annotations.strip(shown.proto)
    annotations.write(shown.proto, layers(model), annotations.cost_entries(found))
    if heat:
        rename_by_cost(shown, found)
    return shown


def rename_by_cost(shown: Model, found: Deployment) -> None:
    """`#1 io 12.3 % conv1` for the layer that takes longest, and so on; what is fused or free keeps its name."""
    ranked = sorted(((r.item.node, r.cost) for r in found.rows if r.cost is not None), key=lambda row: -row[1].latency_ms)
    mark = None if found.costs_complete else OF_KNOWN
    whole = found.latency_ms or 1.0  # where nothing costs anything, no layer has a share
    labels = {
        node: f"#{rank} {cost.bound.value} {marked(f'{100 * cost.latency_ms / whole:.1f} %', mark)}"
        for rank, (node, cost) in enumerate(ranked, start=1)
    }
    names = Graph(shown.proto.graph).names
    for name, node in zip(names, shown.proto.graph.node, strict=True):
        if name in labels:
            node.name = f"{labels[name]} {name}"
