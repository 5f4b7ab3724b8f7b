"""The models that come with the project are what they are said to be."""

from pathlib import Path

import pytest

from onnxsparse import Model, Prune, layers, load
from sample_models.accuracy import accuracy
from sample_models.build import LARGE, SMALL, Widths, build

DIGITS = Path(__file__).parent.parent / "sample_models" / "digits.onnx"


@pytest.mark.parametrize(("widths", "weights", "gmacs"), [(SMALL, 5.4e6, 41.14), (LARGE, 22e6, 163.76)], ids=["small", "large"])
def test_the_detectors_meet_the_papers_figures_within_a_percent(widths: Widths, weights: float, gmacs: float) -> None:
    totals = layers(Model.from_proto(build(widths)), count=False).totals
    assert totals.weights == pytest.approx(weights, rel=0.01)
    assert totals.macs == pytest.approx(gmacs * 1e9, rel=0.01)


def test_the_detectors_are_built_alike_every_time() -> None:
    assert build(SMALL).SerializeToString() == build(SMALL).SerializeToString()


def test_the_papers_pruning_of_the_small_detector() -> None:
    """Every layer to 80 %: 8.2 of 40.8 GMACs stay (the paper: 8.23)."""
    small = Model.from_proto(build(SMALL))
    report = Prune(sparsity_op=0.8, scope="layer", protect="none").run(small)
    assert report.after is not None
    assert report.after.sparsity_op == pytest.approx(0.8, abs=1e-5)
    assert report.after.nonzero_macs == pytest.approx(8.23e9, rel=0.01)


def test_the_digits_classifier_reads_digits() -> None:
    assert accuracy(DIGITS) > 0.98


def test_the_default_score_keeps_more_digits_than_plain_magnitude(tmp_path: Path) -> None:
    kept = {}
    for name, options in (("default", {}), ("l1", {"score": "l1", "cost_exponent": 0, "protect": "none"})):
        model = load(DIGITS)
        Prune(sparsity_op=0.7, **options).run(model)  # type: ignore[arg-type]  # options come from the table above
        model.save(tmp_path / f"{name}.onnx")
        kept[name] = accuracy(tmp_path / f"{name}.onnx")
    assert kept["default"] > kept["l1"], kept
