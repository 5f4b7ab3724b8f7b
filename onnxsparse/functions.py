"""Model-local functions written out, so that their bodies are seen like any other node."""

import re

import onnx
from onnx import inliner

from onnxsparse.errors import ModelError
from onnxsparse.graph import Graph

MAX_DEPTH = 32


def inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` without calls to model-local functions in its main graph; `proto` itself if it has none.

    A body node is named `<call>/<its own name>`, so that it can be told where it came from.
    """
    for _ in range(MAX_DEPTH):
        calls = find_calls(proto)
        if not calls:
            return proto
        proto = inline_calls(proto, calls)
    raise ModelError(f"model-local functions call each other more than {MAX_DEPTH} deep")


def find_calls(proto: onnx.ModelProto) -> list[int]:
    functions = {(f.domain, f.name, f.overload) for f in proto.functions}
    return [i for i, node in enumerate(proto.graph.node) if (node.domain, node.op_type, node.overload) in functions]


def inline_calls(proto: onnx.ModelProto, calls: list[int]) -> onnx.ModelProto:
    """One level of calls written out: each call gets a function of its own, whose nodes bear the call's name."""
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    work = onnx.ModelProto()
    work.CopyFrom(proto)
    # other nodes' places change, and with them what nodes without a name of their own are called
    for node, name in zip(work.graph.node, Graph(proto.graph).names, strict=True):
        node.name = name
    prefixes = []
    for index in calls:
        node = work.graph.node[index]
        prefixes.append(f"{node.name}/")
        clone = work.functions.add()
        clone.CopyFrom(functions[node.domain, node.op_type, node.overload])
        clone.name = node.op_type = f"{node.op_type}#{index}"
        for body_node, own in zip(clone.node, Graph(onnx.GraphProto(node=clone.node)).names, strict=True):
            body_node.name = f"{prefixes[-1]}{own}"
    made = [(work.graph.node[index].domain, work.graph.node[index].op_type) for index in calls]
    try:
        result = inliner.inline_selected_functions(work, made)
    except (RuntimeError, onnx.checker.ValidationError) as error:
        raise ModelError(f"a call to a model-local function cannot be written out: {error}") from None
    for node in result.graph.node:
        if node.name.startswith(tuple(prefixes)):
            node.name = re.sub(r"__\d+$", "", node.name)  # the inliner's own suffix
    return result
