"""Model-local functions written out, so that their bodies are seen like any other node."""

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

MAX_CALLS = 100_000
"""Functions that call each other several times multiply; more calls than this are not written out."""

ORIGIN = f"origin-{secrets.token_hex(8)}"
"""Metadata key of a tensor in an inlined proto: its scope and name in the one it came from. Drawn per process."""


def inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` without model-local functions and calls to them, in its bodies neither; `proto` itself if it has no calls.

    A body node is named `<call>/<its own name>`, so that it can be told where it came from; so can its tensors, see `origin`.
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
    return next(find_calls(proto), None) is not None


def find_calls(proto: onnx.ModelProto) -> Iterator[tuple[Graph, int]]:
    """The calls of model-local functions in the main graph and the bodies in it: (graph, index of the node)."""
    functions = {(f.domain, f.name, f.overload) for f in proto.functions}
    graphs = [Graph(proto.graph)] if functions else []
    for graph in graphs:
        for index, node in enumerate(graph.proto.node):
            if (node.domain, node.op_type, node.overload) in functions:
                yield graph, index
            graphs += graph.bodies(index).values()


def mark_origins(proto: onnx.ModelProto) -> None:
    """Let every tensor of a function, and every one that a call gives it, say where it is from."""
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
    """The scope and name that a tensor of an inlined proto has in the one that it came from; None for a proto as it came."""
    found = next((entry.value for entry in tensor.metadata_props if entry.key == ORIGIN), None)
    if found is None:
        return None
    scope, _, name = found.partition("\n")
    return scope, name


def align_imports(proto: onnx.ModelProto) -> None:
    """Let functions import the model's versions of operator sets, where all that they use means the same in both."""
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    for function in proto.functions:
        nodes = list(every_node(onnx.ModelProto(functions=[function])))
        for entry in function.opset_import:
            wanted = versions.get(entry.domain, entry.version)
            own = [node.op_type for node in nodes if node.domain == entry.domain]
            if all(since(entry.domain, op, entry.version) == since(entry.domain, op, wanted) for op in own):
                entry.version = wanted


def since(domain: str, op_type: str, version: int) -> int | None:
    """From which version on an op is what it is in `version`; None for one that onnx does not define."""
    try:
        return int(onnx.defs.get_schema(op_type, version, domain).since_version)
    except onnx.defs.SchemaError:
        return None


def inline_calls(proto: onnx.ModelProto) -> onnx.ModelProto:
    """One level of calls written out: each call gets a function of its own, whose nodes bear the call's name."""
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
        raise ModelError(f"a call to a model-local function cannot be written out: {error}") from None
    remove_suffixes(work, result)
    return result


def name_nodes(proto: onnx.ModelProto) -> None:
    """Give every node what it is called as its name: nodes move, and what one without a name is called depends on its place."""
    graphs = [Graph(proto.graph)]
    for graph in graphs:
        own = [name.removeprefix(f"{graph.path}/") for name in graph.names]
        graphs += [body for index in range(len(own)) for body in graph.bodies(index).values()]
        for node, name in zip(graph.proto.node, own, strict=True):
            node.name = name


def remove_suffixes(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Give nodes their names back, to which the inliner adds a number."""
    known = {node.name for node in every_node(before)}
    for node in every_node(after):
        name = re.sub(r"__\d+$", "", node.name)
        if node.name not in known and name in known:
            node.name = name


def every_node(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Of the main graph, functions, and the bodies in both."""
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    for node in nodes:
        yield node
        nodes += [inner for attribute in node.attribute for body in bodies(attribute) for inner in body.node]
