"""A model as Netron is to show it: annotated, and with the costliest nodes findable by name."""

from onnxsparse import metadata
from onnxsparse.facts import layers
from onnxsparse.graph import Graph
from onnxsparse.layer import Layer, Layers
from onnxsparse.model import Model


def for_viewing(model: Model, *, heat: bool) -> Model:
    """An annotated copy. `heat` puts rank and share of the MACs in front of its node names, which Netron's search finds."""
    shown = model.copy()
    found = layers(model)
    metadata.strip(shown.proto)
    metadata.write(shown.proto, found)
    if heat:
        rename_by_cost(shown, found)
    return shown


def rename_by_cost(shown: Model, found: Layers) -> None:
    """`#1 12.3 % conv1` for the node with most MACs, and so on; nodes without MACs keep their names."""
    ranked = sorted((layer for layer in found if layer.macs), key=cost, reverse=True)
    total = sum(cost(layer) for layer in ranked)
    labels = {layer.node: f"#{rank} {100 * cost(layer) / total:.1f} %" for rank, layer in enumerate(ranked, start=1)}
    names = Graph(shown.proto.graph).names
    for name, node in zip(names, shown.proto.graph.node, strict=True):
        if name in labels:
            node.name = f"{labels[name]} {name}"


def cost(layer: Layer) -> int:
    return layer.macs or 0
