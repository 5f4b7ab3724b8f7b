"""Flattening: one form of a graph for all passes that change it, without calls of functions and branches that never run.

1. Inline all calls of model-local functions. A constant of a function becomes one initializer for all of its calls.
2. Replace each If by the branch that runs, if its condition follows from constants and sizes that the file fixes. Sizes that
   are assumed, or given for a report, do not count: the file has to run at other sizes too.
3. Remove unused optional outputs, as the mask of a Dropout or the indices of a MaxPool.
"""

import onnx
from onnx import TensorProto

from onnxsparse.analysis.branches import settle
from onnxsparse.ir import metadata
from onnxsparse.ir.functions import ORIGIN, every_node, find_calls, inlined, origin
from onnxsparse.ir.model import Model
from onnxsparse.ir.new_tensors import Names
from onnxsparse.ir.protos import replace_all
from onnxsparse.ir.sparse import every_graph
from onnxsparse.ops import find
from onnxsparse.ops.spec import spare_outputs


def flatten(model: Model, *, functions: bool = True) -> list[str]:
    """Flatten `model` in place. Returns a note for each kind of change; empty if nothing had to change.

    `functions=False` keeps the calls. Raises ModelError for calls that cannot be inlined.
    """
    notes = []
    calls = sum(1 for _ in find_calls(model.proto)) if functions else 0
    if calls:
        write_out_functions(model)
        notes.append(f"{calls} calls of model-local functions were inlined, so that passes see the nodes in them")
    settled = settle(model)
    if settled:
        notes.append(f"{settled} × If replaced by the branch that runs: constants and fixed sizes settle its condition")
    dropped = drop_spare_outputs(model)
    if dropped:
        notes.append(f"{dropped} outputs that nothing reads were left out of their nodes")
    return notes


def drop_spare_outputs(model: Model) -> int:
    """Remove outputs that are unused and optional. Returns how many."""
    graphs = every_graph(model.proto)
    read = {name for graph in graphs for node in graph.node for name in node.input}
    read |= {value.name for graph in graphs for value in graph.output}
    count = 0
    for node in (node for graph in graphs for node in graph.node if len(node.output) > 1):
        version = model.opset(node.domain)
        spec = find(node.domain, node.op_type, version)
        if spec is None or spec.outputs_decide:
            continue
        for at in spare_outputs(node, version):
            if node.output[at] and node.output[at] not in read:
                node.output[at] = ""
                count += 1
        while len(node.output) > 1 and not node.output[-1]:
            del node.output[-1]
    return count


def write_out_functions(model: Model) -> None:
    """Inline all calls in place, and remove the functions that are no longer called."""
    proto = inlined(model.proto)
    called = {(node.domain, node.op_type, node.overload) for node in every_node(model.proto)}
    proto.functions.extend(f for f in model.proto.functions if (f.domain, f.name, f.overload) not in called)
    renamed = share_constants(proto, model)
    for graph in every_graph(proto):
        attributes = [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
        for tensor in (*graph.initializer, *attributes):
            if origin(tensor) is not None:
                replace_all(tensor.metadata_props, [entry for entry in tensor.metadata_props if entry.key != ORIGIN])
    model.proto.CopyFrom(proto)
    model.weights.refresh()
    metadata.remember_names(model.proto, renamed)


def share_constants(proto: onnx.ModelProto, model: Model) -> dict[str, str]:
    """Replace the copies of a function's constant, one for each call, by one initializer.

    Returns new name → name in `model.weights`, for initializers whose names differ.
    """
    names = Names(proto)
    shared: dict[tuple[str, str], str] = {}
    renamed: dict[str, str] = {}
    made: dict[str, str] = {}
    for graph in every_graph(proto):
        kept = []
        for node in graph.node:
            tensor = constant_of_function(node)
            source = None if tensor is None else origin(tensor)
            if tensor is None or source is None or any(value.name == node.output[0] for value in graph.output):
                kept.append(node)
                continue
            if source not in shared:
                key = model.weights.find(*source) or source[1]
                shared[source] = names.fresh(key)
                made |= {shared[source]: key} if shared[source] != key else {}
                proto.graph.initializer.add().CopyFrom(tensor)
                proto.graph.initializer[-1].name = shared[source]
            renamed[node.output[0]] = shared[source]
        if len(kept) < len(graph.node):
            replace_all(graph.node, kept)
    for node in (node for graph in every_graph(proto) for node in graph.node):
        if any(name in renamed for name in node.input):
            node.input[:] = [renamed.get(name, name) for name in node.input]
    return made


def constant_of_function(node: onnx.NodeProto) -> TensorProto | None:
    """The value of a Constant; None for any other node."""
    return next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None) if not node.input else None
