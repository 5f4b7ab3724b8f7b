"""Element types of values."""

from onnxsparse.analysis.recorded_shapes import element_types, weightless
from onnxsparse.analysis.schemas import twin
from onnxsparse.analysis.shape_inference import run_inference
from onnxsparse.ir.model import Model
from onnxsparse.ops import find


def typed_values(model: Model) -> dict[str, int]:
    """Value of the main graph → element type, 0 if unknown.

    A foreign op counts as the standard op that it is declared to be like.
    """
    work = weightless(model.proto, model.weights)
    for node in work.graph.node:
        spec = find(node.domain, node.op_type, model.opset(node.domain))
        if spec is not None and spec.shape.like is not None:
            node.CopyFrom(twin(node, spec.shape.like, model.opset()))
    inferred, _ = run_inference(work)
    return {name: kind for (_, name), kind in element_types(inferred.graph)}
