"""`search` on a classifier: top-1 of the best point, against the best of each method alone, at several budgets.

    python -m benchmarks.search.classifier MODEL CALIB.npz TEST.npz --mean 0.49 0.48 0.45 --std 0.25 0.24 0.26 \\
        --shares 0.6 0.4 0.25 --out benchmarks/results/search-resnet20.md

Budgets are shares of the dense latency by the CV22's numbers without the time per layer, which is most of what a small network
takes.
Everything is chosen on calibration data alone; the labelled pictures are looked at once, at the end.
"""

import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import tomli_w

from benchmarks.accuracy.classifier import Classifier, parser
from benchmarks.tables import table
from onnxsparse import Pipeline
from onnxsparse.ir.model import Model
from onnxsparse.pipeline.cache import Cache
from onnxsparse.pipeline.recipe import parse_recipe
from onnxsparse.search.api import Effort, run_search
from onnxsparse.search.bounds import bounds
from onnxsparse.search.budgets import Budget
from onnxsparse.search.front import Front, Point, excess
from onnxsparse.search.subject import Subject
from onnxsparse.search.trial import recipe

COLUMNS = ("budget", "latency, ms", "point", "divergence", "top-1", "zeros only", "channels only", "trials", "minutes")


def without_overhead(folder: Path) -> Path:
    """The target cv22 without time per layer, and without variants."""
    content = tomllib.loads(files("onnxsparse.targets").joinpath("cv22.toml").read_text())
    content["name"] = "cv22-without-overhead"
    content["cost"]["numbers"]["overhead_us"] |= {"value": 0, "low": 0, "high": 0}
    content["cost"]["variants"] = []
    path = folder / "cv22-without-overhead.toml"
    path.write_text(tomli_w.dumps(content))
    return path


@dataclass(frozen=True)
class Row:
    """One budget. Top-1 in per cent; None where a method alone does not meet the budget."""

    share: float
    limit_ms: float
    kind: str
    divergence: float
    top1: float
    zeros: float | None
    channels: float | None
    trials: int
    minutes: float


def made(front: Front, point: Point) -> Model:
    """The model of a point that may not be on the front."""
    model = front.subject.load()
    passes = parse_recipe(recipe(front.subject, point.outcome.steps)).passes
    Pipeline(passes).run(model, front.subject.judging, Cache(front.folder / "cache" / "passes"))
    return model


def level(classifier: Classifier, front: Front, point: Point | None) -> float | None:
    """Top-1 of a point; None without one."""
    return None if point is None else classifier.top1(made(front, point))


def best(front: Front, kind: str) -> Point | None:
    """The point within the budget that harms least, of one kind."""
    every = (*front.points, *front.others)
    within = [point for point in every if point.kind == kind and excess(front.subject, point.outcome) <= 0]
    return min(within, key=lambda point: point.outcome.harm, default=None)


def rows(classifier: Classifier, shares: Sequence[float], trials: int, jobs: int | None) -> Iterator[Row]:
    """A row for each budget."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "calib.npy", classifier.learned)
        target = str(without_overhead(folder))
        for share in shares:
            given = Subject(model=classifier.path, data=folder / "calib.npy", target=target, budgets=(Budget("latency_ms", 1e9),))
            limit = share * bounds(given).dense
            subject = Subject(model=given.model, data=given.data, target=target, budgets=(Budget("latency_ms", limit),))
            start = time.monotonic()
            front = run_search(subject, folder / f"found-{share}", Effort(trials=trials, jobs=jobs))
            minutes = (time.monotonic() - start) / 60
            assert front.best is not None, front.verdict
            zeros, channels = (level(classifier, front, best(front, kind)) for kind in ("zeros", "channels"))
            top1 = level(classifier, front, front.best) or 0.0
            count = len(front.points) + len(front.others) + len(front.failed)
            yield Row(share, limit, front.best.kind, front.best.outcome.loss, top1, zeros, channels, count, minutes)


def main() -> None:
    found = parser(__doc__)
    found.add_argument("--shares", type=float, nargs="+", default=[0.6, 0.4, 0.25])
    found.add_argument("--trials", type=int, default=48)
    found.add_argument("--jobs", type=int)
    options = found.parse_args()
    classifier = Classifier.read(options)
    cells = []
    for row in rows(classifier, options.shares, options.trials, options.jobs):
        print(row, flush=True)
        alone = ["out of reach" if level is None else f"{level:.2f}" for level in (row.zeros, row.channels)]
        first = (f"{row.share:.0%}", f"{row.limit_ms:.4f}", row.kind, f"{row.divergence:.4f}", f"{row.top1:.2f}")
        cells.append((*first, *alone, row.trials, f"{row.minutes:.1f}"))
    head = [
        "# Search on a classifier",
        "",
        f"Made by `benchmarks/search/classifier.py`; dense top-1 {classifier.top1():.2f}.",
        "",
    ]
    options.out.write_text("\n".join([*head, *table(COLUMNS, cells)]) + "\n")


if __name__ == "__main__":
    main()
