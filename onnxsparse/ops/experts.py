"""Mixtures of experts: each token goes through the k experts that a router prefers.

The multiply-accumulates add up to tokens × k × the weights of one expert, but how often one weight is used depends on the data;
so the op's are unknown, and its weights count without them. Source: onnxruntime's ContribOperators for MoE.
"""

from onnxsparse.ops.facets import ShapeRules
from onnxsparse.ops.sizes import UnknownFact
from onnxsparse.ops.spec import OpSpec, WeightAxes, WeightSlot
from onnxsparse.ops.view import OpView, same_shape


def routed(op: OpView) -> int:
    """Raises UnknownFact: the uses of a weight depend on the data."""
    raise UnknownFact("how often it uses each expert's weights depends on the data")


def expert_axes(op: OpView) -> WeightAxes:
    """Weights of a layer: experts × outputs × inputs."""
    return WeightAxes(output=1, input=2)


SPECS = (
    OpSpec(
        op_type="MoE",
        domain="com.microsoft",
        macs=routed,
        weights=tuple(WeightSlot(at=at, axes=expert_axes) for at in (2, 4, 6)),
        shape=ShapeRules(infer=same_shape),
    ),
)
