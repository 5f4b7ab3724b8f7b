"""What holds of a sound model, checked after every pass."""

from collections import Counter

import onnx

from onnxsparse.analysis.recorded_shapes import weightless
from onnxsparse.ir.functions import inlined
from onnxsparse.ir.model import Model


def first_fault(model: Model) -> str | None:
    """What is wrong with a model, None if nothing: onnx's checker over the model without weights, and unique value names."""
    made = Counter(name for node in model.proto.graph.node for name in node.output if name)
    twice = [name for name, count in made.items() if count > 1]
    if twice:
        return f"value '{twice[0]}' is made by {made[twice[0]]} nodes"
    try:
        onnx.checker.check_model(weightless(inlined(model.proto), model.weights))
    except onnx.checker.ValidationError as error:
        return str(error).strip().splitlines()[0]
    return None
