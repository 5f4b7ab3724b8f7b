"""The curve of SQNR and latency over sets of wide layers, and what wide tensors cost."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from onnxsparse import Model, ParamError, Quantize
from onnxsparse.calibration.methods import Range
from onnxsparse.cost.estimate import deploy
from onnxsparse.cost.registry import predicting_backend
from onnxsparse.pipeline.base import StepReport
from onnxsparse.quantization.accuracy.mixed_precision import Candidate, wide_set
from onnxsparse.quantization.accuracy.output_noise import Tensor
from onnxsparse.quantization.accuracy.wide_cost import WideCost
from onnxsparse.quantization.plan.placement import place
from onnxsparse.quantization.plan.scales import Choices
from onnxsparse.quantization.plan.target import load_target
from onnxsparse.quantization.write.qdq import write_integers
from tests.commands import Run
from tests.quantization.int8_models import joined, quantize, residual, samples, silu


@pytest.mark.parametrize("graph", [residual, silu, joined])
def test_predicted_latencies_are_those_of_the_written_model(graph: "object") -> None:
    """With nothing, everything, all activations, and all weights wide."""
    built = Model.from_proto(graph())  # type: ignore[operator]  # a function
    placement = place(built, load_target("cv22"), {})
    values = [Candidate((Tensor(root, False, 0, np.zeros(1)),), 0) for root in placement.sources]
    names = {weight.stored.name for unit in placement.units for weight in unit.weights}
    weights = [Candidate((Tensor(name, True, 0, np.zeros(1)),), 0) for name in sorted(names)]
    cost = WideCost.of(placement, predicting_backend("cv22", "quantize"))
    ranges = dict.fromkeys(placement.calibrated, Range(-4.0, 4.0))
    for wide in ([], values + weights, values, weights):
        tensors = [tensor for each in wide for tensor in each.tensors]
        choices = Choices(
            ranges,
            wide_values=frozenset(t.name for t in tensors if not t.is_weight),
            wide_weights={t.name: 16 for t in tensors if t.is_weight},
        )
        written = deploy(write_integers(placement, choices).model, "cv22").latency_ms
        assert cost.latency_ms(wide) == pytest.approx(written, rel=1e-6)
    assert all(each.added_ms >= 0 for each in cost.priced(values + weights))
    assert sum(each.added_ms for each in cost.priced(weights)) > 0


def test_of_two_that_help_alike_the_cheaper_one_is_chosen() -> None:
    costs = (2.0, 0.0, 1.0)
    choices = [Candidate((Tensor(str(at), False, at, np.array([1.0])),), at, added_ms=ms) for at, ms in enumerate(costs)]
    assert [each.owner for each in wide_set(choices, 1.5)] == [1, 2]
    assert [each.owner for each in wide_set(choices, 2.5, count=1)] == [0]


def text(report: StepReport, path: Path) -> str:
    """What the report writes into a file."""
    file = BytesIO()
    report.artifacts[path](file)
    return file.getvalue().decode()


def test_the_curve_goes_from_nothing_wide_to_everything(tmp_path: Path) -> None:
    plain, data = Model.from_proto(residual()), samples(20)
    for target in ("cv22", "onnxruntime-x86"):
        _, report = quantize(plain.copy(), data, target=target, precision_curve=tmp_path / "c.json")
        found = json.loads(text(report, tmp_path / "c.json"))
        points = found["points"]
        assert [point["ops"] for point in points][:4] == [0, 1, 2, 4]
        assert points[0]["tensors"] == [] and found["target"] == target
        assert points[-1]["identical"] or points[-1]["sqnr_db"] > points[0]["sqnr_db"] + 20
        assert len(report.tables[0].rows) == len(points)
        latencies = [point["latency_ms"] for point in points]
        assert latencies == sorted(latencies) if target == "cv22" else set(latencies) == {None}


def test_the_page_opens_offline(tmp_path: Path) -> None:
    _, report = quantize(Model.from_proto(residual()), samples(20), precision_curve=tmp_path / "c.html")
    page = text(report, tmp_path / "c.html")
    assert "latency_ms" in page and "<script src=" not in page


def test_what_cannot_be_judged_or_written_is_refused(run: Run, source: Path, tmp_path: Path) -> None:
    options = ("--data", source, "--precision-curve", tmp_path / "c.png")
    assert "c.png: give a name that ends in .json or .html" in run.fails(2, "quantize", source, tmp_path / "o.onnx", *options)
    with pytest.raises(ParamError, match="--precision-curve judges"):
        Quantize(precision_curve=tmp_path / "c.json").run(Model.from_proto(residual()), samples(1))
