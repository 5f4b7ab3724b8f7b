"""The same computation in fewer nodes: over an onnx-graphsurgeon graph, one body at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnxsparse import metadata
from onnxsparse.errors import BackendError
from onnxsparse.graph import Graph
from onnxsparse.model import Model
from onnxsparse.ops import OpSpec, OpView, find
from onnxsparse.ops.folding import Values
from onnxsparse.runtime import runner
from onnxsparse.weights import Array

SLACK_BYTES = 4096
"""A folded constant may be this much larger than what it was computed from; generated weights stay generated."""


@dataclass
class Folding:
    """What was done, and which tensor each new one was made from."""

    model: Model
    notes: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def count(self, what: str) -> None:
        self.notes[what] = self.notes.get(what, 0) + 1

    def spec(self, node: Any) -> OpSpec | None:
        domain = node.domain or ""
        return find(domain, node.op, self.model.opset(domain))

    def view(self, node: Any) -> OpView:
        """The node's attributes and names; without bodies, which no rule here looks at."""
        plain = {name: value for name, value in node.attrs.items() if not isinstance(value, gs.Graph)}
        proto = helper.make_node(
            node.op, [t.name for t in node.inputs], [t.name for t in node.outputs], name=node.name, domain=node.domain or ""
        )
        proto.attribute.extend(OnnxExporter.export_attributes(plain))
        return OpView(proto, (), ())


def bodies(graph: Any) -> Iterator[Any]:
    """A graph and, before it, the bodies inside it."""
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield from bodies(value)
    yield graph


def remove_passing(folding: Folding, graph: Any) -> None:
    """Identity, and Dropout at inference."""
    for node in list(graph.nodes):
        spec = folding.spec(node)
        if spec is None or spec.passes is None or not spec.passes(folding.view(node)):
            continue
        source, result = node.inputs[0], node.outputs[0]
        if is_output(graph, result):
            if not take_over(graph, node, source, result):
                continue
        else:
            rewire(result, source, list(result.outputs))
        node.inputs.clear()
        node.outputs.clear()
        graph.nodes.remove(node)
        folding.count(f"{node.op} removed")


def is_output(graph: Any, tensor: Any) -> bool:
    return any(o is tensor for o in graph.outputs)


def take_over(graph: Any, node: Any, source: Any, result: Any) -> bool:
    """Let the node that makes `source` make the graph output `result` instead; False where it is made elsewhere."""
    maker = next((n for n in graph.nodes if any(o is source for o in n.outputs)), None)
    if maker is None or is_output(graph, source):
        return False
    node.outputs.clear()
    rewire(source, result, [user for user in source.outputs if user is not node])
    maker.outputs = [result if o is source else o for o in maker.outputs]
    return True


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


@dataclass(frozen=True)
class Computed:
    """A value that follows from constants: itself, and the constants it came from with their sizes in bytes."""

    values: Array
    sources: dict[str, int]


def computes_on_constants(model: Model) -> bool:
    """Whether a float tensor is computed from constants in the graph, by more than another view of one."""
    graph = Graph(model.proto.graph)
    constant = {name for name in graph.initializers if is_float(graph.initializers[name])}
    for node in graph.proto.node:
        spec = find(node.domain, node.op_type, model.opset(node.domain))
        if node.op_type == "Constant":
            constant.update(o for o in node.output for a in node.attribute if is_float(a.t))
        elif spec is not None and node.input and all(i in constant or i in graph.initializers for i in node.input if i):
            if any(i in constant for i in node.input) and spec.view is None and spec.folds and not spec.random:
                return True
            constant.update(node.output)
    return False


