"""onnxruntime's fused attention ops as products per head: numbers of queries and keys, and output shapes.

If past keys lie in a buffer longer than the past, the past's length is the value of an input, not a size. Source: onnxruntime's
ContribOperators.
"""

from collections.abc import Callable
from dataclasses import dataclass

from onnxsparse.ir.binding import Shape
from onnxsparse.ops.shapes import times
from onnxsparse.ops.sizes import UnknownFact
from onnxsparse.ops.view import OpView


@dataclass(frozen=True)
class Products:
    """Q·Kᵀ and P·V per head, each query against each key, past keys included."""

    batch: int
    """Batch size."""
    heads: int
    """Query heads."""
    queries: int
    """Queries per sequence."""
    keys: int
    """Keys per query, past ones included."""
    size: int
    """Elements per head of Q and K."""
    value_size: int
    """Elements per head of V."""
    kept_heads: int
    """Heads of the keys and values that are returned for later steps."""
    stored: int
    """Rows of those keys and values; more than `keys` if they lie in a buffer."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of both products."""
        return self.batch * self.heads * self.queries * self.keys * (self.size + self.value_size)

    @property
    def kept_keys(self) -> Shape:
        """Shape of the returned keys."""
        return self.batch, self.kept_heads, self.stored, self.size

    @property
    def kept_values(self) -> Shape:
        """Shape of the returned values."""
        return self.batch, self.kept_heads, self.stored, self.value_size

    @property
    def scores(self) -> Shape:
        """Shape of Q·Kᵀ."""
        return self.batch, self.heads, self.queries, self.keys

    @property
    def output(self) -> Shape:
        """Shape of the result."""
        return self.batch, self.queries, self.heads * self.value_size


def sized(op: OpView, at: int, *ranks: int) -> tuple[int, ...]:
    """The shape of an input, all sizes known, with one of these ranks. Raises UnknownFact."""
    op.partial(at, *ranks)
    return op.input(at)


def past_rows(op: OpView, past: int, length: int, new: int) -> tuple[int, int]:
    """(keys in all, rows returned), given `new` keys and a past of N × heads × length × size at input `past`.

    The value of input `length` is the number of rows of the buffer that are filled; without it the past is full. Raises
    UnknownFact.
    """
    rows = sized(op, past, 4)[2] if op.has_input(past) else 0
    if not op.has_input(length):
        return rows + new, rows + new
    return op.integer(length) + new, rows


def multi_head(op: OpView) -> Products:
    """MultiHeadAttention. Q is N × length × hidden, or Q, K and V packed as N × length × heads × 3 × size.

    K and V may be N × heads × length × size, or packed as N × length × heads × 2 × size. Raises UnknownFact for other inputs.
    """
    query, heads = sized(op, 0, 3, 5), op.count("num_heads")
    batch, queries = query[:2]
    if len(query) == 5:
        new, size, value_size = queries, query[4], query[4]
    elif not op.has_input(1):
        raise UnknownFact("it has no key, and its query does not hold one")
    else:
        key, size = sized(op, 1, 3, 4, 5), query[2] // heads
        new = key[2] if len(key) == 4 else key[1]
        value_size = key[4] if len(key) == 5 else per_head(op, 2, heads)
    keys, stored = past_rows(op, 6, 8, new)
    return Products(batch, heads, queries, keys, size, value_size, heads, stored)


def per_head(op: OpView, at: int, heads: int) -> int:
    """Elements per head of input `at`: N × length × hidden, or N × heads × length × size. Raises UnknownFact."""
    shape = sized(op, at, 3, 4)
    return shape[3] if len(shape) == 4 else shape[2] // heads


def multi_head_shape(op: OpView) -> Shape:
    """N × length × V's hidden size; None for each unknown size. Raises UnknownFact."""
    query = op.partial(0, 3, 5)
    if len(query) == 5:
        return query[0], query[1], times(query[2], query[4])
    if op.has_input(2):
        value = op.partial(2, 3, 4)
        return query[0], query[1], value[2] if len(value) == 3 else times(value[1], value[3])
    key = op.partial(1, 5)
    return query[0], query[1], times(key[2], key[4])


