"""Batch normalisation, and arithmetic with constants, folded into the linear op upstream.

1. The node must be affine per channel with a single input that is not constant, and that input must come from a linear op with
   stored weights and no other user. What Constant nodes give to both becomes initializers: Paddle's exporter stores weights so.
2. Without `may_grow`, the bytes that the fold adds must not exceed those it frees.
3. The linear op's weight is scaled and its bias shifted; constants with other users are copied first.
4. The linear op produces the node's output, and the node is removed.

Formulas: `ops/folding.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxsparse.folding.growth import constant_bytes, is_shared, node_bytes, stored_bytes
from onnxsparse.folding.rewriting import Folding, is_constant_node, is_output, remove, rewire
from onnxsparse.ir.weights import Array
from onnxsparse.ops.facets import Affine, ScaleShift


def fold_affine(folding: Folding, graph: Any) -> None:
    """Fold the affine nodes of one graph."""
    makers = {id(n.outputs[0]): n for n in graph.nodes if is_constant_node(n) and not is_output(graph, n.outputs[0])}
    for node in list(graph.nodes):
        settle_constants(graph, linear_pair(folding, node, makers), makers)
        spec = folding.spec(node)
        if spec is None or spec.fold.affine is None or not spec.fold.affine.when(folding.view(node)):
            continue
        varying = [t for t in node.inputs if not isinstance(t, gs.Constant)]
        maker = varying[0].inputs[0] if len(varying) == 1 and varying[0].inputs else None
        channels = None if maker is None else absorbed_channels(folding, graph, maker)
        found = None if channels is None else scale_shift(folding, spec.fold.affine, node, maker, channels)
        if maker is None or found is None:
            continue
        constants = [t for t in node.inputs if isinstance(t, gs.Constant)]
        parameter = constants[0] if spec.fold.affine.shift_at is None else node.inputs[spec.fold.affine.shift_at]
        if not folding.may_grow and added_bytes(folding, maker, found, parameter.name) > freed_bytes(folding, node):
            folding.left += 1
            continue
        absorb(folding, maker, found, parameter)
        result = node.outputs[0]
        remove(graph, [node])
        maker.outputs = [result]
        folding.count(f"{node.op} folded into {maker.op}")


def settle_constants(graph: Any, nodes: Sequence[Any], makers: dict[int, Any]) -> None:
    """Make initializers of what Constant nodes give to some nodes. `makers`: those that are left, by the tensor's identity."""
    found = [(tensor, makers.pop(id(tensor))) for node in nodes for tensor in node.inputs if id(tensor) in makers]
    for tensor, maker in found:
        rewire(tensor, gs.Constant(tensor.name, maker.attrs["value"].values), list(tensor.outputs))
    if found:
        remove(graph, [maker for _, maker in found])


def linear_pair(folding: Folding, node: Any, makers: Mapping[int, Any]) -> tuple[Any, ...]:
    """An affine node, and the linear op that makes for it alone its only input that is not constant; nothing for other nodes.

    `makers`: identities of tensors that Constant nodes produce.
    """
    spec = folding.spec(node)
    varying = [t for t in node.inputs if not isinstance(t, gs.Constant) and id(t) not in makers]
    if spec is None or spec.fold.affine is None or len(varying) != 1:
        return ()
    if not varying[0].inputs or len(varying[0].outputs) != 1:
        return ()
    upstream = folding.spec(varying[0].inputs[0])
    return (node, varying[0].inputs[0]) if upstream is not None and upstream.fold.absorb is not None else ()


def added_bytes(folding: Folding, maker: Any, found: ScaleShift, parameter: str) -> int:
    """Bytes that the file gains if `maker` takes in a scale and shift: copies of shared constants, or a new bias."""
    spec = folding.spec(maker)
    assert spec is not None
    assert spec.fold.absorb is not None
    weight, bias = maker.inputs[spec.fold.absorb.weight_at], optional_input(maker, spec.fold.absorb.bias_at)
    shift = found.shift.astype(weight.dtype)
    added = copy_bytes(weight, maker) if is_shared(folding, weight, [maker]) else 0
    if bias is None:
        name = f"{parameter}/folded"
        return added + (constant_bytes(name, shift) if shift.any() else 0)
    if tuple(bias.shape) == shift.shape and not is_shared(folding, bias, [maker]):
        return added
    freed = 0 if is_shared(folding, bias, [maker]) else stored_bytes(folding, bias)
    return added + constant_bytes(copy_name(bias, maker), shift) - freed


