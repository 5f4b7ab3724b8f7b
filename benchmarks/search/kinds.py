"""`search` on a model without labels: the loss of the best point of each kind, at several budgets.

    python -m benchmarks.search.kinds MODEL.onnx DATA --budget latency_ms=35.03 --budget latency_ms=20 --trials 17 \\
        --work found/ --out benchmarks/results/search-ssd-small.md

The folder of --work keeps the searches, so that the same command goes on with one that was interrupted.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.search.classifier import best
from benchmarks.tables import table
from onnxsparse.search.api import Effort, run_search
from onnxsparse.search.budgets import read_budgets
from onnxsparse.search.front import BOTH, CHANNELS, ZEROS, Front
from onnxsparse.search.subject import Subject

COLUMNS = ("budget", "method", "latency_ms_high", "sparsity_op", "GMACs", "divergence", "trials", "minutes")


def cells(front: Front, kind: str) -> tuple[str, ...]:
    """The best point of a kind within the budget."""
    found = best(front, kind)
    if found is None:
        return kind, "out of reach", "", "", ""
    totals = found.outcome.totals
    sizes = (f"{totals['latency_ms_high'] or 0:.2f}", f"{totals['sparsity_op'] or 0:.1%}", f"{(totals['macs'] or 0) / 1e9:.2f}")
    return kind, *sizes, f"{found.outcome.loss:.4f}"


def rows(options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """A line for each budget and kind."""
    options.work.mkdir(exist_ok=True)
    for text in options.budget:
        subject = Subject(
            model=options.model,
            data=options.data,
            preprocess=options.preprocess,
            target=options.target,
            budgets=read_budgets([text]),
        )
        start = time.monotonic()
        front = run_search(subject, options.work / text, Effort(trials=options.trials, jobs=options.jobs))
        minutes = (time.monotonic() - start) / 60
        count = len(front.points) + len(front.others) + len(front.failed)
        for kind in (ZEROS, CHANNELS, BOTH):
            yield text, *cells(front, kind), str(count), f"{minutes:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--preprocess", type=Path)
    parser.add_argument("--budget", required=True, action="append")
    parser.add_argument("--target", default="cv22")
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = []
    for row in rows(options):
        print(row, flush=True)
        found.append(row)
    made = f"Made by `benchmarks/search/kinds.py` on {options.model.name}, target {options.target}."
    options.out.write_text("\n".join(["# The best of each method in a search", "", made, "", *table(COLUMNS, found)]) + "\n")


if __name__ == "__main__":
    main()