def decoder(op: OpView) -> Products:
    """DecoderMaskedMultiHeadAttention: one query, N × 1 × hidden, or Q, K and V packed; K and V in heads come from another
    sequence. Raises UnknownFact.
    """
    batch, queries, hidden = sized(op, 0, 3)
    heads = op.count("num_heads")
    if op.has_input(1) and len(op.partial(1, 3, 4)) == 4:
        size, keys = hidden // heads, sized(op, 1, 4)[2]
        return Products(batch, heads, queries, keys, size, per_head(op, 2, heads), heads, keys)
    size = hidden // heads if op.has_input(1) else hidden // heads // 3
    value_size = per_head(op, 2, heads) if op.has_input(2) else size
    keys, stored = past_rows(op, 5, 7, queries)
    return Products(batch, heads, queries, keys, size, value_size, heads, stored)


def grouped(op: OpView) -> Products:
    """GroupQueryAttention: Q is N × length × heads·size, or Q, K and V packed; several query heads share a key head.

    Input 6 holds the number of keys, past ones included. Raises UnknownFact.
    """
    batch, queries, hidden = sized(op, 0, 3)
    heads, kept = op.count("num_heads"), op.count("kv_num_heads")
    size = hidden // heads if op.has_input(1) else hidden // (heads + 2 * kept)
    new = sized(op, 1, 3)[1] if op.has_input(1) else queries
    past = sized(op, 3, 4)[2] if op.has_input(3) else 0
    keys = op.integer(6) if past else new
    return Products(batch, heads, queries, keys, size, size, kept, max(past, keys))


def grouped_shape(op: OpView) -> Shape:
    """Q's shape; if K and V are packed with it, the part of Q. Raises UnknownFact."""
    batch, length, hidden = op.partial(0, 3)
    heads, kept = op.count("num_heads"), op.count("kv_num_heads")
    if op.has_input(1) or hidden is None:
        return batch, length, hidden
    return batch, length, hidden // (heads + 2 * kept) * heads


def projecting(op: OpView, past: int = 4, length: int = 6) -> Products:
    """Attention: X (N × length × size) times one weight of size × (Q + K + V); a past is 2 × N × heads × length × head size.
    Raises UnknownFact.
    """
    batch, queries, _ = sized(op, 0, 3)
    heads, (query, _, value) = op.count("num_heads"), projected_sizes(op)
    rows = sized(op, past, 5)[3] if op.has_input(past) else 0
    keys, stored = rows + queries, rows + queries
    if length and op.has_input(length):
        keys, stored = op.integer(length) + queries, rows
    return Products(batch, heads, queries, keys, query // heads, value // heads, heads, stored)


def projected_sizes(op: OpView) -> tuple[int, ...]:
    """Hidden sizes of Q, K and V. Raises UnknownFact unless there are three."""
    third = sized(op, 1, 2)[1] // 3
    sizes = op.numbers("qkv_hidden_sizes", (third, third, third))
    if len(sizes) != 3:
        raise UnknownFact(f"its attribute 'qkv_hidden_sizes' has {len(sizes)} numbers, not 3")
    return sizes


def projecting_shape(op: OpView) -> Shape:
    """N × length × V's hidden size. Raises UnknownFact."""
    batch, length, _ = op.partial(0, 3)
    return batch, length, projected_sizes(op)[2]


def pair_of(products: Callable[[OpView], Products]) -> Callable[[OpView], Shape]:
    """A rule for the shape of returned keys and values in one tensor: 2 × the shape of the keys."""
    return lambda op: (2, *products(op).kept_keys)


def returned(products: Callable[[OpView], Products]) -> tuple[Callable[[OpView], Shape], ...]:
    """Rules for the shapes of the outputs after the first: returned keys, returned values, Q·Kᵀ."""
    return (lambda op: products(op).kept_keys, lambda op: products(op).kept_values, lambda op: products(op).scores)
