"""One node computed by onnx's reference implementation, for the few small values that analysis needs."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx.reference.op_run import OpFunction, OpRun
from onnx.reference.ops._op_list import load_op

from onnxsparse.weights import Array

NO_RESULT = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What the reference implementation raises for inputs that do not fit, or for an op that it lacks."""


def evaluate_node(node: onnx.NodeProto, feeds: Mapping[str, Array], opsets: Mapping[str, int]) -> list[Array] | None:
    """The node's outputs; None where its inputs do not fit its op, or onnx has no implementation of it."""
    try:
        return computed(node, feeds, opsets)
    except NO_RESULT:
        return None


def computed(node: onnx.NodeProto, feeds: Mapping[str, Array], opsets: Mapping[str, int]) -> list[Array]:
    """The node's outputs. Raises one of NO_RESULT."""
    # a whole evaluator around one node costs five times as much, and shape arithmetic has thousands of them
    implementation = find(node.domain, node.op_type, opsets.get(node.domain, 1))
    settings = {"log": lambda *_: None, "opsets": dict(opsets), "verbose": 0, "new_ops": None}
    with np.errstate(all="ignore"):  # shape arithmetic divides and takes logarithms of what it does not use
        made = implementation(node, settings).run(*(feeds[name] if name else None for name in node.input))
    if any(isinstance(value, list) for value in made):
        raise NotImplementedError(f"{node.op_type} makes a sequence")
    return [np.asarray(value) for value, name in zip(made, node.output, strict=False) if name]


@cache
def find(domain: str, op_type: str, version: int) -> Any:
    """The class that computes an op. Raises NotImplementedError where there is none, or it is written in other ops."""
    found = load_op("" if domain == "ai.onnx" else domain, op_type, version)
    if not issubclass(found, OpRun) or issubclass(found, OpFunction):
        raise NotImplementedError(op_type)
    return found
