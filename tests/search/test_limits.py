"""Limits that a search keeps, and one line for what cannot be."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxsparse import BackendError, ParamError
from onnxsparse.cost.estimate import deploy_on
from onnxsparse.search import Effort, search
from onnxsparse.search.api import run_search
from onnxsparse.search.budgets import Budget
from onnxsparse.search.front import Front
from onnxsparse.search.subject import Subject
from tests.commands import Run
from tests.graphs import chain, node
from tests.search.conftest import MACS


class TestLimits:
    def test_several_budgets_are_kept_together(self, small: Subject, tmp_path: Path) -> None:
        load_of = deploy_on(small.load(), small.backend)
        budget = {"nonzero_macs": MACS / 2, "mem_p_mb": load_of.mem_p_mb * 0.4, "latency_ms": load_of.latency_ms * 1.2}
        found = search(small.model, small.data, tmp_path / "found", budget=budget, effort=Effort(trials=9, jobs=1))
        assert found.best is not None
        totals = found.best.outcome.totals
        assert (totals["nonzero_macs"] or 0) <= budget["nonzero_macs"]
        assert (totals["mem_p_mb"] or 0) <= budget["mem_p_mb"]

    def test_the_cheapest_model_within_a_drop(self, run: Run, small: Subject, tmp_path: Path) -> None:
        (tmp_path / "eval.py").write_text(METRIC)
        options = ("--metric", f"{tmp_path / 'eval.py'}:level", "--max-drop", "1.5", "--target", "roofline", "--trials", "9")
        assert run("search", small.model, "-o", tmp_path / "found", "--data", small.data, *options, "--jobs", "1") == 0, run.err
        found = json.loads((tmp_path / "found" / "search.json").read_text())
        best = next(point for point in found["points"] if point["number"] == found["best"])
        assert best["drop"] <= 1.5
        assert best["cost"] == min(point["cost"] for point in found["points"] if point["within"])
        assert any(point["drop"] > 1.5 for point in (*found["points"], *found["others"]))

    def test_nothing_meets_the_budget(self, run: Run, tmp_path: Path, small: Subject) -> None:
        (tmp_path / "eval.py").write_text(METRIC)
        options = ("--metric", f"{tmp_path / 'eval.py'}:level", "--max-drop", "-1", "--budget", f"nonzero_macs={MACS / 4}")
        done = ("search", small.model, "-o", tmp_path / "found", "--data", small.data, *options, "--trials", "9", "--jobs", "1")
        assert run(*done) == 1
        said = (
            r"nothing keeps the limits; of the nearest, point \d+, .*the drop of eval.py:level is .*, where at most -1 is allowed"
        )
        assert re.search(said, run.err), run.err

    def test_quantized_points(self, small: Subject, tmp_path: Path) -> None:
        effort = Effort(trials=9, jobs=1)
        found = search(small.model, small.data, tmp_path / "q", budget={"nonzero_macs": MACS / 4}, effort=effort, quantize=True)
        assert found.best is not None
        ops = {node.op_type for node in onnx.load(found.best.file).graph.node}
        assert "DequantizeLinear" in ops


METRIC = """
import numpy as np

def level(session, data):
    '''The power of the outputs, in dB.'''
    values = [session.run(None, feeds)[0] for feeds in data]
    return float(10 * np.log10(np.mean(np.square(values))))
