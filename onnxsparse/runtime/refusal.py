"""The node that onnxruntime refuses to run at a model's input sizes."""

import re
from collections.abc import Sequence
from pathlib import Path

import onnx

from onnxsparse.analysis.shape_inference import Shapes, impossible, infer_shapes
from onnxsparse.analysis.shape_propagation import is_static
from onnxsparse.analysis.size_conflicts import Conflict
from onnxsparse.errors import BackendError, ParamError
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.model import Model
from onnxsparse.ops import find
from onnxsparse.runtime.inputs import seeded_samples
from onnxsparse.runtime.session import Execution, runner

MARK = "node of the main graph"
"""Begins the names by which nodes are found in onnxruntime's messages."""

REFUSED = re.compile(rf"status code returned while running \S+ node\. Name:'{MARK} (\d+)' Status Message: (.*)", re.DOTALL)

OTHER_CAUSES = ("NOT_IMPLEMENTED", "allocate", "bad_alloc")
"""Parts of messages about a kernel that does not exist, or about memory."""

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
"""Element types whose values no kernel refuses."""


def size_refusal(model: Model, custom_ops: Sequence[Path] = ()) -> ParamError | None:
    """The error for sizes at which onnxruntime refuses to run a node of the main graph; None if it does not, or if values may be
    the cause.

    1. Run the model on random inputs, without fusions, its nodes named by their positions. The message names the node.
    2. The sizes are the cause if the shapes of all its inputs are known, and all are floats, constant, or follow from sizes:
       kernels do not refuse floats for their values. Positions, as of Gather, they do.
    """
    work = model.copy()
    for index, node in enumerate(work.proto.graph.node):
        node.name = f"{MARK} {index}"
    try:
        runner(work, custom_ops=custom_ops, execution=Execution.NODE_BY_NODE).run(seeded_samples(model, 1).feeds[0])
        return None
    except BackendError as error:
        said = str(error)
    found = REFUSED.search(said)
    if found is None or any(cause in said for cause in OTHER_CAUSES):
        return None
    graph, index = Graph(model.proto.graph), int(found[1])
    node = graph.proto.node[index]
    if not sizes_decide(model, infer_shapes(model.proto, model.weights, model.binding, model.name), node):
        return None
    conflict = Conflict(graph.names[index], node.op_type, f"is refused by onnxruntime: {found[2].strip()}")
    return impossible(model.name, model.binding, conflict, always=False)


def sizes_decide(model: Model, shapes: Shapes, node: onnx.NodeProto) -> bool:
    """Whether nothing but the sizes of a node's inputs and constants decides whether it can run."""
    spec = find(node.domain, node.op_type, model.opset(node.domain))
    if spec is None or spec.body is not None:
        return False
    constant = {*(tensor.name for tensor in model.proto.graph.initializer), *shapes.view("", node).values}
    given = [name for name in node.input if name]
    return all(is_static(shapes.get("", name)) and (shapes.kind("", name) in FLOATS or name in constant) for name in given)