def is_float(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def fold(model: Model, constants: bool = True, batch_norm: bool = True) -> dict[str, int]:
    """Remove Identity and Dropout, and fold constants and batch normalisation; returns how often each was done."""
    folding = Folding(model)
    with model.edit() as edited:
        for graph in bodies(edited):
            remove_passing(folding, graph)
            if constants:
                fold_constants(folding, graph)
            if batch_norm:
                fold_affine(folding, graph)
    remember(folding)
    return folding.notes


def fold_all_constants(model: Model) -> int:
    """Replace what is computed from constants alone, everywhere; returns how many values that were."""
    folding = Folding(model)
    with model.edit() as edited:
        for graph in bodies(edited):
            fold_constants(folding, graph)
    remember(folding)
    return sum(folding.notes.values())


def remember(folding: Folding) -> None:
    """Say in the model's metadata which tensor each new one was made from."""
    weights = folding.model.weights
    made = {new: old for new, old in folding.names.items() if new in weights and new != old}
    metadata.remember_names(folding.model.proto, made)


def fold_constants(folding: Folding, graph: Any) -> None:
    """Nodes that compute on constants alone, where the result is no larger than what it is computed from."""
    known: dict[int, Computed] = {}
    made: list[Any] = []
    for node in graph.nodes:
        results = compute(folding, node, known)
        known |= results
        made += [node] if results else []
    for tensor in [o for node in made for o in node.outputs if not is_constant_node(node)]:
        found = known[id(tensor)]
        users = [u for u in tensor.outputs if not any(u is m for m in made)]
        if users and not is_output(graph, tensor) and found.values.nbytes <= sum(found.sources.values()) + SLACK_BYTES:
            rewire(tensor, constant_for(folding, tensor, found), users)
    for node in reversed(made):
        if not any(o.outputs or is_output(graph, o) for o in node.outputs):
            node.inputs.clear()
            graph.nodes.remove(node)


def is_constant_node(node: Any) -> bool:
    return isinstance(node.attrs.get("value"), gs.Constant) and not node.inputs


def compute(folding: Folding, node: Any, known: dict[int, Computed]) -> dict[int, Computed]:
    """The outputs of a node whose inputs are all known, by identity of the tensor; empty for another node."""
    spec = folding.spec(node)
    if is_constant_node(node):
        values = node.attrs["value"].values
        return {id(node.outputs[0]): Computed(values, {node.outputs[0].name: values.nbytes})}
    inputs = [(t, stored(t, known)) for t in node.inputs if t.name]
    if spec is None or not spec.folds or spec.random or spec.body is not None or not inputs:
        return {}
    if any(found is None or found.values.dtype == object for _, found in inputs) or not all(o.name for o in node.outputs):
        return {}
    given = [(t, found) for t, found in inputs if found is not None]
    values = run_node(folding, node, {t.name: found.values for t, found in given})
    sources = {name: size for _, found in given for name, size in found.sources.items()}
    return {id(t): Computed(v, sources) for t, v in zip(node.outputs, values, strict=False)}


def stored(tensor: Any, known: dict[int, Computed]) -> Computed | None:
    if isinstance(tensor, gs.Constant):
        return Computed(tensor.values, {tensor.name: tensor.values.nbytes})
    return known.get(id(tensor))


def run_node(folding: Folding, node: Any, feeds: dict[str, Array]) -> list[Array]:
    """One node in onnxruntime, so that the result is what the runtime would compute; empty where it cannot."""
    proto = folding.view(node).node
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()]
    outputs = [onnx.ValueInfoProto(name=o.name) for o in node.outputs]
    graph = helper.make_graph([proto], "one", inputs, outputs)
    imports = folding.model.proto.opset_import
    try:
        single = Model.from_proto(
            helper.make_model(graph, opset_imports=imports, ir_version=max(folding.model.proto.ir_version, 4))
        )
        return list(runner(single).run(feeds).values())
    except BackendError:
        return []


def constant_for(folding: Folding, tensor: Any, found: Computed) -> Any:
    """The initializer that stands for a computed value."""
    folding.count("constant folded")
    weights = folding.model.weights
    learnt = [name for name in found.sources if name in weights and weights[name].dtype.kind == "f" and weights[name].ndim > 1]
    if len(learnt) == 1:
        folding.names[tensor.name] = learnt[0]
    return gs.Constant(tensor.name, found.values)


def rewire(tensor: Any, other: Any, users: list[Any]) -> None:
    for user in users:
        user.inputs = [other if i is tensor else i for i in user.inputs]
