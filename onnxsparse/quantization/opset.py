"""The opset that a target's scales need."""

from onnxsparse.analysis.opset_upgrade import raise_opset
from onnxsparse.errors import ModelError
from onnxsparse.ir.model import Model
from onnxsparse.ops.spelling import PER_CHANNEL_OPSET, QUANTIZE_OPSET
from onnxsparse.quantization.plan.target import Target


def raised(model: Model, target: Target) -> tuple[Model, list[str]]:
    """A copy in an opset that the target's scales need, or the model itself if its opset will do; and notes on the opset.

    Scales per channel need opset 13; if the opset cannot be raised that far, weights get one scale per tensor. Raises ModelError
    if the model has no opset with quantizers and cannot be raised.
    """
    opset = model.opset()
    if opset >= (PER_CHANNEL_OPSET if target.weights.per_channel else QUANTIZE_OPSET):
        return model, []
    copy = model.copy()
    why = raise_opset(copy)
    if why is not None and opset < QUANTIZE_OPSET:
        raise ModelError(
            f"quantize: {model.name} has opset {opset}, which has no quantizers, and its opset cannot be raised: {why}"
        )
    if why is not None:
        return model, [f"opset stays {opset}, in which a weight tensor has a single scale: {why}"]
    return copy, [f"opset raised from {opset} to {copy.opset()}, whose DequantizeLinear supports a scale per channel"]
