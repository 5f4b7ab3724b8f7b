"""The one view of a graph that passes which change it have: no calls of model-local functions, no branch that never runs.

1. Calls are written out. A constant that a function holds becomes an initializer, one for all of its calls.
2. An If whose condition follows from constants, and from sizes that the file itself fixes, gives way to the branch that runs.
   Sizes that were only assumed, or given for a report, settle nothing: the file has to run at others as well.
3. Outputs that nothing reads (the mask of a Dropout, the indices of a MaxPool) are left out.
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
    """Change `model` in place; returns what was done, nothing for a model without functions and settled Ifs.

    `functions=False` leaves the calls.
    """
    notes = []
    calls = sum(1 for _ in find_calls(model.proto)) if functions else 0
    if calls:
        write_out_functions(model)
        notes.append(f"{calls} calls of model-local functions were written out, so that their nodes are seen like any others")
    settled = settle(model)
    if settled:
        notes.append(f"{settled} × If replaced by the branch that runs: constants and fixed sizes settle its condition")
    dropped = drop_spare_outputs(model)
    if dropped:
        notes.append(f"{dropped} outputs that nothing reads were left out of their nodes")
    return notes


def drop_spare_outputs(model: Model) -> int:
    """Leave out outputs that nothing reads and that their nodes can do without; returns how many."""
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
    """Calls become nodes; functions that nothing calls any more go."""
    proto = inlined(model.proto)
    proto.functions.extend(f for f in model.proto.functions if not is_called(model.proto, f))
    renamed = share_constants(proto, model)
    for graph in every_graph(proto):
        attributes = [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
        for tensor in (*graph.initializer, *attributes):
            if origin(tensor) is not None:
                replace_all(tensor.metadata_props, [entry for entry in tensor.metadata_props if entry.key != ORIGIN])
    model.proto.CopyFrom(proto)
    model.weights.refresh()
    metadata.remember_names(model.proto, renamed)


def is_called(proto: onnx.ModelProto, function: onnx.FunctionProto) -> bool:
    """Whether a node of the model, or of another function, calls a function."""
    key = (function.domain, function.name, function.overload)
    return any((node.domain, node.op_type, node.overload) == key for node in every_node(proto))


def share_constants(proto: onnx.ModelProto, model: Model) -> dict[str, str]:
    """Make one initializer of the copies that calls have of a function's constant.

    Returns new names → those in `model.weights`, where they differ.
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
    """The value of a Constant, None for another node."""
    return next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None) if not node.input else None
