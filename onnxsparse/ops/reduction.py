"""Ops that look over an axis: normalisation, pooling, reduction, search. None of them has weights or counts as MACs."""

from onnxsparse.ops.folding import is_inference, normalisation
from onnxsparse.ops.spec import Affine, OpSpec, Work

NORMALISATIONS = """
GroupNormalization InstanceNormalization LRN LayerNormalization LpNormalization
MeanVarianceNormalization RMSNormalization
""".split()

POOLING = """
AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool MaxRoiPool MaxUnpool RoiAlign
""".split()

REDUCTIONS = """
ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss
""".split()

SEARCHES = {"NonMaxSuppression": (0, 1), "NonZero": (), "TopK": (0,), "Unique": ()}
"""Op → the inputs that decide which elements it picks; a value either is zero or not, or equal or not, for the other two."""

# exporters and onnxruntime write the fused normalisations into the standard domain as well
MICROSOFT = """
GroupNorm SkipGroupNorm LayerNormalization SimplifiedLayerNormalization SkipLayerNormalization
SkipSimplifiedLayerNormalization QLinearAveragePool QLinearGlobalAveragePool QLinearReduceMean Unique NhwcMaxPool
""".split()

SPECS = (
    *(OpSpec(op_type=name) for name in (*NORMALISATIONS, *POOLING, *REDUCTIONS)),
    *(OpSpec(op_type=name, selects=inputs, work=Work.HOST) for name, inputs in SEARCHES.items()),
    OpSpec(
        op_type="BatchNormalization",
        affine=Affine(at=(1, 2, 3, 4), values=normalisation, when=is_inference),
        work=Work.ELEMENTWISE,
    ),
    OpSpec(op_type="SimplifiedLayerNormalization"),
    *(OpSpec(op_type=name, domain="com.microsoft") for name in MICROSOFT),
)
