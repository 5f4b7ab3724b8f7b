"""One node computed by onnx's reference implementation, for the few small values that analysis needs."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnxsparse.weights import Array


def evaluate_node(node: onnx.NodeProto, feeds: Mapping[str, Array], opsets: Mapping[str, int]) -> list[Array]:
    """The node's outputs. Raises whatever the reference implementation raises where inputs do not fit."""
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "one", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in opsets.items()])
    return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, dict(feeds))]
