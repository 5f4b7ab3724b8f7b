"""Which weights of a model have known MACs, and so take part in sparsity_op."""

from collections.abc import Sequence

from onnxsparse.analysis.layer import Layer, Layers, UnknownNode
from onnxsparse.errors import ParamError

MAX_NAMED = 3
"""Layers that an error message names; the rest is an ellipsis."""


def uncounted(layers: Layers) -> Sequence[Layer | UnknownNode]:
    """Layers with weights whose MACs are unknown, then nodes of unknown ops that read stored matrices."""
    opaque = (node for node in layers.unknown if node.matrix_elements)
    return [*(layer for layer in layers if layer.weights and not layer.counted), *opaque]


def require_counted(command: str, layers: Layers, model: str, *, partial: bool, otherwise: str) -> None:
    """Check that the MACs of all layers with weights are known.

    `command` and `model` are names for the message; `otherwise` is an alternative that the message suggests, in words. Raises
    ParamError if some are unknown, unless `partial` accepts that.
    """
    missing = uncounted(layers)
    if not missing or partial:
        return
    counted = sum(bool(layer.weights) and layer.counted for layer in layers)
    names = ", ".join(node.node for node in missing[:MAX_NAMED]) + (", …" if len(missing) > MAX_NAMED else "")
    sizes = layers.binding.unbound if any(layer.open_size for layer in layers) else ()
    give = f"input sizes are open, give them with --input-shape ({'; '.join(sizes)}), " if sizes else ""
    raise ParamError(
        f"{command}: the operations of {len(missing)} of {counted + len(missing)} layers with weights of {model} are unknown "
        f"({names}); {give}{otherwise}, or take those that are known with --partial"
    )


def unknown_operations(layers: Layers) -> list[str]:
    """One note: the share of the weights whose MACs are known, and the number of layers whose are not. Empty if all are known."""
    missing = uncounted(layers)
    if not missing:
        return []
    share = known_weights(layers) / (layers.totals.weights + sum(node.matrix_elements for node in layers.unknown))
    count = "1 layer" if len(missing) == 1 else f"{len(missing)} layers"
    return [f"the operations of {100 * share:.0f} % of the weights; those of {count} are unknown"]


def known_weights(layers: Layers) -> int:
    """Elements of the weight tensors of which every layer that uses them has known MACs; a shared tensor counts once."""
    elements = {use.tensor: use.elements for layer in layers for use in layer.weights}
    unknown = {use.tensor for layer in layers if not layer.counted for use in layer.weights}
    return sum(count for tensor, count in elements.items() if tensor not in unknown)
