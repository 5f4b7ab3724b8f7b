"""What needs a host, and where to cut the graph."""

import numpy as np
import onnx
from onnx import helper

from onnxsparse import Model
from onnxsparse.cost.estimate import deploy
from tests.graphs import FLOAT, chain, model, node


class TestTheTail:
    def test_what_needs_a_host_is_named_and_where_to_cut(self) -> None:
        nodes = [
            node("Conv", "x w", "a", name="conv"),
            node("Flatten", "a", "f"),
            node("TopK", "f k", "v i", name="best"),
            node("Relu", "v", "y", name="after"),
        ]
        found = deploy(model(nodes, {"x": "1x3x8x8"}, ["y"], {"w": "8x3x1x1", "k": np.array([5], np.int64)}))
        assert found.tail is not None
        assert (found.tail.causes, found.tail.nodes) == (("best",), ("best", "after"))
        assert [(c.node, c.bytes) for c in found.tail.crossings] == [("conv", 8 * 64)]
        assert [(row.item.node, row.reason) for row in found.unknown] == [("best", "needs a host")]

    def test_a_loop_needs_a_host(self) -> None:
        condition = helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])
        state = helper.make_tensor_value_info("s", FLOAT, [4, 8])
        trip = helper.make_tensor_value_info("t", onnx.TensorProto.INT64, [])
        out = helper.make_tensor_value_info("o", FLOAT, [4, 8])
        kept = helper.make_tensor_value_info("k", onnx.TensorProto.BOOL, [])
        inner = [helper.make_node("Relu", ["s"], ["o"]), helper.make_node("Identity", ["c"], ["k"])]
        body = helper.make_graph(inner, "body", [trip, condition, state], [kept, out])
        built = model([node("Loop", "n  x", "y", body=body)], {"x": "4x8", "n": ("", onnx.TensorProto.INT64)}, ["y"], {})
        found = deploy(built).tail
        assert found is not None
        assert [c.node for c in found.crossings if c.tensor == "x"] == [None]

    def test_a_model_without_one(self) -> None:
        assert deploy(Model.from_proto(chain(3, 8, 4))).tail is None
