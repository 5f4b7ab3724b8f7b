"""The report command: its files, limits and totals."""

import csv
import json
from pathlib import Path

import onnx
import pytest

from onnxsparse.cost.estimate import Deployment, deploy
from onnxsparse.cost.report.records import exceeded
from onnxsparse.cost.report.tables import layers_csv
from tests.commands import Run, files
from tests.graphs import chain, model, node


class TestTheFiles:
    def test_the_csvs_rows_sum_to_the_total(self, detector: Deployment) -> None:
        rows = list(csv.DictReader(layers_csv(detector).splitlines()))
        assert sum(float(row["latency_ms"]) for row in rows) == pytest.approx(detector.latency_ms)

    def test_sixteen_bits_from_the_command_line(self, run: Run, source: Path) -> None:
        found = []
        for bits in (8, 16):
            assert run("report", source, "--activation-bits", bits, "--coefficient-bits", bits, "--json", "-") == 0
            found.append(json.loads(run.out)["totals"])
        assert found[1]["mem_a_mb"] == 2 * found[0]["mem_a_mb"]
        assert found[1]["mem_p_mb"] == 2 * found[0]["mem_p_mb"]
        assert "should be 8 or 16 (got 12)" in run.fails(2, "report", source, "--activation-bits", 12)

    def test_all_at_once_or_none(self, run: Run, source: Path, tmp_path: Path) -> None:
        (tmp_path / "svg").mkdir()
        before = files(tmp_path)
        wanted = [
            "--json",
            tmp_path / "r.json",
            "--csv",
            tmp_path / "r.csv",
            "--markdown",
            tmp_path / "r.md",
            "--html",
            tmp_path / "r.html",
        ]
        assert "does not exist" in run.fails(2, "report", source, *wanted, "--curve-csv", tmp_path / "no" / "c.csv")
        assert files(tmp_path) == before
        assert run("report", source, *wanted, "--svg", tmp_path / "svg") == 0
        assert {"r.json", "r.csv", "r.md", "r.html"} <= set(files(tmp_path))
        assert {"latency.svg", "roofline.svg", "memory.svg", "knee.svg"} <= set(files(tmp_path / "svg"))
        assert "| latency_ms |" in (tmp_path / "r.md").read_text()
        for made in ("r.md", "r.html"):
            assert "no held-out point" in (tmp_path / made).read_text()
            assert "latency range over variants" in (tmp_path / made).read_text()
            assert "the measurement that would narrow it most: conv" in (tmp_path / made).read_text()

    def test_several_models_are_compared_with_the_first(self, run: Run, source: Path, tmp_path: Path) -> None:
        onnx.save(chain(3, 8, 32, 4), tmp_path / "wider.onnx")
        assert run("report", source, tmp_path / "wider.onnx", "--markdown", tmp_path / "c.md") == 0
        assert "wider.onnx" in run.out
        assert "no held-out point" in (tmp_path / "c.md").read_text()
        assert run("report", source, tmp_path / "wider.onnx", "--json", "-") == 0
        found = json.loads(run.out)
        first, second = (report["totals"]["macs"] for report in found["models"])
        assert found["differences"][0]["macs"] == second - first > 0
        assert "name one" in run.fails(2, "report", source, source, "--html", tmp_path / "r.html")

    def test_a_folder_of_models_on_two_cores(self, run: Run, source: Path, tmp_path: Path) -> None:
        (tmp_path / "models").mkdir()
        for width in (8, 16, 32):
            onnx.save(chain(3, width, 4), tmp_path / "models" / f"w{width:02d}.onnx")
        assert run("report", tmp_path / "models", "--jobs", "2", "--json", "-") == 0
        found = json.loads(run.out)
        assert [report["model"] for report in found["models"]] == ["w08.onnx", "w16.onnx", "w32.onnx"]
        assert run("report", tmp_path / "models", "--json", "-") == 0
        assert json.loads(run.out) == found
        line = run.fails(2, "report", tmp_path / "models", "--jobs", "2", "--target", "onnxruntime-cpu")
        assert "measures, so that models cannot run at the same time" in line
        (tmp_path / "empty").mkdir()
        assert "the folder holds no .onnx files" in run.fails(2, "report", tmp_path / "empty")

    def test_in_a_recipe(self, run: Run, source: Path, tmp_path: Path) -> None:
        recipe = (
            f"passes:\n  - prune: {{sparsity_op: 0.5}}\n  - report: {{html: {tmp_path}/r.html, fail_if: ['latency_ms>100']}}\n"
        )
        (tmp_path / "r.yaml").write_text(recipe)
        assert run("run", tmp_path / "r.yaml", source, tmp_path / "out.onnx") == 0
        assert (tmp_path / "r.html").exists()
        (tmp_path / "r.yaml").write_text(recipe.replace("ms>100", "ms>0"))
        assert "latency_ms is" in run.fails(1, "run", tmp_path / "r.yaml", source, tmp_path / "other.onnx")
        assert not (tmp_path / "other.onnx").exists()


