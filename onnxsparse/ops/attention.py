"""Fused attention: two products of activations per head, Q·Kᵀ and P·V. com.microsoft's Attention also projects its input.

MACs count every query against every key; masks and windows are not exploited. Source: the ONNX operator page of Attention (23);
onnxruntime's ContribOperators for those of com.microsoft.
"""

import itertools
import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from onnxsparse.ops.coupling import Coupling, Role
from onnxsparse.ops.facets import ChannelRules, QuantRules, ShapeRules
from onnxsparse.ops.forms import FloatForm, Operand
from onnxsparse.ops.head_conflicts import attending, projecting_heads, sharing_heads
from onnxsparse.ops.heads import (
    decoder,
    grouped,
    grouped_shape,
    multi_head,
    multi_head_shape,
    pair_of,
    projected_sizes,
    projecting,
    projecting_shape,
    returned,
)
from onnxsparse.ops.labels import Labels
from onnxsparse.ops.refit import Refit
from onnxsparse.ops.sizes import UnknownFact, divided, ranked
from onnxsparse.ops.spec import OpSpec, WeightAxes, WeightSlot
from onnxsparse.ops.view import OpView, product


def attention_macs(op: OpView) -> int:
    """Batch × query heads × queries × keys × (head size of K + head size of V), past keys included. Raises UnknownFact.

    Inputs are N × heads × length × size, or N × length × heads·size with the numbers of heads as attributes.
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


def projection_macs(op: OpView) -> int:
    """Rows of X × elements of the weight. X: N × length × size. Raises UnknownFact."""
    return product(op.input(0)[:2]) * product(op.input(1))


def projecting_attention_macs(op: OpView, past: int = 4, length: int = 6) -> int:
    """The projection of X by one weight, plus the two products per head. Raises UnknownFact."""
    return projection_macs(op) + projecting(op, past, length).macs


def projection_axes(op: OpView) -> WeightAxes:
    """Weight: size × (Q + K + V)."""
    return WeightAxes(output=1, input=0)


@dataclass(frozen=True)
class Heads:
    """The layout of Q, K and V."""

    query: int
    """Number of query heads."""
    key: int
    """Number of key heads, which is also that of value heads."""
    size: int
    """Elements per head of Q and K."""
    value_size: int
    """Elements per head of V."""


def couple_heads(
    c: Coupling, q: Labels | None, k: Labels | None, v: Labels | None, heads: Heads, mask: int | None = None
) -> Labels | None:
    """Tie the hidden axes of Q, K and V, and return the labels of the output's hidden axis.

    1. Whole heads are cut from Q, K and V together; query heads that share a key head are cut with it.
    2. Or the same elements are cut in every head: of Q and K, or of V.

    `mask`: input that may have an axis of heads (None: no mask). Raises UnknownFact if the numbers of heads do not fit.
    """
    shared = divided(heads.query, heads.key)
    q_head, q_group, q_size = c.factor(q, (heads.key, shared, heads.size))
    k_head, k_size = c.factor(k, (heads.key, heads.size))
    v_head, v_size = c.factor(v, (heads.key, heads.value_size))
    c.freeze(q_group, "shares a key head")
    head = c.unite(*(h for h, n in ((q_head, heads.key), (k_head, heads.key), (v_head, heads.key)) if n > 1))
    if heads.size > 1:
        c.unite(q_size, k_size)
        if c.op.number("do_rotary", 0):
            c.freeze(q_size, "is rotated in pairs")
    freeze_masked_heads(c, mask, head)
    return c.space.merge((head, q_group, v_size), (heads.key, shared, heads.value_size), c.name)


def freeze_masked_heads(c: Coupling, mask: int | None, head: Labels | None) -> None:
    """Whole heads stay if a mask (… × heads × queries × keys) has one slice per head."""
    if mask is None or not c.op.has_input(mask):
        return
    c.freeze_all(mask, "masks attention")
    if c.op.partial(mask)[-3:-2] not in ((), (1,)):
        c.freeze(head, "has a mask of its own")


def couple_attention(c: Coupling) -> None:
    """Attention (23): N × heads × length × size, or N × length × heads·size with the numbers of heads as attributes.

    Raises UnknownFact for a past, through which no cut is followed.
    """
    q, k, v = (c.axes(at) for at in (0, 1, 2))
    if any(c.op.has_input(at) for at in (4, 5)):
        raise UnknownFact("it has a past, through which no cut is followed")
    if len(q) == 4:
        c.freeze(k[2], "Softmax reduces over it")
        c.freeze(v[2], "Softmax reduces over it")
        shared = divided(c.op.input(0)[1], c.op.input(1)[1])
        head, group = c.factor(q[1], (c.op.input(1)[1], shared))
        c.freeze(group, "shares a key head")
        freeze_masked_heads(c, 3, c.unite(*(axis for axis in (head, k[1], v[1]) if c.op.input(1)[1] > 1)))
        c.contract((0, 3), (1, 3))
        c.emit((q[0], q[1], q[2], v[3]))
        return
    query, key = c.op.count("q_num_heads"), c.op.count("kv_num_heads")
    heads = Heads(query, key, divided(c.op.input(0)[2], query), divided(c.op.input(2)[2], key))
    hidden = couple_heads(c, q[2], k[2], v[2], heads, mask=3)
    c.contracted += [(0, 2), (1, 2)]
    c.emit((q[0], q[1], hidden))


def couple_multi_head(c: Coupling) -> None:
    """MultiHeadAttention: three-dimensional inputs, as many key as query heads, one bias for Q, K and V.

    Raises UnknownFact for packed inputs or a past.
    """
    if not c.op.has_input(2) or len(c.axes(0)) != 3 or len(c.axes(1)) != 3 or any(c.op.has_input(at) for at in (6, 7)):
        raise UnknownFact("its inputs are packed or have a past, through which no cut is followed")
    q, k, v = (c.axes(at) for at in (0, 1, 2))
    count = c.op.count("num_heads")
    sizes = divided(c.op.input(0)[2], count), divided(c.op.input(2)[2], count)
    hidden = couple_heads(c, q[2], k[2], v[2], Heads(count, count, *sizes), mask=5)
    c.contracted += [(0, 2), (1, 2)]
    couple_packed(c, 3, 0, (q[2], k[2], v[2]))
    c.freeze_all(4, "masks attention")
    c.emit((q[0], q[1], hidden))


def couple_packed(c: Coupling, at: int, axis: int, parts: tuple[Labels | None, ...]) -> None:
    """An axis that holds Q, K and V one after the other; all stay if one of them is not followed."""
    if not c.op.has_input(at):
        return
    if any(part is None for part in parts):
        c.freeze(c.axes(at)[axis], "meets an axis that cannot be cut")
        for part in parts:
            c.freeze(part, "meets an axis that cannot be cut")
        return
    c.unite(c.axes(at)[axis], np.concatenate([part for part in parts if part is not None]))


def couple_projecting(c: Coupling) -> None:
    """com.microsoft's Attention: X · W gives Q, K and V, which lie one after the other in the weight's outputs and in the bias.

    Raises UnknownFact for a past, through which no cut is followed.
    """
    if c.op.has_input(4):
        raise UnknownFact("it has a past, through which no cut is followed")
    c.freeze_all(3, "masks attention")
    c.contract((0, 2), (1, 0))
    c.roles[1, 1] = Role.PRODUCES
    sizes = projected_sizes(c.op)
    q, k, v = (c.space.fresh(size) for size in sizes)
    couple_packed(c, 1, 1, (q, k, v))
    couple_packed(c, 2, 0, (q, k, v))
    # Q·Kᵀ is computed inside the op, where a removed column of the projection is a column of zeros
    c.contracted += [(1, 1), (2, 0)] if c.op.has_input(2) else [(1, 1)]
    count = c.op.count("num_heads")
    heads = Heads(count, count, divided(sizes[0], count), divided(sizes[2], count))
    hidden = couple_heads(c, q, k, v, heads, mask=5)
    c.emit((c.axes(0)[0], c.axes(0)[1], hidden))


def refit_heads(r: Refit, names: tuple[str, ...], query: tuple[int, int], start: int = 0) -> None:
    """Set the attributes `names` to the number of heads that remain, and keep the scale of the scores.

    `query`: the (input, axis) of Q's hidden size, which is part of a packed axis if `start` is not 0.
    """
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
    """Write out the scale of the scores if the head size changed: its default is 1 / sqrt(head size)."""
    if before != after and not r.old.real("scale", 0.0):
        r.set("scale", 1 / math.sqrt(before))


def refit_attention(r: Refit) -> None:
    """Numbers of heads and scale."""
    if len(r.old.input(0)) == 4:
        keep_scale(r, r.old.input(0)[3], r.new.input(0)[3])
    else:
        refit_heads(r, ("q_num_heads", "kv_num_heads"), (0, 2))


def refit_multi_head(r: Refit) -> None:
    """Number of heads and scale."""
    refit_heads(r, ("num_heads",), (0, 2))


def refit_projecting(r: Refit) -> None:
    """Number of heads and scale; the sizes of Q, K and V are written out, because they may differ after a cut."""
    borders = np.cumsum((0, *projected_sizes(r.old)))
    kept = r.kept_input(1, 1)
    refit_heads(r, ("num_heads",), (1, 1), start=1)
    if kept is not None:
        ends = [int(((kept >= low) & (kept < high)).sum()) for low, high in itertools.pairwise(borders)]
        r.set("qkv_hidden_sizes", ends)


def qattention_operands(op: OpView) -> tuple[Operand, ...]:
    """Input and weight with scales at 3 and 4, zero points at 6 and 7; bias, mask index and past are not quantized."""
    return Operand(0, (3,), 6), Operand(1, (4,), 7, axis=1), Operand(2), Operand(5), Operand(8)


MICROSOFT = "com.microsoft"

PROJECTION = (WeightSlot(at=1, axes=projection_axes, macs=projection_macs),)

SPECS = (
    OpSpec(
        op_type="Attention",
        since=23,
        macs=attention_macs,
        channels=ChannelRules(couple=couple_attention, refit=refit_attention),
        shape=ShapeRules(conflict=attending),
    ),
    OpSpec(
        op_type="Attention",
        domain=MICROSOFT,
        macs=projecting_attention_macs,
        weights=PROJECTION,
        channels=ChannelRules(couple=couple_projecting, refit=refit_projecting),
        shape=ShapeRules(infer=projecting_shape, more=(pair_of(projecting),), needs_values=(6,), conflict=projecting_heads),
    ),
    OpSpec(
        op_type="DecoderMaskedSelfAttention",
        domain=MICROSOFT,
        macs=projecting_attention_macs,
        weights=PROJECTION,
        shape=ShapeRules(infer=projecting_shape, more=(pair_of(projecting),), needs_values=(6,), conflict=projecting_heads),
    ),
    OpSpec(
        op_type="QAttention",
        domain=MICROSOFT,
        macs=partial(projecting_attention_macs, past=8, length=0),
        weights=(WeightSlot(at=1, axes=projection_axes, macs=projection_macs, scale=4, zero_point=7),),
        quant=QuantRules(form=FloatForm(op_type="Attention", domain=MICROSOFT, operands=qattention_operands, result=None)),
        shape=ShapeRules(
            infer=projecting_shape,
            more=(pair_of(partial(projecting, past=8, length=0)),),
            typed_by=(3,),
            conflict=projecting_heads,
        ),
    ),
    OpSpec(
        op_type="MultiHeadAttention",
        domain=MICROSOFT,
        macs=lambda op: multi_head(op).macs,
        channels=ChannelRules(couple=couple_multi_head, refit=refit_multi_head),
        shape=ShapeRules(infer=multi_head_shape, more=returned(multi_head), needs_values=(8,), conflict=sharing_heads()),
    ),
    OpSpec(
        op_type="DecoderMaskedMultiHeadAttention",
        domain=MICROSOFT,
        macs=lambda op: decoder(op).macs,
        shape=ShapeRules(
            infer=lambda op: decoder(op).output,
            more=returned(decoder),
            needs_values=(7,),
            conflict=sharing_heads(),
        ),
    ),
    OpSpec(
        op_type="GroupQueryAttention",
        domain=MICROSOFT,
        macs=lambda op: grouped(op).macs,
        shape=ShapeRules(
            infer=grouped_shape,
            more=returned(grouped),
            needs_values=(6,),
            conflict=sharing_heads("kv_num_heads"),
        ),
    ),
)
