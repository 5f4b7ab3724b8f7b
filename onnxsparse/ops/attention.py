"""Fused attention. Two activation products per head, Q·Kᵀ and P·V; com.microsoft's Attention projects as well.

Masks and windows are not exploited: every query meets every key. Source: the ONNX operator page of Attention (23);
onnxruntime's ContribOperators for Attention and MultiHeadAttention.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from onnxsparse.ops.coupling import Coupling, Role
from onnxsparse.ops.forms import FloatForm, Operand
from onnxsparse.ops.labels import Labels
from onnxsparse.ops.refit import Refit
from onnxsparse.ops.sizes import UnknownFact, divided, ranked
from onnxsparse.ops.spec import OpSpec, OpView, WeightAxes, WeightSlot, product


def attention_macs(op: OpView) -> int:
    """Batch × query heads × queries × keys × (head size of K + head size of V), past keys included.

    Inputs are N × heads × length × size, or N × length × heads·size with the heads as attributes.
    """
    query, key, value = (op.input(at) for at in (0, 1, 2))
    keys = key[-2] + (op.input(4)[-2] if op.has_input(4) else 0)
    if len(query) == 4:
        batch, heads, queries, key_size = query
        value_size = value[-1]
    else:
        batch, queries, hidden = ranked(query, "its query", 3, 0)
        heads = op.count("q_num_heads")
        key_size, value_size = hidden // heads, value[-1] // op.count("kv_num_heads")
    return batch * heads * queries * keys * (key_size + value_size)


def projecting_attention_macs(op: OpView) -> int:
    """The projection of X (N × length × size) by one weight of size × (Q + K + V), and the two products over it."""
    batch, length, _ = op.input(0, rank=3)
    query_size, _, value_size = projected_sizes(op)
    keys = length + (op.input(4)[3] if op.has_input(4) else 0)  # past is 2 × N × heads × length × head size
    return projection_macs(op) + batch * length * keys * (query_size + value_size)


def projected_sizes(op: OpView) -> tuple[int, ...]:
    third = op.input(1)[1] // 3
    return op.numbers("qkv_hidden_sizes", (third, third, third), length=3)


def projection_macs(op: OpView) -> int:
    return product(op.input(0)[:2]) * product(op.input(1))


def multi_head_macs(op: OpView) -> int:
    """Batch × queries × keys × (Q's hidden size + V's), past keys included.

    Q is N × length × hidden, or Q, K and V packed as N × length × heads × 3 × size; K and V may come in heads already,
    as N × heads × length × size, or packed as N × length × heads × 2 × size.
    """
    query = op.input(0)
    batch, queries = query[0], query[1]
    past = op.input(6)[2] if op.has_input(6) else 0
    if len(query) == 5:
        hidden = query[2] * query[4]
        return batch * queries * (queries + past) * 2 * hidden
    hidden = query[2]
    if not op.has_input(1):
        raise UnknownFact("it has no key, and its query does not hold one")
    key = op.input(1)
    if len(key) == 5:
        return batch * queries * (key[1] + past) * 2 * hidden
    value = op.input(2)
    if len(key) == 4:
        return batch * queries * (key[2] + past) * (hidden + value[1] * value[3])
    return batch * queries * (key[1] + past) * (hidden + value[2])


def projection_axes(op: OpView) -> WeightAxes:
    return WeightAxes(output=1, input=0)


@dataclass(frozen=True)
class Heads:
    """How Q, K and V are laid out: query heads, key and value heads, sizes of a head of Q and K, and of V."""

    query: int
    key: int
    size: int
    value_size: int


def couple_heads(c: Coupling, q: Labels | None, k: Labels | None, v: Labels | None, heads: Heads) -> Labels | None:
    """The output's hidden axis. Whole heads go through all of Q, K and V, several query heads with the key head that they
    share; or, in every head, the same elements of Q and K, or of V.
    """
    shared = divided(heads.query, heads.key)
    q_head, q_group, q_size = c.factor(q, (heads.key, shared, heads.size))
    k_head, k_size = c.factor(k, (heads.key, heads.size))
    v_head, v_size = c.factor(v, (heads.key, heads.value_size))
    c.freeze(q_group, "shares a key head")
    head = c.unite(*(h for h, n in ((q_head, heads.key), (k_head, heads.key), (v_head, heads.key)) if n > 1))
    if heads.size > 1:
        c.unite(q_size, k_size)
    return c.space.merge((head, q_group, v_size), (heads.key, shared, heads.value_size), c.name)


def couple_attention(c: Coupling) -> None:
    """N × heads × length × size, or N × length × heads·size with the heads as attributes. A mask over heads, or a past, is not
    cut.
    """
    q, k, v = (c.axes(at) for at in (0, 1, 2))
    if any(c.op.has_input(at) for at in (4, 5)):
        raise UnknownFact("it has a past, through which no cut is followed")
    c.freeze_all(3, "masks attention")
    if len(q) == 4:
        c.freeze(k[2], "Softmax looks over it")
        c.freeze(v[2], "Softmax looks over it")
        shared = divided(c.op.input(0)[1], c.op.input(1)[1])
        head, group = c.factor(q[1], (c.op.input(1)[1], shared))
        c.freeze(group, "shares a key head")
        c.unite(*(axis for axis in (head, k[1], v[1]) if c.op.input(1)[1] > 1))
        c.contract((0, 3), (1, 3))
        c.emit((q[0], q[1], q[2], v[3]))
        return
    query, key = c.op.count("q_num_heads"), c.op.count("kv_num_heads")
    heads = Heads(query, key, divided(c.op.input(0)[2], query), divided(c.op.input(2)[2], key))
    hidden = couple_heads(c, q[2], k[2], v[2], heads)
    c.contracted += [(0, 2), (1, 2)]
    c.emit((q[0], q[1], hidden))


def couple_multi_head(c: Coupling) -> None:
    """As above, three-dimensional, with as many key as query heads and one bias for all three."""
    if not c.op.has_input(2) or len(c.axes(0)) != 3 or len(c.axes(1)) != 3 or any(c.op.has_input(at) for at in (6, 7)):
        raise UnknownFact("its inputs are packed or have a past, through which no cut is followed")
    q, k, v = (c.axes(at) for at in (0, 1, 2))
    count = c.op.count("num_heads")
    sizes = divided(c.op.input(0)[2], count), divided(c.op.input(2)[2], count)
    hidden = couple_heads(c, q[2], k[2], v[2], Heads(count, count, *sizes))
    c.contracted += [(0, 2), (1, 2)]
    couple_packed(c, 3, 0, (q[2], k[2], v[2]))
    for at in (4, 5):
        if c.op.has_input(at):
            c.freeze_all(at, "masks attention")
    c.emit((q[0], q[1], hidden))


def couple_packed(c: Coupling, at: int, axis: int, parts: tuple[Labels | None, ...]) -> None:
    """An axis that holds Q's, K's and V's behind one another."""
    if not c.op.has_input(at):
        return
    if any(part is None for part in parts):
        c.freeze(c.axes(at)[axis], "meets an axis that cannot be cut")
        for part in parts:
            c.freeze(part, "meets an axis that cannot be cut")
        return
    c.unite(c.axes(at)[axis], np.concatenate([part for part in parts if part is not None]))


