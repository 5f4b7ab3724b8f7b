"""Element types of values."""

from onnxsparse.model import Model
from onnxsparse.ops import find
from onnxsparse.shapes import element_types, run_inference, weightless


def typed_values(model: Model) -> dict[str, int]:
    """Value → element type, as far as inference tells; ops that onnx does not define count as those that they are like."""
    work = weightless(model.proto, model.weights)
    for node in work.graph.node:
        spec = find(node.domain, node.op_type, model.opset(node.domain))
        if spec is not None and spec.like is not None:
            node.domain, node.op_type = "", spec.like
    return element_types(run_inference(work).graph)