"""


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--budget", "speed=3"], "'speed' is unknown; a budget has latency_ms, fps"),
            (["--budget", "latency=3"], "did you mean 'latency_ms'"),
            (["--budget", "latency_ms=-3"], "write it as latency_ms=NUMBER"),
            (["--budget", "latency_ms=3", "--budget", "fps=100"], "latency_ms is limited twice"),
            (["--budget", "nonzero_macs=10"], "out of reach on cv22; with one channel in every group"),
            (["--budget", "fps=1e9"], "--budget fps=1e+09: out of reach"),
            ([], "give a budget, as --budget latency_ms=35, or --metric and --max-drop"),
            (["--max-drop", "1"], "give --metric as well"),
            (["--budget", "latency_ms=1", "--target", "onnxruntime-cpu"], "measures models"),
            (
                ["--budget", f"nonzero_macs={MACS / 4}", "--jobs", "1", "--storage", "nothing"],
                "--storage nothing: it cannot be op",
            ),
            (["--budget", f"nonzero_macs={MACS / 4}", "--jobs", "1", "--storage", "sqlite:////no/x.db"], "unable to open"),
            (["--budget", "latency_ms=1", "--memory", "much"], "write it as 512MB"),
        ],
    )
    def test_of_options(self, run: Run, small: Subject, tmp_path: Path, options: list[str], message: str) -> None:
        line = run.fails(2, "search", small.model, "-o", tmp_path / "found", "--data", small.data, *options)
        assert message in line
        assert not (tmp_path / "found").exists()

    @pytest.mark.parametrize(
        ("body", "message"), [("raise ValueError('no such file')", "no such file"), ("return float('nan')", "nan")]
    )
    def test_of_a_metric(self, run: Run, small: Subject, tmp_path: Path, body: str, message: str) -> None:
        (tmp_path / "eval.py").write_text(f"def broken(session, data):\n    {body}\n")
        options = ("--metric", f"{tmp_path / 'eval.py'}:broken", "--budget", f"nonzero_macs={MACS / 4}")
        assert message in run.fails(2, "search", small.model, "-o", tmp_path / "found", "--data", small.data, *options)
        assert not (tmp_path / "found").exists()

    def test_of_a_scheduler_that_is_not_there(
        self, run: Run, small: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("onnxsparse.parallel.dask_cluster.CONNECT_SECONDS", 1)
        options = ("--budget", f"nonzero_macs={MACS / 4}", "--scheduler", "tcp://127.0.0.1:9")
        line = run.fails(2, "search", small.model, "-o", tmp_path / "found", "--data", small.data, *options)
        assert "no scheduler answers there" in line
        assert not (tmp_path / "found").exists()

    def test_of_a_folder(self, run: Run, ended: Front, copied: Subject, tmp_path: Path) -> None:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "notes.txt").touch()
        budget = ("--budget", f"nonzero_macs={MACS / 4}")
        line = run.fails(2, "search", copied.model, "-o", tmp_path / "full", "--data", copied.data, *budget)
        assert "not empty, and holds no search" in line
        other = ("--budget", f"nonzero_macs={MACS / 3}")
        line = run.fails(2, "search", copied.model, "-o", ended.folder, "--data", copied.data, *other)
        assert "it holds a search with other files, options or code" in line
        run.fails(2, "search", copied.model, "-o", tmp_path / "no" / "folder", "--data", copied.data, *budget)

    def test_of_one_sample(self, run: Run, copied: Subject, tmp_path: Path) -> None:
        np.save(tmp_path / "one.npy", np.zeros((1, 3, 8, 8), np.float32))
        budget = ("--budget", f"nonzero_macs={MACS / 4}")
        line = run.fails(2, "search", copied.model, "-o", tmp_path / "found", "--data", tmp_path / "one.npy", *budget)
        assert "holds one sample" in line

    def test_of_a_model_that_does_not_run(self, tmp_path: Path, copied: Subject) -> None:
        model = chain(3, 16, 24, 8)
        model.graph.node[1].op_type, model.graph.node[1].domain = "Own", "own"
        model.opset_import.append(onnx.helper.make_opsetid("own", 1))
        onnx.save(model, copied.model)
        with pytest.raises(BackendError, match="own:Own"):
            run_search(Subject(model=copied.model, data=copied.data, budgets=(Budget("latency_ms", 1),)), tmp_path / "found")

    def test_of_a_model_whose_cost_is_not_known_as_a_whole(self, tmp_path: Path, copied: Subject) -> None:
        model = chain(3, 16, 24, 8)
        distance = onnx.helper.make_node("CDist", ["flat", "flat"], ["z"], "own", domain="com.microsoft", metric="sqeuclidean")
        model.graph.node.extend([node("Flatten", "y", "flat"), distance])
        model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None))
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
        onnx.save(model, copied.model)
        subject = Subject(model=copied.model, data=copied.data, budgets=(Budget("latency_ms", 1),))
        with pytest.raises(
            ParamError, match=r"latency_ms_high of .* is not known as a whole on cv22: .*MACs of 1 node are unknown \(own\)"
        ):
            run_search(subject, tmp_path / "found")
        assert not (tmp_path / "found").exists()

    def test_without_the_extra(self, run: Run, small: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("onnxsparse.search.api.find_spec", lambda name: None if name == "optuna" else object())
        with pytest.raises(ParamError, match=r"search needs optuna: pip install 'onnxsparse\[search\]'"):
            run_search(small, tmp_path / "found")
