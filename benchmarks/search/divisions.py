"""Loss at one budget for several divisions of the way between channels and zeros, without a search.

    python -m benchmarks.search.divisions MODEL.onnx DATA --budget latency_ms=35.03 --channels 0 0.5 0.75 1 \\
        --out benchmarks/results/search-divisions.md

A division of 0 is zeros alone, 1 channels alone; a trial is one of `search`, in full.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.tables import table
from onnxsparse.search.budgets import read_budgets
from onnxsparse.search.subject import Subject
from onnxsparse.search.trial import Outcome, Params, Trial, run_trial

COLUMNS = ("budget", "division", "latency_ms_high", "sparsity_op", "GMACs", "divergence", "s")


def cells(budget: str, outcome: Outcome, seconds: float) -> tuple[str, ...]:
    """A line of the table."""
    known = outcome.totals
    first = (budget, f"{outcome.params.channels:g}")
    if outcome.fault is not None:
        return (*first, outcome.fault, "", "", "", f"{seconds:.0f}")
    sizes = (f"{known['latency_ms_high'] or 0:.2f}", f"{known['sparsity_op'] or 0:.1%}", f"{(known['macs'] or 0) / 1e9:.2f}")
    return (*first, *sizes, f"{outcome.loss:.4f}", f"{seconds:.0f}")


def rows(options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """A line for each budget and division."""
    for budget in options.budget:
        given = read_budgets([budget])
        subject = Subject(
            model=options.model, data=options.data, preprocess=options.preprocess, target=options.target, budgets=given
        )
        with tempfile.TemporaryDirectory() as name:
            for share in options.channels:
                start = time.monotonic()
                outcome = run_trial(Trial(subject.absolute(), Params(channels=share), None, Path(name), keep=False), 0)
                yield cells(budget, outcome, time.monotonic() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--preprocess", type=Path)
    parser.add_argument("--budget", required=True, action="append")
    parser.add_argument("--channels", type=float, nargs="+", default=[0.0, 0.5, 0.75, 1.0])
    parser.add_argument("--target", default="cv22")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = []
    for row in rows(options):
        print(row, flush=True)
        found.append(row)
    head = [
        "# Divisions between channels and zeros",
        "",
        f"Made by `benchmarks/search/divisions.py` on {options.model.name}.",
        "",
    ]
    options.out.write_text("\n".join([*head, *table(COLUMNS, found)]) + "\n")


if __name__ == "__main__":
    main()
