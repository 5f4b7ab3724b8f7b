"""Models converted to float32, so that a proof is as sharp for half precision as for single precision."""

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import bodies, tensors
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
    """The main graph and all bodies within it, outer ones first."""
    found = [proto.graph]
    for graph in found:
        found += [body for node in graph.node for a in node.attribute for body in bodies(a)]
    return found


def every_node(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes of all graphs and functions."""
    inside = [node for graph in every_graph(proto) for node in graph.node]
    return inside + [node for function in proto.functions for node in function.node]