def couple_projecting(c: Coupling) -> None:
    """X · W gives Q, K and V; the weight's outputs, and the bias, are theirs behind one another."""
    if c.op.has_input(4):
        raise UnknownFact("it has a past, through which no cut is followed")
    c.contract((0, 2), (1, 0))
    c.roles[1, 1] = Role.PRODUCES
    sizes = projected_sizes(c.op)
    q, k, v = (c.space.fresh(size) for size in sizes)
    couple_packed(c, 1, 1, (q, k, v))
    couple_packed(c, 2, 0, (q, k, v))
    # the products over Q and K happen inside: there a removed column is zeros
    c.contracted += [(1, 1), (2, 0)] if c.op.has_input(2) else [(1, 1)]
    count = c.op.count("num_heads")
    hidden = couple_heads(c, q, k, v, Heads(count, count, divided(sizes[0], count), divided(sizes[2], count)))
    c.emit((c.axes(0)[0], c.axes(0)[1], hidden))


def refit_heads(r: Refit, names: tuple[str, ...], query: tuple[int, int], start: int = 0) -> None:
    """Heads that are left, and the scale that goes with the size that a head had, which is the default no more."""
    at, axis = query
    count = r.old.count(names[0])
    hidden = r.old.input(at)[axis] if not start else projected_sizes(r.old)[0]
    size = hidden // count
    kept = r.kept_input(at, axis)
    kept = None if kept is None else kept[kept < hidden]
    if kept is None:
        return
    left = len(set((kept // size).tolist()))
    for name in names:
        r.set(name, r.old.required(name) * left // count)
    keep_scale(r, size, kept.size // max(left, 1))


def keep_scale(r: Refit, before: int, after: int) -> None:
    """Written out: the default is one over the root of a head's size."""
    given = r.old.attributes["scale"].f if "scale" in r.old.attributes else 0.0
    if before != after and not given:
        r.set("scale", 1 / math.sqrt(before))


def refit_attention(r: Refit) -> None:
    if len(r.old.input(0)) == 4:
        keep_scale(r, r.old.input(0)[3], r.new.input(0)[3])
    else:
        refit_heads(r, ("q_num_heads", "kv_num_heads"), (0, 2))


def refit_multi_head(r: Refit) -> None:
    refit_heads(r, ("num_heads",), (0, 2))


def refit_projecting(r: Refit) -> None:
    """The sizes of Q, K and V are written out, since they may differ now."""
    borders = np.cumsum((0, *projected_sizes(r.old)))
    kept = r.kept_input(1, 1)
    refit_heads(r, ("num_heads",), (1, 1), start=1)
    if kept is not None:
        ends = [int(((kept >= low) & (kept < high)).sum()) for low, high in itertools.pairwise(borders)]
        r.set("qkv_hidden_sizes", ends)


def qattention_operands(op: OpView) -> tuple[Operand, ...]:
    """Input and weights with scales at 3 and 4 and zero points at 6 and 7; bias, mask index and past are read as they are."""
    return Operand(0, (3,), 6), Operand(1, (4,), 7, axis=1), Operand(2), Operand(5), Operand(8)


SPECS = (
    OpSpec(op_type="Attention", since=23, macs=attention_macs, couple=couple_attention, refit=refit_attention),
    OpSpec(
        op_type="Attention",
        domain="com.microsoft",
        macs=projecting_attention_macs,
        couple=couple_projecting,
        refit=refit_projecting,
        weights=(WeightSlot(at=1, axes=projection_axes, macs=projection_macs),),
    ),
    OpSpec(
        op_type="QAttention",
        domain="com.microsoft",
        macs=lambda op: projection_macs(op) + 2 * product(op.input(0)[:2]) * op.input(0)[1] * (op.input(1)[1] // 3),
        weights=(WeightSlot(at=1, axes=projection_axes, macs=projection_macs, scale=4, zero_point=7),),
        form=FloatForm(op_type="Attention", domain="com.microsoft", operands=qattention_operands, result=None),
    ),
    OpSpec(
        op_type="MultiHeadAttention",
        domain="com.microsoft",
        macs=multi_head_macs,
        couple=couple_multi_head,
        refit=refit_multi_head,
    ),
)
