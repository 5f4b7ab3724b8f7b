"""Pruning towards a share of the operations, where those of some layers are unknown."""

import json
from pathlib import Path

import onnx
import pytest

from onnxsparse import Model, Prune
from tests.analysis.test_completeness import ACME, custom_nms, hidden_sizes
from tests.commands import Run
from tests.graphs import node, proto, weight


@pytest.fixture
def hidden(tmp_path: Path) -> Path:
    onnx.save(hidden_sizes(), tmp_path / "hidden.onnx")
    return tmp_path / "hidden.onnx"


class TestPrune:
    def test_a_share_of_unknown_operations_is_refused(self, run: Run, hidden: Path, tmp_path: Path) -> None:
        message = run.fails(2, "prune", hidden, tmp_path / "o.onnx", "--sparsity-op", 0.5)
        assert "the operations of 1 of 2 layers with weights of hidden.onnx are unknown (c)" in message
        assert "--partial" in message
        assert run("prune", hidden, tmp_path / "o.onnx", "--sparsity", 0.5, "--no-compare") == 0

    def test_partial_says_of_how_much(self, run: Run, hidden: Path, tmp_path: Path) -> None:
        """216 of 1368 weights are 16 %."""
        record = tmp_path / "r.json"
        options = ("--sparsity-op", 0.5, "--partial", "--no-compare", "--record", record)
        assert run("prune", hidden, tmp_path / "o.onnx", *options) == 0
        assert "sparsity_op is 50.00 % of what is known: the operations of 16 % of the weights; those of 1 layer" in run.out
        found = json.loads(record.read_text())
        assert (found["complete"], found["steps"][0]["after"]["complete"]) == (False, False)

    def test_unknown_ops_without_weights_do_not_stop_it(self) -> None:
        built = Model.from_proto(custom_nms())
        report = Prune(sparsity_op=0.5).run(built)
        assert report.changes
        assert report.after is not None
        assert not report.after.complete

    def test_n_of_m_needs_no_operations(self) -> None:
        """Both convolutions are pruned: 8 and 16 outputs; of the first, 3 inputs are no multiple of 4."""
        report = Prune(pattern="2:4", protect="none").run(Model.from_proto(hidden_sizes()))
        assert [change.nodes for change in report.changes] == [("c",)]

    def test_an_unknown_op_with_a_matrix_is_a_layer_with_weights(self, run: Run, tmp_path: Path) -> None:
        nodes = [node("MatMul", "x v", "a"), node("Dense", "a w", "y", domain="acme")]
        built = proto(nodes, {"x": "4x8"}, ["y"], {"v": "8x8", "w": weight("8x24")}, domains=ACME)
        onnx.save(built, tmp_path / "m.onnx")
        assert "1 of 2 layers with weights" in run.fails(2, "prune", tmp_path / "m.onnx", tmp_path / "o.onnx")
        assert run("prune", tmp_path / "m.onnx", tmp_path / "o.onnx", "--partial", "--no-compare") == 0
        assert "the operations of 25 % of the weights" in run.out  # 64 of 256

    def test_channels_to_a_share_of_unknown_operations(self, run: Run, hidden: Path, tmp_path: Path) -> None:
        for target in ("--macs", "--sparsity-op"):
            message = run.fails(2, "prune-channels", hidden, tmp_path / "o.onnx", target, 0.5)
            assert "the operations of 1 of 2 layers with weights of hidden.onnx are unknown (c)" in message
        assert run("prune-channels", hidden, "--plan", "--ratio", 0.5, "--json", tmp_path / "p.json") == 0
        assert json.loads((tmp_path / "p.json").read_text())["complete"] is False
