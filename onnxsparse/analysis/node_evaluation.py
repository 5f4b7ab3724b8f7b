"""Evaluation of one node by onnx's reference implementation, for the few small values that analysis needs."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx.reference.op_run import OpFunction, OpRun
from onnx.reference.ops._op_list import load_op

from onnxsparse.ir.protos import STANDARD_DOMAINS
from onnxsparse.ir.weights import Array
from onnxsparse.ops.sizes import UnknownFact


def evaluate_node(node: onnx.NodeProto, feeds: Mapping[str, Array], opsets: Mapping[str, int]) -> list[Array]:
    """The outputs of a node for `feeds` (input name → array). `opsets`: domain → version.

    Raises UnknownFact if there is no implementation, or it refuses the inputs, or the result is a sequence.
    """
    # ReferenceEvaluator on a model of one node takes five times as long, and shape arithmetic has thousands of nodes
    implementation = find(node.domain, node.op_type, opsets.get(node.domain, 1))
    settings = {"log": lambda *_: None, "opsets": dict(opsets), "verbose": 0, "new_ops": None}
    try:
        with np.errstate(all="ignore"):  # shape arithmetic divides by zero where the result is unused
            made = implementation(node, settings).run(*(feeds[name] if name else None for name in node.input))
    except Exception as error:  # the implementations are foreign code, which raises errors of any type
        raise UnknownFact(f"onnx's reference implementation of {node.op_type} refuses it: {error}") from None
    if any(isinstance(value, list) for value in made):
        raise UnknownFact(f"{node.op_type} produces a sequence")
    return [np.asarray(value) for value, name in zip(made, node.output, strict=False) if name]


@cache
def find(domain: str, op_type: str, version: int) -> Any:
    """The reference class of an op. Raises UnknownFact if there is none, or if it is a function of other ops."""
    try:
        found = load_op("" if domain in STANDARD_DOMAINS else domain, op_type, version)
    except Exception as error:  # as above
        raise UnknownFact(f"onnx has no reference implementation of {op_type}: {error}") from None
    if not issubclass(found, OpRun) or issubclass(found, OpFunction):
        raise UnknownFact(f"onnx's reference implementation of {op_type} is written in other ops")
    return found
