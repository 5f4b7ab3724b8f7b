"""Batch normalisation into the linear op before it."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxsparse.folding.rewriting import Folding, is_output
from onnxsparse.ops.folding import Values
from onnxsparse.weights import Array


def fold_affine(folding: Folding, graph: Any) -> None:
    """Batch normalisation into the linear op before it."""
    for node in list(graph.nodes):
        spec = folding.spec(node)
        if spec is None or spec.affine is None or not spec.affine.when(folding.view(node)):
            continue
        parameters = [node.inputs[at] for at in spec.affine.at]
        maker = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
        if maker is None or not all(isinstance(p, gs.Constant) for p in parameters) or not absorbs(folding, graph, maker):
            continue
        scale, shift = spec.affine.values(folding.view(node), [np.asarray(p.values, np.float64) for p in parameters])
        absorb(folding, maker, scale, shift, parameters)
        maker.outputs = [node.outputs[0]]
        node.inputs.clear()
        graph.nodes.remove(node)
        folding.count(f"{node.op} folded into {maker.op}")


def absorbs(folding: Folding, graph: Any, maker: Any) -> bool:
    """Whether a linear op's weights are stored and its output goes nowhere else."""
    spec = folding.spec(maker)
    if spec is None or spec.absorb is None or not any(n is maker for n in graph.nodes):
        return False
    weight = maker.inputs[spec.absorb.weight_at]
    bias = optional_input(maker, spec.absorb.bias_at)
    stored = isinstance(weight, gs.Constant) and (bias is None or isinstance(bias, gs.Constant))
    output = maker.outputs[0]
    alone = len(output.outputs) == 1 and not is_output(graph, output)
    return stored and alone and weight.values.dtype.kind == "f" and spec.absorb.when(folding.view(maker))


def optional_input(node: Any, at: int) -> Any:
    return node.inputs[at] if at < len(node.inputs) and node.inputs[at].name else None


def absorb(folding: Folding, node: Any, scale: Values, shift: Values, parameters: list[Any]) -> None:
    spec = folding.spec(node)
    assert spec is not None
    assert spec.absorb is not None
    at, bias_at = spec.absorb.weight_at, spec.absorb.bias_at
    weight, bias = node.inputs[at], optional_input(node, bias_at)
    scaled = spec.absorb.scale(folding.view(node), weight.values.astype(np.float64), scale)
    node.inputs[at] = replaced(folding, weight, scaled.astype(weight.values.dtype), node)
    old: Values = np.zeros_like(shift) if bias is None else np.broadcast_to(bias.values, shift.shape).astype(np.float64)
    shifted = (old * scale + shift).astype(weight.values.dtype)
    if bias is None:
        # the shift's own parameter gives its name, so that the bias is where the training framework has it
        fresh = gs.Constant(unused_name(folding, f"{parameters[1].name}/folded"), shifted)
        folding.names[fresh.name] = parameters[1].name
    else:
        fresh = replaced(folding, bias, shifted, node)
    if len(node.inputs) > bias_at:
        node.inputs[bias_at] = fresh
    else:
        node.inputs.append(fresh)


def replaced(folding: Folding, constant: Any, values: Array, node: Any) -> Any:
    """The constant with new values: itself if `node` alone uses it, else a copy with a name of its own."""
    if len(constant.outputs) == 1 and constant.values.shape == values.shape:
        constant.values = values
        return constant
    fresh = gs.Constant(unused_name(folding, f"{constant.name}/{node.name or node.outputs[0].name}"), values)
    folding.names[fresh.name] = constant.name
    return fresh


def unused_name(folding: Folding, name: str) -> str:
    taken = {o for n in folding.model.proto.graph.node for o in n.output} | set(folding.model.weights) | set(folding.names)
    return next(n for i in range(1000) if (n := f"{name}.{i}" if i else name) not in taken)
