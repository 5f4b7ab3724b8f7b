"""Facts about a model as JSON."""

from onnxsparse.facts import Layer, Layers
from onnxsparse.metadata import totals_json

SCHEMA = 1


def layers_json(layers: Layers, model: str) -> dict[str, object]:
    """`schema` counts incompatible changes. None is unknown."""
    return {
        "schema": SCHEMA,
        "model": model,
        "totals": totals_json(layers.totals),
        "layers": [layer_json(layer) for layer in layers],
        "unknown_ops": list(layers.unknown_ops),
        "unknown_nodes": [{"node": u.node, "op_type": u.op, "macs": None} for u in layers.unknown],
        "assumed": list(layers.binding.assumed),
        "notes": list(layers.notes),
    }


def layer_json(layer: Layer) -> dict[str, object]:
    return {
        "node": layer.node,
        "op_type": layer.op_type,
        "within": layer.within,
        "weights": layer.elements,
        "zero_weights": layer.zeros,
        "macs": layer.macs,
        "nonzero_macs": layer.nonzero_macs,
        "sparsity": layer.sparsity,
        "sparsity_op": layer.weight_share,
        "tensors": [{"name": w.tensor, "elements": w.elements, "zeros": w.zeros, "uses": w.uses} for w in layer.weights],
    }
