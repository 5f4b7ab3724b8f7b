"""Embeddings: tokens looked up in tables, and positions rotated into queries and keys. They have no multiply-accumulates.

A rotary embedding multiplies each pair of elements by a cosine and a sine and adds them: elementwise work. An embedding layer
looks rows up, adds them and normalises the sum; a table counts as a weight only if a MatMul reads it too. A device spends the
time to read and write the activations.

Neither has a channel rule, so no cut passes: a rotation ties the two elements of a pair, and the numbers of heads are attributes.

Source: the ONNX operator page of RotaryEmbedding; onnxruntime's ContribOperators for those of com.microsoft.
"""

from onnx import TensorProto

from onnxsparse.ir.binding import Shape
from onnxsparse.ops.facets import CostRules, ShapeRules, Work
from onnxsparse.ops.head_conflicts import rotating
from onnxsparse.ops.shapes import times
from onnxsparse.ops.sizes import counted, divided
from onnxsparse.ops.spec import OpSpec
from onnxsparse.ops.view import OpView, same_shape

MICROSOFT = "com.microsoft"

READ_AND_WRITTEN = CostRules(work=Work.WINDOW)
"""Each output element depends on several input elements."""


def embedded(op: OpView) -> Shape:
    """N × length × the width of the word embedding. Raises UnknownFact."""
    return (*op.partial(0, 2), op.partial(2, 2)[1])


def embedded_mask(op: OpView) -> Shape:
    """N: the length of each sequence. Raises UnknownFact."""
    return op.partial(0, 2)[:1]


def gathered(op: OpView) -> Shape:
    """GatherBlockQuantized: the axis `gather_axis` of the table, replaced by the axes of the indices. A table of uint8 holds
    several elements of `bits` bits in each byte of its last axis. Raises UnknownFact.
    """
    table = op.partial(0)
    axis = counted(op.number("gather_axis", 0), len(table))
    if op.kind(0) == TensorProto.UINT8:
        table = (*table[:-1], times(table[-1], divided(8, op.count("bits", 4))))
    return (*table[:axis], *op.partial(1), *table[axis + 1 :])


SPECS = (
    OpSpec(op_type="RotaryEmbedding", cost=READ_AND_WRITTEN),
    OpSpec(
        op_type="RotaryEmbedding", domain=MICROSOFT, shape=ShapeRules(infer=same_shape, conflict=rotating), cost=READ_AND_WRITTEN
    ),
    OpSpec(
        op_type="EmbedLayerNormalization",
        domain=MICROSOFT,
        shape=ShapeRules(infer=embedded, more=(embedded_mask, embedded), typed_by=(2,)),
        cost=READ_AND_WRITTEN,
    ),
    OpSpec(
        op_type="QEmbedLayerNormalization",
        domain=MICROSOFT,
        shape=ShapeRules(infer=embedded, more=(embedded_mask,), typed_by=(8,)),
        cost=READ_AND_WRITTEN,
    ),
    OpSpec(
        op_type="GatherBlockQuantized",
        domain=MICROSOFT,
        shape=ShapeRules(infer=gathered, typed_by=(2,)),
        cost=CostRules(work=Work.MOVE),
    ),
)
