"""How much of a model's weights have known operations: what a share of the operations can be said of."""

from collections.abc import Sequence

from onnxsparse.analysis.layer import Layer, Layers, UnknownNode
from onnxsparse.errors import ParamError

MAX_NAMED = 3


def uncounted(layers: Layers) -> Sequence[Layer | UnknownNode]:
    """Layers with weights whose operations are unknown, and unknown ops that read what may be weights."""
    opaque = (node for node in layers.unknown if node.matrix_elements)
    return [*(layer for layer in layers if layer.weights and not layer.counted), *opaque]


def require_counted(command: str, layers: Layers, model: str, *, partial: bool, otherwise: str) -> None:
    """Raises ParamError where layers with weights have unknown operations, unless the caller asked for those that are known.

    `otherwise`: what else to do, in words.
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
    """Of how many weights the operations are known, and of how many layers they are not; empty where all are known."""
    missing = uncounted(layers)
    if not missing:
        return []
    share = known_weights(layers) / (layers.totals.weights + sum(node.matrix_elements for node in layers.unknown))
    count = "1 layer" if len(missing) == 1 else f"{len(missing)} layers"
    return [f"the operations of {100 * share:.0f} % of the weights; those of {count} are unknown"]


def known_weights(layers: Layers) -> int:
    """Elements of the weight tensors whose every use is known."""
    elements = {use.tensor: use.elements for layer in layers for use in layer.weights}
    unknown = {use.tensor for layer in layers if not layer.counted for use in layer.weights}
    return sum(count for tensor, count in elements.items() if tensor not in unknown)
