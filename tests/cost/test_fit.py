"""calibrate-backend fits the numbers of a target to measurements."""

from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsparse import Model
from onnxsparse.cost.backends.base import EIGHT_BIT
from onnxsparse.cost.backends.hardware import load_hardware, with_value
from onnxsparse.cost.backends.layer_model import make_backend
from onnxsparse.cost.fit import Measured, fit
from onnxsparse.cost.workload import workload
from sample_models.build import LARGE, SMALL, build
from tests.commands import Run
from tests.graphs import chain, node, proto


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
