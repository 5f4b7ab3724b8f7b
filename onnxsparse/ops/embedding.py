"""Embeddings: tokens looked up in tables, and positions rotated into queries and keys. No multiply-accumulate is in either.

Only linear ops have MACs. A rotary embedding multiplies each pair of elements by a cosine and a sine, and adds: elementwise work.
An embedding layer looks rows up, adds them and normalises the sum; its tables are weights only where a MatMul reads them too.
A device spends the time to read and write the activations on either.

Neither has a channel rule, so no cut passes: a rotation ties the two elements of a pair, and the heads are in attributes.

Source: the ONNX operator page of RotaryEmbedding; onnxruntime's ContribOperators for those of com.microsoft.
"""

from onnxsparse.ir.binding import Shape
from onnxsparse.ops.facets import CostRules, ShapeRules, Work
from onnxsparse.ops.spec import OpSpec
from onnxsparse.ops.view import OpView, same_shape

MICROSOFT = "com.microsoft"

READ_AND_WRITTEN = CostRules(work=Work.WINDOW)
"""Each element of the output follows from several of the inputs."""


def embedded(op: OpView) -> Shape:
    """N × length × the width of the word embedding. Raises UnknownFact."""
    return (*op.partial(0, 2), op.partial(2, 2)[1])


def embedded_mask(op: OpView) -> Shape:
    """N: the length of each sequence. Raises UnknownFact."""
    return op.partial(0, 2)[:1]


SPECS = (
    OpSpec(op_type="RotaryEmbedding", cost=READ_AND_WRITTEN),
    OpSpec(op_type="RotaryEmbedding", domain=MICROSOFT, shape=ShapeRules(infer=same_shape), cost=READ_AND_WRITTEN),
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
)
