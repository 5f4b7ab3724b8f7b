"""fix-shapes writes the sizes of a binding into the file."""

import onnx
import pytest
from onnx import TensorProto

from onnxsparse import FixShapes, Model, PassError, Pipeline
from onnxsparse.pipeline.learning import Judging
from tests.graphs import model, node, proto, value


class TestFixShapes:
    def test_sizes_stand_in_the_file(self) -> None:
        nodes = [node("Conv", "x w", "h"), node("Relu", "h", "y")]
        built = proto(nodes, {"x": "Nx3xHxW"}, ["y"], {"w": "4x3x3x3"}, value_info=[value("h", "Nx4xAxB")])
        fixed = Model.from_proto(built).bind(["x:2,3,8,10"])
        FixShapes().run(fixed)
        graph = onnx.ModelProto.FromString(fixed.to_bytes()).graph
        shapes = {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.input, *graph.output, *graph.value_info)
        }
        assert shapes == {"x": [2, 3, 8, 10], "y": [2, 4, 6, 8], "h": [2, 4, 6, 8]}
        onnx.checker.check_model(fixed.to_bytes(), full_check=True)

    def test_open_sizes_are_an_error(self) -> None:
        built = model([node("Relu", "x", "y")], {"x": "Nx3xHxW"})
        with pytest.raises(PassError, match=r"still has open sizes \(x: 1x3x\?x\?\)"):
            FixShapes().run(built)

    def test_fixed_sizes_stay(self) -> None:
        built = model([node("Relu", "x", "y")], {"x": "2x3"})
        before = built.to_bytes()
        assert FixShapes().run(built).notes == ["every input size was fixed already"]
        assert built.to_bytes() == before

    def test_a_model_that_cannot_work_at_these_sizes_is_refused(self) -> None:
        """The branch that never runs adds what does not fit once sizes are fixed."""
        small = onnx.helper.make_graph([node("Relu", "x", "t")], "a", [], [value("t", None)])
        wrong = onnx.helper.make_graph([node("MatMul", "x w", "e")], "b", [], [value("e", None)])
        branch = node("If", "c", "y", then_branch=small, else_branch=wrong)
        built = model([branch], {"x": "NxM", "c": ("", TensorProto.BOOL)}, ["y"], {"w": "7x7"}).bind(["x:2,8"])
        with pytest.raises(PassError, match="no longer loads"):
            Pipeline([FixShapes()]).run(built, Judging())
