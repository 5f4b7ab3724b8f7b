"""docs/paper.md is what `make paper` writes: checked on the parts that take no time, and on the criteria of the verdicts."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.paper import boxes, combined, definition, detector, iterative, linear, page, patterns, rows
from benchmarks.paper.detectors import PAPER, WAYS
from benchmarks.paper.fine_tuning import Tuned
from benchmarks.paper.section import Context, Section

PAGE = (Path(__file__).parents[2] / "docs" / "paper.md").read_text()


def test_sizes_on_the_page_are_those_of_the_files(tmp_path: Path) -> None:
    for cells in rows.sizes(Context(tmp_path)):
        assert f"| {' | '.join(cells)} |" in PAGE


def test_the_page_has_every_section_and_its_figures() -> None:
    assert PAGE.count("**Verdict: ") == len(page.SECTIONS)
    folder = Path(__file__).parents[2] / "docs"
    for line in PAGE.splitlines():
        if line.startswith("!["):
            assert (folder / line.partition("](")[2].rstrip(")")).exists()


def test_a_section_without_a_verdict_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "section", lambda _: Section("rows", "t", "c", "looks good", []))
    with pytest.raises(SystemExit, match="is no verdict"):
        page.made("rows", Context(tmp_path))


def test_a_line_its_fit_and_its_knee() -> None:
    """100 ms at 0, 10 ms less for each tenth up to 0.8, then 1 ms less for each."""
    points = [(i / 10, 100.0 - 10 * i) for i in range(9)] + [(0.9, 19.0)]
    found = linear.line(points, 0.7)
    assert found.slope == pytest.approx(-10)
    assert found.r2 == pytest.approx(1)
    assert found.knee == 0.8


def test_verdicts_come_out_either_way() -> None:
    straight, bent, skips = linear.Line(-10, 0.999, 0.8, 0.9), linear.Line(-10, 0.9, 0.3, 0.9), linear.Line(-10, 0.999, 0.8, 0.1)
    assert linear.verdict({"a": straight}) == "holds, under every variant"
    assert linear.verdict({"a": straight, "b": bent}).startswith("holds under variant a (not b: R² 0.900")
    assert linear.verdict({"a": straight, "b": skips}).startswith("holds under variant a (not b: R² 0.999, knee 80%, 10% of")
    assert linear.verdict({"b": bent}).startswith("differs, because")
    assert definition.verdict({"a": (0.5, 0.9)}).startswith("holds")
    assert definition.verdict({"a": (0.9, 0.9)}).startswith("differs, because")


@pytest.mark.parametrize(
    ("both", "ms", "said"),
    [
        (90.0, 30.0, "holds: both together keep the most accuracy and take at least 14% less time"),
        (
            84.0,
            30.0,
            "differs, because single zeros keep more accuracy on n at 50%; both together have at least the accuracy",
        ),
        (90.0, 36.0, "differs, because single zeros are as fast on cv22"),
    ],
)
def test_both_together_are_best_only_if_neither_is_more_accurate_alone(both: float, ms: float, said: str) -> None:
    row = combined.Row("n", 0.5, {}, {"single zeros": 85.0, "channels": 79.0, "both": both})
    costs = [
        combined.Cost(size, kind, 8.0, each, 3.0, 12.0, None)
        for size, least in (("small", ms), ("large", ms / 2))
        for kind, each in (("single zeros", 35.0), ("both", least))
    ]
    assert combined.verdict([row], costs).startswith(said)


@pytest.mark.parametrize(("latency", "said"), [(1.0, "holds under variant cv22"), (2.0, "differs, because")])
def test_rows_hold_if_every_column_is_near(latency: float, said: str) -> None:
    found = [
        rows.Result(
            size=size,
            magnitudes="trained",
            way=way,
            weights_m=paper.params_m,
            nonzeros_m=1.0,
            sparsity_op=paper.sparsity_op,
            gmacs_left=paper.gmacs_left,
            latency_ms={"cv22": latency * paper.latency_ms},
            mem_p_mb=paper.mem_p_mb,
            mem_p_span=(paper.mem_p_mb, paper.mem_p_mb),
            mem_a_mb=paper.mem_a_mb,
        )
        for size, paper in PAPER.items()
        for way in WAYS
    ]
    assert rows.verdict(found).startswith(said)


def test_the_pattern_pays_only_if_the_layers_that_gain_are_those_that_have_it() -> None:
    one, none = frozenset({"conv1"}), frozenset[str]()
    for conforming, faster, said in (
        (one, one, "holds on nvidia-a100"),
        (none, one, "differs, because layers gain without the pattern"),
        (one, none, "differs, because layers gain without the pattern"),
        (none, none, "differs, because no layer has the pattern"),
    ):
        assert patterns.verdict([patterns.Result("2:4", 0.5, conforming, faster, 2, 1.0, 1.0, "")]).startswith(said)


def test_boxes_of_one_face_are_one_and_agree_by_overlap() -> None:
    """The second box overlaps the first by 0.81, the third is elsewhere, the fourth has a low score."""
    corners = np.array([[0, 0, 10, 10], [1, 1, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]], np.float32)
    scores = np.array([[0.2, 0.8], [0.1, 0.9], [0.3, 0.7], [0.9, 0.1]], np.float32)
    found = boxes.decoded(scores, corners)
    assert found.tolist() == corners[[1, 2]].tolist()
    assert boxes.overlap(corners[:1], corners)[0].tolist() == pytest.approx([1, 0.81, 0, 0])
    assert boxes.f1([corners[[0, 2]]], [found]) == 1
    assert boxes.f1([corners[[0]]], [corners[[0, 1]]]) == pytest.approx(2 / 3)  # a box has one partner
    assert boxes.f1([corners[:0]], [corners[:0]]) == 1


@pytest.mark.parametrize(("f1", "said"), [(0.96, "holds: at 70%"), (0.9, "differs, because")])
def test_the_detector_holds_by_its_boxes_in_int8(f1: float, said: str) -> None:
    found = [detector.Row(sparsity_op, 1, 1.0, 1.0, 1.0, 1.0, f1, None, 9.0) for sparsity_op in (0.0, 0.5, 0.7)]
    assert detector.verdict(found).startswith(said)


def test_without_its_network_the_detector_cannot_be_tested(tmp_path: Path) -> None:
    assert detector.section(Context(tmp_path)).verdict.startswith("cannot be tested here, because the detector")


@pytest.mark.parametrize(("trained", "said"), [(99.0, "holds: rounds with fine-tuning lose 0.50"), (98.0, "differs, because")])
def test_rounds_hold_if_every_network_keeps_its_accuracy(trained: float, said: str) -> None:
    found = [
        iterative.Row(name, 0.7, 99.5, 12.5, 12.5, True, 99.5, 0.1, Tuned(top1, 0.1))
        for name, top1 in (("digits", trained), ("other", 99.5))
    ]
    assert iterative.verdict(found, None).startswith(said)
    assert iterative.verdict(found, "torch is not installed").startswith("cannot be tested here, because torch")
