"""Raising a model's opset, and running it before and after."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxsparse import Model
from onnxsparse.analysis.checker import first_fault
from onnxsparse.analysis.opset_upgrade import raise_opset
from onnxsparse.ops.raising import RAISED_OPSET
from onnxsparse.runtime.session import Execution, runner
from tests.graphs import Array

DOUBLE, FLOAT16 = TensorProto.DOUBLE, TensorProto.FLOAT16


def feeds(built: Model) -> dict[str, Array]:
    """Values of each input's type; a symbolic size is 3."""
    rng = np.random.default_rng(5)
    found: dict[str, Array] = {}
    constants = {tensor.name for tensor in built.proto.graph.initializer}
    for given in built.proto.graph.input:
        if given.name in constants:
            continue
        kind = given.type.tensor_type
        shape = [d.dim_value or 3 for d in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        found[given.name] = (rng.standard_normal(shape) * 4).astype(dtype)
    return found


def run(built: Model, given: dict[str, Array]) -> dict[str, Array]:
    return runner(built, execution=Execution.NODE_BY_NODE).run(given)


def raised(built: Model, given: dict[str, Array] | None = None) -> Model:
    """The model in opset 13, which computes bit for bit what `built` does."""
    done = built.copy()
    assert raise_opset(done) is None
    assert done.opset() == RAISED_OPSET
    assert done.proto.ir_version == built.proto.ir_version
    assert first_fault(done) is None
    onnx.checker.check_model(onnx.load_from_string(done.to_bytes()), full_check=True)
    given = feeds(built) if given is None else given
    before, after = run(built, given), run(done, given)
    assert before.keys() == after.keys()
    for name, expected in before.items():
        assert expected.dtype == after[name].dtype, name
        assert expected.shape == after[name].shape, name
        assert expected.tobytes() == after[name].tobytes(), (name, expected, after[name])
    return done


X = {"x": "2x3x4x4"}
TWELVE = (11, 12)
TEN = (10, *TWELVE)
ALL = (7, 8, 9, *TEN)