class TestLimits:
    def test_a_limit_that_is_exceeded_fails(self, run: Run, source: Path) -> None:
        assert run("report", source, "--fail-if", "latency_ms>1000", "--fail-if", "fps<1") == 0
        assert run("report", source, "--fail-if", "latency_ms>0.001") == 1
        assert "in.onnx: latency_ms is" in run.err

    @pytest.mark.parametrize("limit", ["latency>35", "latency_ms=35", "latency_ms>fast", "latency_ms>"])
    def test_one_that_cannot_be_read(self, run: Run, source: Path, limit: str) -> None:
        assert "as in 'latency_ms>35'" in run.fails(2, "report", source, "--fail-if", limit)

    def test_an_unknown_total_fails(self) -> None:
        found = deploy(model([node("Conv", "x w", "y")], {"x": "1x3xHxW"}, ["y"], {"w": "4x3x3x3"}))
        for name in ("mem_a_mb", "latency_ms"):
            assert exceeded(found, [f"{name}>35"]) == [
                "the cost of 1 of 1 layers is unknown (open sizes)",
                "the MACs of 1 node are unknown (y)",
                f"{name} is unknown (--fail-if '{name}>35')",
                "give open sizes with --input-shape (x: 1x3x?x?), or name nodes that cost nothing with --assume-free",
            ]


def test_streams_in_turn_share_the_device(detector: Deployment) -> None:
    one, four = detector.at(5), detector.at(5, 4)
    assert one.busy == pytest.approx(detector.latency_ms * 5 / 1000)
    assert four.busy == pytest.approx(4 * one.busy)
    assert four.dram_mb_per_s == pytest.approx(20 * detector.dram_mb)


def test_one_measurement_narrows_the_range(detector: Deployment) -> None:
    assert detector.narrowing is not None
    assert detector.narrowing.node in {row.item.node for row in detector.rows}
    assert detector.narrowing.after_ms < detector.narrowing.before_ms


def test_the_timeline_peaks_at_mem_a(detector: Deployment) -> None:
    timeline = [elements for elements in detector.load.timeline() if elements is not None]
    assert max(timeline) / 1e6 == detector.mem_a_mb


def test_a_concatenation_of_what_was_made_for_it_moves_nothing() -> None:
    nodes = [node("Conv", "x v", "a"), node("Conv", "x w", "b"), node("Concat", "a b", "c", axis=1), node("Conv", "c u", "y")]
    built = model(nodes, {"x": "1x3x8x8"}, ["y"], {"v": "4x3x1x1", "w": "4x3x1x1", "u": "2x8x1x1"})
    costs = {row.item.node: row.cost for row in deploy(built).rows}
    assert costs["c"] is not None
    assert costs["c"].latency_ms == 0
