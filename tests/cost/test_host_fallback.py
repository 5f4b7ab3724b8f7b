"""What needs a host, and where to cut the graph."""

import numpy as np

from onnxsparse import Model
from onnxsparse.cost.estimate import deploy
from tests.bodies import loop_model
from tests.graphs import chain, model, node


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
        found = deploy(loop_model(None)).tail
        assert found is not None
        assert (found.causes, found.nodes) == (("y",), ("y",))
        assert [(c.tensor, c.node, c.bytes) for c in found.crossings] == [("n", None, 8), ("x", None, 4 * 8)]

    def test_a_model_without_one(self) -> None:
        assert deploy(Model.from_proto(chain(3, 8, 4))).tail is None
