"""The deployment report: other backends, the tail, fits to measurements, files for people and machines, limits."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from playwright.sync_api import Page, sync_playwright

from onnxsparse import Model, ParamError
from onnxsparse.cost import registry as targets
from onnxsparse.cost.backends.base import EIGHT_BIT, Bound, LayerCost, Precision
from onnxsparse.cost.backends.hardware import load_hardware, with_value
from onnxsparse.cost.backends.layer_model import make_backend
from onnxsparse.cost.backends.work import WorkItem
from onnxsparse.cost.estimate import Deployment, deploy
from onnxsparse.cost.fit import Measured, fit
from onnxsparse.cost.profiler import kernel_times
from onnxsparse.cost.report.html import html
from onnxsparse.cost.report.records import exceeded
from onnxsparse.cost.report.tables import layers_csv
from onnxsparse.cost.sparsity_sweep import curves
from onnxsparse.cost.workload import workload
from sample_models.build import LARGE, SMALL, build
from tests.commands import Run, files
from tests.graphs import FLOAT, chain, model, node, proto
from tests.test_backends import item
from tests.test_netron import CHROMIUM, FLAGS, needs_browser

TEN_LINES = """
format = 1
kind = "roofline"
name = "mine"
supported_ops = ["Conv", "Relu"]
fps_budget = 30
[numbers]
peak_gmac_per_s = 100
bandwidth_gb_per_s = 2
on_chip_mb = 0.5
channel_alignment = 16
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.toml").write_text(TEN_LINES)
    return tmp_path / "mine.toml"


class TestRoofline:
    def test_by_hand(self, mine: Path) -> None:
        """80 channels are 5 groups of 16: 100 MMACs at 100 GMAC/s are 1 ms; 1 MB in, 200 kB out on chip: 1.001 MB at 2 GB/s."""
        backend = make_backend(load_hardware(mine))
        cost = backend.cost(item(macs=100_000_000, input_elements=1_000_000, output_elements=200_000, op_types=("Conv",)))
        assert cost is not None
        assert cost.compute_ms == pytest.approx(1.0)
        assert cost.io_ms == pytest.approx(1_001_000 / 2e6)
        assert (cost.padded_channels, cost.passes, cost.dram_bytes) == (0, 1, 1_001_000)
        assert cost.bound is Bound.SKIP_LIMIT  # half of the weights are zero, and none is skipped

    def test_channels_are_filled_up(self, mine: Path) -> None:
        backend = make_backend(load_hardware(mine))
        cost = backend.cost(item(macs=100_000_000, output_channels=20, groups=2, op_types=("Conv",)))
        assert cost is not None
        assert cost.compute_ms == pytest.approx(1.6)  # 32 instead of 20
        assert cost.padded_channels == 24

    def test_an_op_that_the_part_lacks_is_left_out_and_said(self, mine: Path) -> None:
        nodes = [node("Conv", "x w", "a"), node("Softmax", "a", "y")]
        found = deploy(model(nodes, {"x": "1x3x8x8"}, ["y"], {"w": "8x3x1x1"}), mine)
        assert [(row.item.node, row.reason) for row in found.unknown] == [("y", "the target's supported ops have no Softmax")]
        assert found.fps_budget == 30

    def test_a_part_of_ones_own_on_the_command_line(self, run: Run, source: Path, mine: Path) -> None:
        assert run("report", source, "--hardware", mine) == 0
        assert run.out.splitlines()[:2] == ["in.onnx on mine", "  a roofline is a bound: no layer is faster, most are slower"]
        assert "two targets" in run.fails(2, "report", source, "--hardware", mine, "--backend", "cv22-stream")

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("peak_gmac_per_s = 100", "peak = 100", "numbers.peak: Unexpected keyword argument"),
            ("peak_gmac_per_s = 100", "", "numbers.peak_gmac_per_s: Field required"),
            ("peak_gmac_per_s = 100", "peak_gmac_per_s = 0", "numbers.peak_gmac_per_s: must be above 0"),
            ("bandwidth_gb_per_s = 2", "bandwidth_gb_per_s = 0", "numbers.bandwidth_gb_per_s: must be above 0"),
            ("peak_gmac_per_s = 100", 'peak_gmac_per_s = "100 GHz"', "numbers.peak_gmac_per_s"),
            ("fps_budget = 30", "fps_budget = -1", "fps_budget: Input should be greater than 0"),
            ('kind = "roofline"', 'kind = "flat"', "kind: Input should be 'layer-model' or 'roofline'"),
        ],
    )
    def test_a_wrong_file_is_refused_by_name(self, mine: Path, old: str, new: str, message: str) -> None:
        mine.write_text(TEN_LINES.replace(old, new))
        with pytest.raises(ParamError, match=message):
            load_hardware(mine)


