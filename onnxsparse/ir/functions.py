"""Inlining of model-local functions, so that the nodes in them are seen like any others.

1. Mark each tensor of a function with its scope and name, so that a copy can be traced back to it (`mark_origins`).
2. Let functions import the model's versions of operator sets where all their ops mean the same in both (`align_imports`);
   onnx's inliner refuses calls across versions.
3. Inline one level of calls (`inline_calls`): each call gets its own copy of the function, whose nodes carry the call's name.
4. Repeat 3 until no call remains, at most MAX_DEPTH times; then remove the functions.
"""

import re
import secrets
from collections.abc import Iterator
from itertools import islice

import onnx
from onnx import TensorProto, inliner

from onnxsparse.errors import ModelError
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.weights import bodies, graph_tensors, node_tensors, tensors

MAX_DEPTH = 32
"""Deepest chain of calls that is inlined. ONNX forbids recursion, which would never end."""

MAX_CALLS = 100_000
"""Most calls that are inlined at one level. Functions that call each other several times grow exponentially."""

ORIGIN = f"origin-{secrets.token_hex(8)}"
"""Metadata key of a tensor in an inlined proto, for its scope and name in the original. Random for each process."""


def inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` without model-local functions and calls of them, in bodies too. `proto` itself if it has no calls.

    A node of a function is named `<call>/<its name>`. The origin of a tensor is given by `origin`.

    Raises ModelError for calls that are nested too deep, too many, or that onnx's inliner refuses.
    """
    if not has_calls(proto):
        return proto
    work = onnx.ModelProto()
    work.CopyFrom(proto)
    mark_origins(work)
    align_imports(work)
    for _ in range(MAX_DEPTH):
        work = inline_calls(work)
        if not has_calls(work):
            del work.functions[:]
            return work
    raise ModelError(f"model-local functions call each other more than {MAX_DEPTH} deep")


def has_calls(proto: onnx.ModelProto) -> bool:
    """Whether a model-local function is called anywhere in the main graph or its bodies."""
    return next(find_calls(proto), None) is not None


def find_calls(proto: onnx.ModelProto) -> Iterator[tuple[Graph, int]]:
    """(graph, index of the node) of every call of a model-local function in the main graph and its bodies."""
    functions = {(f.domain, f.name, f.overload) for f in proto.functions}
    graphs = [Graph(proto.graph)] if functions else []
    for graph in graphs:
        for index, node in enumerate(graph.proto.node):
            if (node.domain, node.op_type, node.overload) in functions:
                yield graph, index
            graphs += graph.bodies(index).values()


def mark_origins(proto: onnx.ModelProto) -> None:
    """Record in the metadata of every tensor of a function, and of every tensor attribute of a call, its scope and name."""
    calls = {(f.domain, f.name, f.overload) for f in proto.functions}
    outside = sum(1 for _ in graph_tensors([("", proto.graph)], calls))
    for scope, name, tensor in islice(tensors(proto), outside, None):
        if name:
            tensor.metadata_props.add(key=ORIGIN, value=f"{scope}\n{name}")
    for graph, index in find_calls(proto):
        for scope, name, tensor in node_tensors(graph.scope, graph.proto.node[index], calls):
            if name:
                tensor.metadata_props.add(key=ORIGIN, value=f"{scope}\n{name}")


def origin(tensor: TensorProto) -> tuple[str, str] | None:
    """Scope and name in the original proto of a tensor in an inlined one.

    None if the tensor was in the main graph or its bodies.
    """
    found = next((entry.value for entry in tensor.metadata_props if entry.key == ORIGIN), None)
    if found is None:
        return None
    scope, _, name = found.partition("\n")
    return scope, name


def align_imports(proto: onnx.ModelProto) -> None:
    """Let each function import the model's version of an operator set, if its ops of that set mean the same in both."""
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    for function in proto.functions:
        nodes = list(every_node(onnx.ModelProto(functions=[function])))
        for entry in function.opset_import:
            wanted = versions.get(entry.domain, entry.version)
            own = [node.op_type for node in nodes if node.domain == entry.domain]
            if all(since(entry.domain, op, entry.version) == since(entry.domain, op, wanted) for op in own):
                entry.version = wanted


def since(domain: str, op_type: str, version: int) -> int | None:
    """The version that introduced the definition of an op that holds in `version`; None for an op that onnx does not define."""
    try:
        return int(onnx.defs.get_schema(op_type, version, domain).since_version)
    except onnx.defs.SchemaError:
        return None


def inline_calls(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `proto` with one level of calls inlined. Nodes of a call are named `<call>/<name in the function>`.

    Raises ModelError for more than MAX_CALLS calls, and for a call that onnx's inliner refuses.
    """
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    work = onnx.ModelProto()
    work.CopyFrom(proto)
    name_nodes(work)
    prefixes, made = [], []
    calls = list(islice(find_calls(work), MAX_CALLS + 1))
    if len(calls) > MAX_CALLS:
        raise ModelError(f"model-local functions call each other, in all more than {MAX_CALLS} times")
    for number, (graph, index) in enumerate(calls):
        node = graph.proto.node[index]
        prefixes.append(f"{node.name}/")
        clone = work.functions.add()
        clone.CopyFrom(functions[node.domain, node.op_type, node.overload])
        clone.name = node.op_type = f"{node.op_type}#{number}"
        made.append((node.domain, node.op_type))
        for body_node, own in zip(clone.node, Graph(onnx.GraphProto(node=clone.node)).names, strict=True):
            body_node.name = f"{prefixes[-1]}{own}"
    try:
        result = inliner.inline_selected_functions(work, made)
    except (RuntimeError, onnx.checker.ValidationError) as error:
        raise ModelError(f"a call to a model-local function cannot be inlined: {error}") from None
    remove_suffixes(work, result)
    return result


def name_nodes(proto: onnx.ModelProto) -> None:
    """Set the name of every node to the one that messages use (`Graph.names`).

    It may depend on the position, which inlining changes.
    """
    graphs = [Graph(proto.graph)]
    for graph in graphs:
        own = [name.removeprefix(f"{graph.path}/") for name in graph.names]
        graphs += [body for index in range(len(own)) for body in graph.bodies(index).values()]
        for node, name in zip(graph.proto.node, own, strict=True):
            node.name = name


def remove_suffixes(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Remove the suffix `__<number>` that onnx's inliner adds to the names of nodes."""
    known = {node.name for node in every_node(before)}
    for node in every_node(after):
        name = re.sub(r"__\d+$", "", node.name)
        if node.name not in known and name in known:
            node.name = name


def every_node(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes of the main graph and of functions, and of the bodies in both."""
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    for node in nodes:
        yield node
        nodes += [inner for attribute in node.attribute for body in bodies(attribute) for inner in body.node]
