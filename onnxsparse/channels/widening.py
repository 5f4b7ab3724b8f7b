"""Models converted to float32, so that a proof is as sharp for half precision as for single precision."""

import numpy as np
import onnx
from onnx import TensorProto

from onnxsparse.ir.functions import every_node
from onnxsparse.ir.model import Model
from onnxsparse.ir.sparse import every_graph
from onnxsparse.ir.weights import tensors
from onnxsparse.ops.spelling import TYPE_ATTRIBUTES

OTHER_FLOATS = frozenset((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE))
"""Float types that are converted."""


def is_in_float32(model: Model) -> bool:
    """Whether no input, constant or conversion of the model has another float type."""
    held = any(tensor.data_type in OTHER_FLOATS for _, _, tensor in tensors(model.proto))
    fed = any(value.type.tensor_type.elem_type in OTHER_FLOATS for value in model.proto.graph.input)
    return not held and not fed and not any(is_other(a) for node in every_node(model.proto) for a in node.attribute)


def is_other(attribute: onnx.AttributeProto) -> bool:
    """Whether the attribute is an output type among OTHER_FLOATS."""
    return attribute.name in TYPE_ATTRIBUTES and attribute.i in OTHER_FLOATS


def widened(model: Model) -> Model:
    """A copy in which every float type is float32: inputs, constants, recorded types, and conversions."""
    twin = model.copy(f"{model.role or 'the copy'} in float32")
    for _, name, tensor in tensors(twin.proto):
        if tensor.data_type in OTHER_FLOATS:
            twin.weights.fill(tensor, twin.weights.read(name, tensor).astype(np.float32))
    for graph in every_graph(twin.proto):
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.tensor_type.elem_type in OTHER_FLOATS:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
    for attribute in (a for node in every_node(twin.proto) for a in node.attribute if is_other(a)):
        attribute.i = TensorProto.FLOAT
    return twin
