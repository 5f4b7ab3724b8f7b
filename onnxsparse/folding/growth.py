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

from onnxsparse.folding.rewriting import FIELD_BYTES, Folding, bodies, is_constant_node
from onnxsparse.ir.weights import Array


@dataclass(frozen=True)
class Replacement:
    """A value that a new constant may take the place of, for these nodes. `maker`: what computes it now."""

    tensor: Any
    maker: Any
    users: tuple[Any, ...]
    values: Array


def affordable(folding: Folding, graph: Any, wanted: Sequence[Replacement], computed: Sequence[Any]) -> list[Replacement]:
    """Those with which the file does not get larger.

    1. Replacements that hang together by common constants or nodes are looked at together: one alone may not free what they
       share.
    2. While they add more than they free, the largest is left out.

    `computed`: the nodes that follow from constants, in order.
    """
    outputs = all_outputs(graph)
    found: set[int] = set()
    for together, nodes in connected(wanted, computed):
        chosen = sorted(together, key=lambda r: r.values.nbytes)
        while chosen and growth(folding, outputs, chosen, nodes) > 0:
            chosen.pop()
        found |= {id(r) for r in chosen}
    return [r for r in wanted if id(r) in found]


def connected(wanted: Sequence[Replacement], computed: Sequence[Any]) -> list[tuple[list[Replacement], list[Any]]]:
    """Replacements in groups that share nothing, each with the nodes of `computed` that belong to it."""
    parents: dict[int, int] = {}

    def root(item: int) -> int:
        while parents.setdefault(item, item) != item:
            parents[item] = item = parents[parents[item]]
        return item

    for node in computed:
        for tensor in (*node.inputs, *node.outputs):
            if tensor.name:
                parents[root(id(tensor))] = root(id(node))
    groups: dict[int, tuple[list[Replacement], list[Any]]] = {}
    for replacement in wanted:
        groups.setdefault(root(id(replacement.maker)), ([], []))[0].append(replacement)
    for node in computed:
        if root(id(node)) in groups:
            groups[root(id(node))][1].append(node)
    return list(groups.values())


def growth(folding: Folding, outputs: set[int], chosen: Sequence[Replacement], computed: Sequence[Any]) -> int:
    """Bytes that the file gains by these replacements, negative where it loses some."""
    dead = unused(outputs, chosen, computed)
    gone = {id(node) for node in dead}
    constants = {id(t): t for node in dead for t in node.inputs if isinstance(t, gs.Constant)}
    freed = [t for t in constants.values() if all(id(u) in gone for u in t.outputs) and id(t) not in outputs]
    added = sum(constant_bytes(r.tensor.name, r.values) for r in chosen)
    return added - sum(node_bytes(folding, node) for node in dead) - sum(stored_bytes(folding, t) for t in freed)


def unused(outputs: set[int], chosen: Sequence[Replacement], computed: Sequence[Any]) -> list[Any]:
    """The nodes of `computed` that nothing needs once the replacements are made."""
    served: Mapping[int, set[int]] = {id(r.tensor): {id(user) for user in r.users} for r in chosen}
    dead: dict[int, Any] = {}
    for node in reversed(computed):
        alive = any(
            id(o) in outputs or any(id(u) not in dead and id(u) not in served.get(id(o), set()) for u in o.outputs)
            for o in node.outputs
        )
        if not alive:
            dead[id(node)] = node
    return list(dead.values())


def all_outputs(graph: Any) -> set[int]:
    """Identities of the outputs of a graph and of the bodies in it."""
    return {id(tensor) for body in bodies(graph) for tensor in body.outputs}


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
