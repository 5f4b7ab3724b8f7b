"""onnx's schemas of ops, for inference node by node."""

import onnx
from onnx import defs


def schema_of(op_type: str, opset: int) -> defs.OpSchema:
    """The schema of a standard op at a model's opset; the newest if that is older than the op or not imported."""
    return defs.get_schema(op_type, opset if defs.has(op_type, opset) else defs.onnx_opset_version())


def twin(node: onnx.NodeProto, op_type: str, opset: int) -> onnx.NodeProto:
    """The node as the standard op that it is like, without inputs, outputs and attributes that this op lacks."""
    schema = schema_of(op_type, opset)
    found = onnx.helper.make_node(op_type, node.input[: schema.max_input], node.output[: schema.max_output])
    found.attribute.extend(a for a in node.attribute if a.name in schema.attributes)
    return found
