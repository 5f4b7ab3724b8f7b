"""Parts of a model that end at chosen values, and the sizes of these values."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnx import helper

from onnxsparse.ir.graph import Graph, captured
from onnxsparse.ir.model import Model
from onnxsparse.ir.protos import replace_all
from onnxsparse.runtime.session import Execution, Feeds, runner


def output_name(at: int, what: str) -> str:
    """The name of a statistic (`what`) of the value at position `at` in a list of values. It cannot occur in a model."""
    return f"onnxsparse/{at}/{what}"


def prefix(model: Model, tensors: Sequence[str]) -> Model:
    """A copy whose only outputs are `tensors`, without the nodes that they do not depend on."""
    twin = model.copy()
    graph = Graph(twin.proto.graph)
    needed: set[int] = set()
    pending = list(tensors)
    while pending:
        made_by = graph.producers.get(pending.pop())
        if made_by is not None and made_by not in needed:
            needed.add(made_by)
            node = graph.proto.node[made_by]
            pending += [*node.input, *captured(node)]
    kept = [node for index, node in enumerate(twin.proto.graph.node) if index in needed]
    replace_all(twin.proto.graph.node, kept)
    replace_all(twin.proto.graph.output, [onnx.ValueInfoProto(name=name) for name in tensors])
    twin.weights.refresh()
    return twin


def element_counts(model: Model, tensors: Sequence[str], feeds: Feeds, custom_ops: Sequence[Path] = ()) -> dict[str, int]:
    """Tensor → number of its elements for one sample, counted inside onnxruntime.

    Raises BackendError if it cannot run the model.
    """
    if not tensors:
        return {}
    twin = prefix(model, tensors)
    graph = twin.proto.graph
    names = [output_name(at, "elements") for at in range(len(tensors))]
    graph.node.extend(helper.make_node("Size", [tensor], [name]) for tensor, name in zip(tensors, names, strict=True))
    replace_all(graph.output, [onnx.ValueInfoProto(name=name) for name in names])
    running = runner(twin, custom_ops=custom_ops, execution=Execution.NODE_BY_NODE)
    return {tensor: int(size.item()) for tensor, size in zip(tensors, running.run(feeds).values(), strict=True)}


def groups_within(sizes: dict[str, int], budget_bytes: int) -> Iterator[list[str]]:
    """Names in order, in groups whose sizes add up to at most `budget_bytes`. A name that is larger alone gets its own group."""
    group: list[str] = []
    held = 0
    for name, size in sizes.items():
        if group and held + size > budget_bytes:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group