@dataclass(frozen=True)
class Constant:
    """A third party's backend: every layer takes a millisecond."""

    precision: Precision
    name: str = "constant"
    description: str = "a millisecond each"
    fidelity: tuple[str, ...] = ("made up",)

    def cost(self, work: WorkItem) -> LayerCost | None:
        return LayerCost(1.0, 1.0, 0.0, 0.0, Bound.COMPUTE, 0, 0, 0, 1, 0)


class TestOtherBackends:
    def test_third_parties_come_through_an_entry_point(self, run: Run, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        point = EntryPoint("constant", "tests.test_report:Constant", targets.GROUP)
        monkeypatch.setattr(targets, "third_parties", lambda: {"constant": point})
        assert run("report", source, "--backend", "constant", "--json", "-") == 0
        assert json.loads(run.out)["totals"]["latency_ms"] == 3.0
        assert "it has no curve" in run.fails(2, "report", source, "--backend", "constant", "--curve")

    def test_onnxruntime_measures_every_layer(self, run: Run, source: Path) -> None:
        assert run("report", source, "--backend", "onnxruntime-cpu", "--json", "-") == 0
        found = json.loads(run.out)
        assert all(layer["latency_ms"] > 0 for layer in found["layers"])
        assert found["totals"]["latency_ms"] == pytest.approx(sum(r["latency_ms"] for r in found["layers"]) + found["other_ms"])
        assert {layer["bound"] for layer in found["layers"]} == {"measured"}

    def test_kernel_times_are_medians_over_runs_after_the_warm_up(self) -> None:
        events: list[dict[str, object]] = []
        for run_number, microseconds in enumerate([900, 900, 10, 30, 20]):
            start = run_number * 1000
            events.append({"name": "a_kernel_time", "cat": "Node", "ts": start, "dur": microseconds})
            events.append({"name": "model_run", "cat": "Session", "ts": start, "dur": 950})
        assert kernel_times(events) == {"a": 0.02}


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


class TestFitting:
    @settings(max_examples=10, deadline=None)
    @given(st.floats(235, 315), st.floats(8.6, 11.9), st.floats(6, 48))
    def test_known_numbers_are_recovered(self, rate: float, bandwidth: float, overhead: float) -> None:
        start = make_backend(load_hardware("cv22"))
        truth = {"rate_gmac_per_s": rate, "bandwidth_gb_per_s": bandwidth, "overhead_us": overhead}
        found = fit(start, rows_of(truth), tuple(truth))
        for name, value in truth.items():
            assert found.values[name] == pytest.approx(value, rel=1e-3)
        assert found.left_out_ms is not None
        assert found.left_out_error < 1e-3
        assert not found.warnings

    def test_three_rows_are_enough_to_leave_one_out(self) -> None:
        """Two rows leave three numbers open, so the row left out is missed, though all three together are met."""
        truth = {"rate_gmac_per_s": 300.0, "bandwidth_gb_per_s": 9.0, "overhead_us": 35.0}
        found = fit(make_backend(load_hardware("cv22")), rows_of(truth)[:3], tuple(truth))
        assert found.fitted_ms == pytest.approx([row.latency_ms for row in found.rows], rel=1e-3)
        assert found.left_out_ms is not None
        assert found.left_out_error > 1e-3
        assert any("fewer rows than numbers" in text for text in found.warnings)

    def test_rows_that_cannot_be_costed(self, run: Run, source: Path, tmp_path: Path) -> None:
        onnx.save(proto([node("Conv", "x w", "y")], {"x": "1x3xHxW"}, ["y"], {"w": "4x3x3x3"}), tmp_path / "open.onnx")
        onnx.save(
            proto([node("Conv", "x w", "y"), node("Mystery", "y", "z")], {"x": "1x3x8x8"}, ["z"], {"w": "4x3x3x3"}),
            tmp_path / "odd.onnx",
        )
        arguments = ("calibrate-backend", tmp_path / "m.csv", "--out", tmp_path / "o.toml", "--free", "overhead_us")
        (tmp_path / "m.csv").write_text("model,latency_ms\nopen.onnx,3\n")
        assert "open.onnx: no layer has a cost on cv22" in run.fails(2, *arguments)
        (tmp_path / "m.csv").write_text("model,latency_ms\nodd.onnx,0.03\n")
        assert run(*arguments) == 0
        assert "odd.onnx: 1 of 2 layers have no cost" in run.out

    def test_numbers_that_move_together_are_named(self) -> None:
        """Layers that are all compute-bound say nothing of the bandwidth, and little of a small overhead."""
        start = make_backend(load_hardware("cv22"))
        heavy = Model.from_proto(chain(64, 512, 512))
        rows = [Measured(str(i), workload(heavy), 1.0) for i in range(3)]
        found = fit(start, rows, ("rate_gmac_per_s", "on_chip_mb"))
        assert any("on_chip_mb changes none of these measurements" in text for text in found.warnings)

    def test_too_few_rows(self, run: Run, source: Path, tmp_path: Path) -> None:
        (tmp_path / "m.csv").write_text(f"model,latency_ms\n{source.name},3\n")
        message = run.fails(2, "calibrate-backend", tmp_path / "m.csv", "--out", tmp_path / "o.toml")
        assert "1 measurements cannot determine 3 numbers" in message
        assert not (tmp_path / "o.toml").exists()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("file,ms\na.onnx,3\n", "needs the columns model and latency_ms; it has file, ms"),
            ("model,latency_ms\na.onnx,fast\n", "line 2: latency_ms is 'fast'"),
            ("model,latency_ms\na.onnx,-3\n", "line 2: latency_ms is -3"),
        ],
    )
    def test_wrong_tables(self, run: Run, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "m.csv").write_text(text)
        assert message in run.fails(2, "calibrate-backend", tmp_path / "m.csv", "--out", tmp_path / "o.toml")

    def test_a_number_without_a_range_cannot_be_fitted(self, run: Run, source: Path, tmp_path: Path) -> None:
        (tmp_path / "m.csv").write_text(f"model,latency_ms\n{source.name},3\n")
        arguments = ("calibrate-backend", tmp_path / "m.csv", "--out", tmp_path / "o.toml", "--free", "skip_limit")
        assert "has no range for it" in run.fails(2, *arguments)

    def test_the_command_writes_a_target_that_loads(self, run: Run, tmp_path: Path) -> None:
        lines = ["model,latency_ms"]
        for width in (64, 128, 256, 512):
            onnx.save(chain(width, width, width), tmp_path / f"{width}.onnx")
            lines.append(f"{width}.onnx,{0.05 + width * width / 4e6}")
        (tmp_path / "m.csv").write_text("\n".join(lines))
        assert run("calibrate-backend", tmp_path / "m.csv", "--out", tmp_path / "o.toml") == 0
        assert "leave-one-out error" in run.out
        found = load_hardware(tmp_path / "o.toml")
        assert found.numbers.rate_gmac_per_s.status == "calibrated"
        assert found.fidelity[0].startswith("calibrated on 4 measurements of m.csv, leave-one-out error")


