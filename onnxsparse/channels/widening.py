"""A model in float32 alone, whatever its floats were, so that a proof is as sharp for half precision as for any other."""

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import bodies, tensors

OTHER_FLOATS = frozenset((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE))

TYPE_ATTRIBUTES = frozenset(("to", "dtype", "output_dtype", "output_datatype"))
"""Where a node says which element type it makes."""


def is_in_float32(model: Model) -> bool:
    """Whether nothing that the model is fed, holds or converts to is a float of another size."""
    held = any(tensor.data_type in OTHER_FLOATS for _, _, tensor in tensors(model.proto))
    fed = any(value.type.tensor_type.elem_type in OTHER_FLOATS for value in model.proto.graph.input)
    return not held and not fed and not any(is_other(a) for node in every_node(model.proto) for a in node.attribute)


def is_other(attribute: onnx.AttributeProto) -> bool:
    return attribute.name in TYPE_ATTRIBUTES and attribute.i in OTHER_FLOATS


def widened(model: Model) -> Model:
    """A copy in which every other float is a float32: what is fed, held, recorded, made and converted to."""
    twin = model.copy(f"{model.role or 'the copy'} in float32")
    for scope, name, tensor in tensors(twin.proto):
        if tensor.data_type not in OTHER_FLOATS:
            continue
        known = twin.weights.find(scope, name) if name else None
        if known is None:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
        else:
            twin.weights[known] = np.asarray(twin.weights[known]).astype(np.float32)
    for graph in every_graph(twin.proto):
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.tensor_type.elem_type in OTHER_FLOATS:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
    for attribute in (a for node in every_node(twin.proto) for a in node.attribute if is_other(a)):
        attribute.i = TensorProto.FLOAT
    return twin


def every_graph(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    found = [proto.graph]
    for graph in found:
        found += [body for node in graph.node for a in node.attribute for body in bodies(a)]
    return found


def every_node(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    inside = [node for graph in every_graph(proto) for node in graph.node]
    return inside + [node for function in proto.functions for node in function.node]
