"""The models that onnx generates for its own tests of single ops."""

import onnx.backend.test.case.node as node_cases
import pytest

from onnxsparse import Model, layers


# onnx divides by zero on purpose where it generates its cases
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_model_of_one_op_has_layers() -> None:
    cases = {case.name: case.model for case in node_cases.collect_testcases(None) if case.model is not None}
    assert len(cases) > 1800
    assert "test_if_opt" in cases
    for name, built in cases.items():
        try:
            layers(Model.from_proto(built))
        except Exception as error:
            error.add_note(name)
            raise