def rows_of(truth: dict[str, float]) -> list[Measured]:
    """Synthetic measurements on a part with these numbers."""
    hardware = load_hardware("cv22")
    for name, value in truth.items():
        hardware = with_value(hardware, name, value)
    backend = make_backend(hardware, EIGHT_BIT)
    models = [build(SMALL), build(LARGE), chain(8, 8, 8, 8, 8, 8, 8), chain(64, 512, 512), chain(512, 512, 16, 512)]
    loads = [workload(Model.from_proto(proto)) for proto in models]
    costs = [[backend.cost(work) for work in load.items] for load in loads]
    return [
        Measured(str(i), load, sum(c.latency_ms for c in row if c))
        for i, (load, row) in enumerate(zip(loads, costs, strict=True))
    ]


@pytest.fixture
def detector() -> Deployment:
    return deploy(Model.from_proto(build(SMALL)))


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


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(page: Page, tmp_path: Path, detector: Deployment, width: int) -> None:
    """Opens offline, draws a bar per layer, sorts, filters, and its table sums to the tile."""
    text = html(detector, "small.onnx", curves(detector.load, detector.backend))
    assert len(text) < 5_000_000
    (tmp_path / "r.html").write_text(text)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else complaints.append(request.url))
    page.set_viewport_size({"width": width, "height": 900})
    page.goto((tmp_path / "r.html").as_uri())
    page.wait_for_selector("#figure-knee svg")
    assert page.locator("#figure-latency svg .mark-rect path").count() == len(detector.rows)
    cells = page.locator("td[data-column=latency_ms]")
    shown = [float(value) for value in cells.evaluate_all("cells => cells.map(c => c.dataset.value)")]
    assert shown == sorted(shown, reverse=True)
    assert sum(shown) == pytest.approx(float(page.locator("#total-latency_ms").inner_text()), abs=1e-3)
    page.locator("th[data-column=node] button").click()
    names = page.locator("td[data-column=node]").all_inner_texts()
    assert names == sorted(names, reverse=True)
    page.locator("#filter").fill("stage2")
    assert all("stage2" in name for name in page.locator("td[data-column=node]").all_inner_texts())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut_off = "[...document.querySelectorAll('.figure')].filter(f => f.scrollWidth > f.clientWidth).map(f => f.id)"
    assert page.evaluate(cut_off) == []
    assert not complaints


@needs_browser
def test_measured_time_of_no_layer_is_in_the_sum_below_the_tile(page: Page, tmp_path: Path, detector: Deployment) -> None:
    (tmp_path / "r.html").write_text(html(replace(detector, other_ms=1.0), "small.onnx", ()))
    page.goto((tmp_path / "r.html").as_uri())
    assert page.locator("#sum").inner_text().endswith(f" {page.locator('#total-latency_ms').inner_text()} ms")
