"""Size conflicts: the first node that no runtime can compute at the sizes of its inputs.

1. Go through the nodes that the outputs depend on, in graph order (`needed`). A node that no output needs may never run.
2. Enter bodies only where every run does: the branch that is taken, or all branches; a loop with at least one round, whose
   carried values then have the shapes of their initial values (`first_round`).
3. Skip a node with an input without elements: runtimes are lenient with those.
4. Ask the op's own rule (`conflict` in the op table), then whether an output would have a negative size.
5. If onnx's inference reported an error for the whole model, ask it about the node. Its refusal counts only if it would accept
   the node at unknown sizes (`refusal`).

A rule may miss sizes that cannot run, but must accept all that do: rules are tested against onnxruntime.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

import onnx

from onnxsparse.analysis.shape_propagation import DOES_NOT_FIT, Propagation, is_static
from onnxsparse.ir.binding import format_shape
from onnxsparse.ir.graph import Graph, captured
from onnxsparse.ops import Body, OpSpec, UnknownFact

MAX_SHOWN = 8
"""Longest vector of integers that a message shows in full."""


@dataclass(frozen=True)
class Conflict:
    """A node that cannot run. `reason`: the sizes that do not match, as the end of a sentence."""

    node: str
    op_type: str
    reason: str

    def __str__(self) -> str:
        return f"{self.op_type} '{self.node}' {self.reason}"


def find_conflict(known: Propagation, graph: Graph, *, suspected: bool) -> Conflict | None:
    """The first node of `graph` that cannot run; None if there is none. `known`: the facts that follow from the input sizes.

    `suspected`: whether onnx's inference reported an error for the whole model; if not, it is not asked node by node.
    """
    known.read_initializers(graph)
    for index in needed(graph):
        node = graph.proto.node[index]
        spec = known.spec(node)
        if spec is not None and spec.body is not None:
            found = conflict_in_bodies(known, graph, index, spec, suspected)
            if found is not None:
                return found
            continue
        reason = why_not(known, graph.scope, node, spec, suspected)
        if reason is not None:
            return Conflict(graph.names[index], node.op_type, reason)
    return None


def needed(graph: Graph) -> Iterator[int]:
    """Indices of the nodes that the graph's outputs depend on, in graph order."""
    wanted = {value.name for value in graph.proto.output}
    found = []
    for index in reversed(range(len(graph.proto.node))):
        node = graph.proto.node[index]
        if wanted.intersection(node.output):
            wanted.update(node.input, captured(node))
            found.append(index)
    return reversed(found)


def conflict_in_bodies(known: Propagation, graph: Graph, index: int, spec: OpSpec, suspected: bool) -> Conflict | None:
    """The first conflict in bodies that every run enters. None if there is none, if a branch without one may be taken, or if a
    loop may have no round.
    """
    assert spec.body is not None
    node = graph.proto.node[index]
    if not spec.body.branches:
        if not spec.body.rounds(known.view(graph.scope, node), lambda at: known.integer(graph.scope, node, at)):
            return None
        known = first_round(known, graph, index, spec.body)
    alive = [body for body in graph.bodies(index).values() if body.scope not in known.dead]
    found = [find_conflict(known, body, suspected=suspected) for body in alive]
    return found[0] if found and all(found) else None


def first_round(known: Propagation, graph: Graph, index: int, body: Body) -> Propagation:
    """What is known in the first round of a loop: carried values have the shapes of their initial values."""
    first = copy(known)
    first.shapes, first.types, first.parts = known.shapes.copy(), known.types.copy(), known.parts.copy()
    first.values, first.dead = known.values.copy(), known.dead.copy()
    node = graph.proto.node[index]
    carried = range(0) if body.carried is None else body.carried(known.view(graph.scope, node))
    for inner in graph.bodies(index).values():
        first.enter(graph, node, carried, inner)
    return first


def why_not(known: Propagation, scope: str, node: onnx.NodeProto, spec: OpSpec | None, suspected: bool) -> str | None:
    """Why a node cannot run at its sizes; None if it can, or if that is unknown."""
    op = known.view(scope, node)
    shapes = [shape for shape, name in zip(op.inputs, node.input, strict=True) if name]
    if any(shape is not None and 0 in shape for shape in shapes):
        return None
    if spec is not None and spec.shape.conflict is not None:
        try:
            reason = spec.shape.conflict(op)
        except UnknownFact:
            reason = None
        if reason is not None:
            return reason
    if spec is not None and spec.shape.sequence is not None:
        reason = known.sequences(scope, node, spec.shape.sequence).wrong
        if reason is not None:
            return reason
    made = next(
        (shape for shape in op.outputs if shape is not None and any(size is not None and size < 0 for size in shape)), None
    )
    if made is not None:
        return f"would make {format_shape(made)} of {' and '.join(map(format_shape, shapes))}"
    if not suspected or not all(map(is_static, shapes)):
        return None
    return refusal(known, scope, node, spec)


def refusal(known: Propagation, scope: str, node: onnx.NodeProto, spec: OpSpec | None) -> str | None:
    """Why onnx's inference refuses the sizes of a node's inputs; None if it accepts them, or refuses the node at any sizes."""
    try:
        known.inferred(scope, node, spec)
        return None
    except DOES_NOT_FIT as error:
        why = str(error).strip().splitlines()[-1].rpartition("] ")[-1]
    try:
        known.inferred(scope, node, spec, sizes=False)
    except DOES_NOT_FIT:
        return None
    shown = " and ".join(show(known, scope, name) for name in node.input if name)
    return f"cannot take {shown}: {why}"


def show(known: Propagation, scope: str, name: str) -> str:
    """An input in a message: a short vector of integers as it is (positions, a target shape), the shape of any other value."""
    value = known.value(scope, name)
    if value is not None and value.ndim == 1 and value.dtype.kind == "i" and value.size <= MAX_SHOWN:
        return str(value.tolist())
    return format_shape(known.shape(scope, name))
