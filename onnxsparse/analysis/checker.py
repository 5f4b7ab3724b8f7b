"""The check of a model that runs after every pass."""

from collections import Counter

import onnx

from onnxsparse.analysis.recorded_shapes import weightless
from onnxsparse.ir.functions import inlined
from onnxsparse.ir.model import Model


def first_fault(model: Model) -> str | None:
    """The first error in a model; None if it is valid.

    Checked are: value names that are unique, and onnx's checker over the inlined model without bulk weights. Raises ModelError
    for calls that cannot be inlined.
    """
    made = Counter(name for node in model.proto.graph.node for name in node.output if name)
    twice = [name for name, count in made.items() if count > 1]
    if twice:
        return f"value '{twice[0]}' is produced by {made[twice[0]]} nodes"
    try:
        onnx.checker.check_model(weightless(inlined(model.proto), model.weights))
    except onnx.checker.ValidationError as error:
        return str(error).strip().splitlines()[0]
    return None
