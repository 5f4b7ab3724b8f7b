"""The cost of a fold in the file: bytes of tensors that it adds, minus bytes of nodes and constants that become unused.

Metadata about names is not counted.
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
    """A computed value that a new constant can replace."""

    tensor: Any
    """The value's tensor."""
    maker: Any
    """The node that computes it now."""
    users: tuple[Any, ...]
    """The nodes that would read the constant."""
    values: Array
    """The value."""


def affordable(folding: Folding, graph: Any, wanted: Sequence[Replacement], computed: Sequence[Any]) -> list[Replacement]:
    """The replacements that leave the file no larger.

    1. Replacements that share constants or nodes are judged together, because one alone may not free what they share.
    2. While such a group adds more bytes than it frees, its largest replacement is left out.

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
    """Replacements in groups that share no constant or node, each with its nodes of `computed`."""
    parents: dict[int, int] = {}

    def root(item: int) -> int:
        """The representative of an item's group (union-find with path halving)."""
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
    """Bytes that the file gains by these replacements; negative if it shrinks."""
    dead = unused(outputs, chosen, computed)
    gone = {id(node) for node in dead}
    constants = {id(t): t for node in dead for t in node.inputs if isinstance(t, gs.Constant)}
    freed = [t for t in constants.values() if all(id(u) in gone for u in t.outputs) and id(t) not in outputs]
    added = sum(constant_bytes(r.tensor.name, r.values) for r in chosen)
    return added - sum(node_bytes(folding, node) for node in dead) - sum(stored_bytes(folding, t) for t in freed)


def unused(outputs: set[int], chosen: Sequence[Replacement], computed: Sequence[Any]) -> list[Any]:
    """The nodes of `computed` that nothing uses after the replacements."""
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
    """Identities of the outputs of a graph and its bodies."""
    return {id(tensor) for body in bodies(graph) for tensor in body.outputs}


def constant_bytes(name: str, values: Array) -> int:
    """Bytes of a new initializer in the file."""
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    return onnx.TensorProto(name=name, dims=values.shape, data_type=kind).ByteSize() + values.nbytes + 2 * FIELD_BYTES


def stored_bytes(folding: Folding, constant: Any) -> int:
    """Bytes of an existing initializer in the file."""
    if id(constant) in folding.stored:
        return folding.stored[id(constant)][1]
    return constant_bytes(constant.name, np.asarray(constant.values))


def node_bytes(folding: Folding, node: Any) -> int:
    """Bytes of a node in the file; those of a Constant include its value."""
    if not is_constant_node(node):
        return folding.view(node).node.ByteSize() + FIELD_BYTES
    header = helper.make_node(node.op, [], [t.name for t in node.outputs], name=node.name)
    return header.ByteSize() + stored_bytes(folding, node.attrs["value"])


def is_shared(folding: Folding, constant: Any, users: Iterable[Any]) -> bool:
    """Whether a constant has users other than these, or is an output of a graph."""
    own = {id(user) for user in users}
    return id(constant) in folding.exposed or any(id(user) not in own for user in constant.outputs)
