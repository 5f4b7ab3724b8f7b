"""Invalid sizes of attention ops and rotary embeddings, as the rules in `ops/conflicts.py`."""

from onnxsparse.ir.binding import Shape, format_shape
from onnxsparse.ops.conflicts import Rule, multiplying, unequal
from onnxsparse.ops.heads import projected_sizes
from onnxsparse.ops.sizes import UnknownFact
from onnxsparse.ops.view import OpView


def attending(op: OpView) -> str | None:
    """Attention since opset 23: Q, K and V must have whole heads, Q and K one head size, K and V one length, and the mask as many
    rows as there are queries. Raises UnknownFact for other numbers of axes.
    """
    query, key, value = (op.partial(at, 3, 4) for at in (0, 1, 2))
    if not len(query) == len(key) == len(value):
        raise UnknownFact("its inputs have different numbers of axes")
    heads = (1, 1) if len(query) == 4 else (op.count("q_num_heads"), op.count("kv_num_heads"))
    found = uneven(query, heads[0]) or uneven(key, heads[1]) or uneven(value, heads[1])
    if found is not None:
        return found
    sizes = (per_head(query, heads[0]), per_head(key, heads[1]))
    return meeting(query, (key,), sizes) or meeting(query, (value,), (key[-2], value[-2])) or masking(op, query)


def masking(op: OpView, query: Shape) -> str | None:
    """The mask (input 3: … × queries × keys) must broadcast over the queries."""
    mask = op.partial(3) if op.has_input(3) else ()
    if len(mask) < 2 or mask[-2] == 1 or not unequal(mask[-2], query[-2]):
        return None
    return f"cannot mask {format_shape(query)} with {format_shape(mask)}: {query[-2]} meets {mask[-2]}"


def sharing_heads(kept: str = "num_heads") -> Rule:
    """onnxruntime's ops whose Q, K and V are N × length × hidden, with `num_heads` heads of Q and `kept` heads of K and V. Packed
    inputs and those that are split into heads are not checked.

    `kept`: the attribute that holds their number.
    """

    def rule(op: OpView) -> str | None:
        """Checks whole heads, then one batch size, and as many keys as values."""
        if not (op.has_input(1) and op.has_input(2)):
            return None
        query, key, value = (op.partial(at) for at in (0, 1, 2))
        if len(query) != 3:
            return None
        if not len(key) == len(value) == 3:
            return uneven(query, op.count("num_heads"))
        found = uneven(query, op.count("num_heads")) or uneven(key, op.count(kept)) or uneven(value, op.count(kept))
        pairs = ((query[0], key[0]), (key[0], value[0]), (key[1], value[1]))
        return found or next((text for pair in pairs if (text := meeting(query, (key, value), pair)) is not None), None)

    return rule


def projecting_heads(op: OpView) -> str | None:
    """onnxruntime's Attention: the weight must suit X, and Q and V must have whole heads. Raises UnknownFact."""
    found = multiplying()(op)
    if found is not None:
        return found
    heads, sizes = op.count("num_heads"), projected_sizes(op)
    wrong = next((size for size in sizes if size % heads), None)
    return None if wrong is None else f"cannot divide the {wrong} columns of a projection into {heads} heads"


def rotating(op: OpView) -> str | None:
    """onnxruntime's RotaryEmbedding: positions (input 1) of two axes must be N × length, as X is N × length × hidden or
    N × heads × length × size.
    """
    x, positions = op.partial(0, 3, 4), op.partial(1)
    if len(positions) != 2:
        return None
    wanted = (x[0], x[-2])
    wrong = next(((a, b) for a, b in zip(wanted, positions, strict=True) if unequal(a, b)), None)
    shown = f"{format_shape(x)} by {format_shape(positions)} positions"
    return None if wrong is None else f"cannot rotate {shown}: {wrong[0]} meets {wrong[1]}"


def uneven(shape: Shape, heads: int) -> str | None:
    """Why the last axis cannot be divided into heads."""
    if shape[-1] is None or shape[-1] % heads == 0:
        return None
    return f"cannot divide the last axis of {format_shape(shape)} into {heads} heads"


def per_head(shape: Shape, heads: int) -> int | None:
    """Elements per head."""
    return None if shape[-1] is None else shape[-1] // heads


def meeting(query: Shape, others: tuple[Shape, ...], pair: tuple[int | None, int | None]) -> str | None:
    """Why a query cannot attend to keys and values, two of whose sizes are `pair`; None if they do not differ."""
    if not unequal(*pair):
        return None
    return f"cannot attend from {format_shape(query)} to {' and '.join(map(format_shape, others))}: {pair[0]} meets {pair[1]}"
