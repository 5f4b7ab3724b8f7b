"""docs/paper.md is what `make paper` writes: checked on the parts that take no time, and on the criteria of the verdicts."""

from pathlib import Path

import pytest

from benchmarks.paper import combined, definition, linear, page, rows
from benchmarks.paper.detectors import PAPER, WAYS
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
        (90.0, 30.0, "holds: both together keep the most accuracy and take 14% less time"),
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
    costs = [combined.Cost("single zeros", 8.0, 35.0, 3.0, 12.0), combined.Cost("both", 8.0, ms, 2.0, 9.0)]
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
