"""Pads of zeros folded into the ops that read them.

1. A Pad must add zeros, in constant numbers.
2. Every user must be able to take them into its own padding (`take_zeros`); otherwise the Pad stays.
3. The users read the Pad's input, and the Pad and Constants without users are removed.

Formulas: `ops/padding.py`.
"""

from typing import Any

import onnx_graphsurgeon as gs

from onnxsparse.folding.rewriting import Folding, bodies, is_constant_node, is_output, remove
from onnxsparse.ir.weights import Array
from onnxsparse.ops.padding import Attributes, Zeros


def fold_pads(folding: Folding, graph: Any) -> None:
    """Fold the Pads of one graph, from last to first, so that of two Pads in a row both fold."""
    for node in reversed(list(graph.nodes)):
        zeros = zeros_around(folding, node)
        taken = None if zeros is None else taken_in(folding, graph, node.outputs[0], zeros)
        if not taken:
            continue
        for reader, attributes in taken:
            reader.inputs[0] = node.inputs[0]
            reader.attrs.update(attributes)
        folding.count(f"{node.op} folded into {' and '.join(sorted({reader.op for reader, _ in taken}))}")
        remove_pad(graph, node)


def zeros_around(folding: Folding, node: Any) -> Zeros | None:
    """The zeros that a node adds. None if it adds none, or something else."""
    spec = folding.spec(node)
    if spec is None or spec.fold.zeros is None:
        return None
    return spec.fold.zeros(folding.view(node), lambda at: constant_value(node.inputs[at]))


def constant_value(tensor: Any) -> Array | None:
    """Value of an initializer or Constant node. None for any other tensor."""
    if not isinstance(tensor, gs.Constant):
        maker = tensor.inputs[0] if tensor.inputs else None
        if maker is None or not is_constant_node(maker):
            return None
        tensor = maker.attrs["value"]
    values: Array = tensor.values
    return values


def taken_in(folding: Folding, graph: Any, padded: Any, zeros: Zeros) -> list[tuple[Any, Attributes]] | None:
    """The users of a padded tensor, each with its new attributes. None if one of them cannot take the zeros in."""
    if any(is_output(body, padded) for body in bodies(graph)):
        return None
    found = []
    for reader in {id(reader): reader for reader in padded.outputs}.values():
        spec = folding.spec(reader)
        as_input = [at for at, tensor in enumerate(reader.inputs) if tensor is padded] == [0]
        if spec is None or spec.fold.take_zeros is None or not as_input or not any(n is reader for n in graph.nodes):
            return None
        attributes = spec.fold.take_zeros(folding.view(reader), zeros)
        if attributes is None:
            return None
        found.append((reader, attributes))
    return found


def remove_pad(graph: Any, node: Any) -> None:
    """Remove a node, and the Constant nodes that only it uses."""
    makers = [tensor.inputs[0] for tensor in node.inputs[1:] if tensor.inputs and is_constant_node(tensor.inputs[0])]
    remove(graph, [node])
    unused = [maker for maker in makers if not maker.outputs[0].outputs and not is_output(graph, maker.outputs[0])]
    remove(graph, [maker for maker in unused if any(n is maker for n in graph.nodes)])
