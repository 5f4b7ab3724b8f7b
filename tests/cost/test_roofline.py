"""The roofline backend and others: files of one's own, entry points, measuring with onnxruntime."""

import json
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from onnxsparse import ParamError
from onnxsparse.cost import registry as targets
from onnxsparse.cost.backends.base import Bound, LayerCost, Precision
from onnxsparse.cost.backends.hardware import load_hardware
from onnxsparse.cost.backends.layer_model import make_backend
from onnxsparse.cost.backends.work import WorkItem
from onnxsparse.cost.estimate import deploy
from onnxsparse.cost.profiler import kernel_times
from tests.commands import Run
from tests.cost.test_backends import item
from tests.graphs import model, node

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
        point = EntryPoint("constant", "tests.cost.test_roofline:Constant", targets.GROUP)
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