def copy_bytes(constant: Any, node: Any) -> int:
    """Bytes of a dense copy of a constant."""
    return constant_bytes(copy_name(constant, node), np.empty(tuple(constant.shape), constant.dtype))


def copy_name(constant: Any, node: Any) -> str:
    """Name of the copy of a constant that `node` gets."""
    return f"{constant.name}/{node.name or node.outputs[0].name}"


def freed_bytes(folding: Folding, node: Any) -> int:
    """Bytes that the file loses with a node: its own, and those of constants without another user."""
    own = {id(t): t for t in node.inputs if isinstance(t, gs.Constant) and not is_shared(folding, t, [node])}
    return node_bytes(folding, node) + sum(stored_bytes(folding, t) for t in own.values())


def scale_shift(folding: Folding, affine: Affine, node: Any, maker: Any, channels: int) -> ScaleShift | None:
    """The node's scale and shift per channel. None if it computes something else with these constants."""
    spec = folding.spec(maker)
    assert spec is not None
    assert spec.fold.absorb is not None
    inputs = [np.asarray(t.values, np.float64) if isinstance(t, gs.Constant) else None for t in node.inputs]
    return affine.values(folding.view(node), inputs, len(maker.inputs[spec.fold.absorb.weight_at].shape), channels)


def absorbed_channels(folding: Folding, graph: Any, maker: Any) -> int | None:
    """Number of output channels of a linear op that can take in a scale and shift. None if it cannot.

    Its weight and bias must be stored, and its output must have one user.
    """
    spec = folding.spec(maker)
    if spec is None or spec.fold.absorb is None or not any(n is maker for n in graph.nodes):
        return None
    weight = maker.inputs[spec.fold.absorb.weight_at]
    bias = optional_input(maker, spec.fold.absorb.bias_at)
    stored = isinstance(weight, gs.Constant) and (bias is None or isinstance(bias, gs.Constant))
    output = maker.outputs[0]
    alone = len(output.outputs) == 1 and not is_output(graph, output)
    if not stored or not alone or np.dtype(weight.dtype).kind != "f" or not spec.fold.absorb.when(folding.view(maker)):
        return None
    channels = spec.fold.absorb.outputs(folding.view(maker), tuple(weight.shape))
    # a bias with more rows differs between rows, and a shift per channel cannot be added to it in place
    return channels if bias is None or tuple(bias.shape) in ((channels,), (1, channels), (1,), (1, 1), ()) else None


def optional_input(node: Any, at: int) -> Any:
    """Input `at`. None if it is missing."""
    return node.inputs[at] if at < len(node.inputs) and node.inputs[at].name else None


def absorb(folding: Folding, node: Any, found: ScaleShift, parameter: Any) -> None:
    """Scale a node's weight and shift its bias. `parameter`: the constant that the shift is derived from."""
    spec = folding.spec(node)
    assert spec is not None
    assert spec.fold.absorb is not None
    at, bias_at = spec.fold.absorb.weight_at, spec.fold.absorb.bias_at
    weight, bias = node.inputs[at], optional_input(node, bias_at)
    scaled = spec.fold.absorb.scale(folding.view(node), weight.values.astype(np.float64), found.scale)
    node.inputs[at] = replaced(folding, weight, scaled.astype(weight.values.dtype), node)
    if bias is None and not found.shift.any():
        return
    old = 0.0 if bias is None else bias.values.reshape(-1).astype(np.float64)
    shifted = (old * found.scale + found.shift).astype(weight.values.dtype)
    if bias is None:
        # named after the parameter, so that the new bias can be traced to the training framework's parameter
        fresh = gs.Constant(folding.unused.fresh(f"{parameter.name}/folded"), shifted)
        folding.names[fresh.name] = parameter.name
    else:
        fresh = replaced(folding, bias, shifted, node)
    if len(node.inputs) > bias_at:
        node.inputs[bias_at] = fresh
    else:
        node.inputs.append(fresh)


def replaced(folding: Folding, constant: Any, values: Array, node: Any) -> Any:
    """The constant with new values: itself if nothing but one input of `node` uses it, else a copy with a new name."""
    alone = len(constant.outputs) == 1 and not is_shared(folding, constant, [node])
    if alone and constant.values.shape == values.shape:
        constant.values = values
        return constant
    fresh = gs.Constant(folding.unused.fresh(copy_name(constant, node)), values)
    folding.names[fresh.name] = constant.name
    return fresh
