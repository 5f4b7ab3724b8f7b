"""Fused attention. Two activation products per head, Q·Kᵀ and P·V; com.microsoft's Attention projects as well.

Masks and windows are not exploited: every query meets every key. Source: the ONNX operator page of Attention (23);
onnxruntime's ContribOperators for Attention and MultiHeadAttention.
"""

from onnxsparse.ops.spec import OpSpec, OpView, UnknownFact, WeightAxes, WeightSlot, product


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
        batch, queries, hidden = query
        heads = op.required("q_num_heads")
        key_size, value_size = hidden // heads, value[-1] // op.required("kv_num_heads")
    return batch * heads * queries * keys * (key_size + value_size)


def projecting_attention_macs(op: OpView) -> int:
    """The projection of X (N × length × size) by one weight of size × (Q + K + V), and the two products over it."""
    batch, length, _ = op.input(0)
    query_size, _, value_size = projected_sizes(op)
    keys = length + (op.input(4)[3] if op.has_input(4) else 0)  # past is 2 × N × heads × length × head size
    return projection_macs(op) + batch * length * keys * (query_size + value_size)


def projected_sizes(op: OpView) -> tuple[int, ...]:
    third = op.input(1)[1] // 3
    return op.numbers("qkv_hidden_sizes", (third, third, third))


def projection_macs(op: OpView) -> int:
    return product(op.input(0)[:2]) * product(op.input(1))


def multi_head_macs(op: OpView) -> int:
    """Batch × queries × keys × (Q's hidden size + V's), past keys included.

    Q is N × length × hidden, or Q, K and V packed as N × length × heads × 3 × size; K and V may come in heads already,
    as N × heads × length × size, or packed as N × length × heads × 2 × size.
    """
    query = op.input(0)
    batch, queries = query[:2]
    past = op.input(6)[2] if op.has_input(6) else 0
    if len(query) == 5:
        hidden = query[2] * query[4]
        return batch * queries * (queries + past) * 2 * hidden
    hidden = query[2]
    if not op.has_input(1):
        raise UnknownFact("key")
    key = op.input(1)
    if len(key) == 5:
        return batch * queries * (key[1] + past) * 2 * hidden
    value = op.input(2)
    if len(key) == 4:
        return batch * queries * (key[2] + past) * (hidden + value[1] * value[3])
    return batch * queries * (key[1] + past) * (hidden + value[2])


def projection_axes(op: OpView) -> WeightAxes:
    return WeightAxes(output=1, input=0)


SPECS = (
    OpSpec(op_type="Attention", since=23, macs=attention_macs),
    OpSpec(
        op_type="Attention",
        domain="com.microsoft",
        macs=projecting_attention_macs,
        weights=(WeightSlot(at=1, axes=projection_axes, macs=projection_macs),),
    ),
    OpSpec(
        op_type="QAttention",
        domain="com.microsoft",
        macs=lambda op: projection_macs(op) + 2 * product(op.input(0)[:2]) * op.input(0)[1] * (op.input(1)[1] // 3),
        weights=(WeightSlot(at=1, axes=projection_axes, macs=projection_macs, scale=4, zero_point=7),),
    ),
    OpSpec(op_type="MultiHeadAttention", domain="com.microsoft", macs=multi_head_macs),
)
