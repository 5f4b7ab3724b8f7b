"""What a fold costs in the file: the tensors it adds, less the nodes and constants that nothing uses any more.

What the metadata say of names is not counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnxsparse.folding.rewriting import FIELD_BYTES, Folding, bodies, is_constant_node, is_output
from onnxsparse.weights import Array


@dataclass(frozen=True)
class Replacement:
    """A value that a new constant may take the place of, for these nodes. `maker`: what computes it now."""

    tensor: Any
    maker: Any
    users: tuple[Any, ...]
    values: Array


def affordable(folding: Folding, graph: Any, wanted: Sequence[Replacement], computed: Sequence[Any]) -> list[Replacement]:
    """Those with which the file does not get larger.

    1. Replacements whose makers are computed from common constants or nodes are looked at together: one alone may not free
       what they share.
    2. While they add more than they free, the largest is left out.

    `computed`: the nodes that follow from constants, in order.
    """
    found: list[Replacement] = []
    for together in connected(wanted, computed):
        chosen = sorted(together, key=lambda r: r.values.nbytes)
        while chosen and growth(folding, graph, chosen, computed) > 0:
            chosen.pop()
        found += chosen
    kept = {id(r) for r in found}
    return [r for r in wanted if id(r) in kept]


def connected(wanted: Sequence[Replacement], computed: Sequence[Any]) -> list[list[Replacement]]:
    """Replacements in groups, by what they are computed from."""
    reach: dict[int, set[int]] = {}  # node → it, and the constants and nodes that it is computed from
    makers = {id(o): node for node in computed for o in node.outputs}
    for node in computed:
        reach[id(node)] = {id(node)}
        for tensor in node.inputs:
            maker = makers.get(id(tensor))
            reach[id(node)] |= {id(tensor)} if maker is None else reach[id(maker)]
    groups: list[tuple[set[int], list[Replacement]]] = []
    for replacement in wanted:
        own = set(reach[id(replacement.maker)])
        apart = [group for group in groups if not group[0] & own]
        joined = [group for group in groups if group[0] & own]
        members = [r for _, group in joined for r in group]
        groups = [*apart, (own.union(*(sources for sources, _ in joined)), [*members, replacement])]
    return [members for _, members in groups]


def growth(folding: Folding, graph: Any, chosen: Sequence[Replacement], computed: Sequence[Any]) -> int:
    """Bytes that the file gains by these replacements, negative where it loses some."""
    dead = unused(graph, chosen, computed)
    gone = {id(node) for node in dead}
    constants = {id(t): t for node in dead for t in node.inputs if isinstance(t, gs.Constant)}
    freed = [t for t in constants.values() if all(id(u) in gone for u in t.outputs) and not is_any_output(graph, t)]
    added = sum(constant_bytes(r.tensor.name, r.values) for r in chosen)
    return added - sum(node_bytes(folding, node) for node in dead) - sum(stored_bytes(folding, t) for t in freed)


def unused(graph: Any, chosen: Sequence[Replacement], computed: Sequence[Any]) -> list[Any]:
    """The nodes of `computed` that nothing needs once the replacements are made."""
    served: Mapping[int, set[int]] = {id(r.tensor): {id(user) for user in r.users} for r in chosen}
    dead: dict[int, Any] = {}
    for node in reversed(computed):
        alive = any(
            is_any_output(graph, o) or any(id(u) not in dead and id(u) not in served.get(id(o), set()) for u in o.outputs)
            for o in node.outputs
        )
        if not alive:
            dead[id(node)] = node
    return list(dead.values())


def is_any_output(graph: Any, tensor: Any) -> bool:
    """Whether a value is an output of a graph or of a body in it."""
    return any(is_output(body, tensor) for body in bodies(graph))


def constant_bytes(name: str, values: Array) -> int:
    """Of an initializer of these values."""
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    return onnx.TensorProto(name=name, dims=values.shape, data_type=kind).ByteSize() + values.nbytes + 2 * FIELD_BYTES


def stored_bytes(folding: Folding, constant: Any) -> int:
    """Of an initializer that is there."""
    if id(constant) in folding.stored:
        return folding.stored[id(constant)][1]
    return constant_bytes(constant.name, np.asarray(constant.values))


def node_bytes(folding: Folding, node: Any) -> int:
    """Of a node, with the value of a Constant."""
    if not is_constant_node(node):
        return folding.view(node).node.ByteSize() + FIELD_BYTES
    header = helper.make_node(node.op, [], [t.name for t in node.outputs], name=node.name)
    return header.ByteSize() + stored_bytes(folding, node.attrs["value"])


def is_shared(constant: Any, users: Iterable[Any]) -> bool:
    """Whether other nodes use a constant as well."""
    own = {id(user) for user in users}
    return any(id(user) not in own for user in constant.outputs)
