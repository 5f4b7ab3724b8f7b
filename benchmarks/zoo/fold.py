"""Run fold and fix-shapes on every graph of a folder and compare the outputs in onnxruntime.

    python -m benchmarks.zoo.fold ZOO --out benchmarks/results/zoo-fold.md

benchmarks/zoo/runner.py says what ZOO holds.
"""

import math
import time
from dataclasses import dataclass

import onnx

from benchmarks.tables import table
from benchmarks.zoo.runner import Entry, arguments, entries, examined
from onnxsparse import FixShapes, Fold, Model, OnnxSparseError, Pipeline, compare

CLOSE_DB = 100
"""Folding batch normalisation changes roundings; outputs this close are the same to float32's accuracy."""


@dataclass(frozen=True)
class Row:
    model: str
    nodes: str
    lowest_sqnr_db: float | None
    done: str
    fixed: str
    seconds: float


def lowest(first: Model, second: Model) -> float | None:
    """The lowest SQNR over outputs; None where one does not compare."""
    values = [output.sqnr_db for output in compare(first, second).outputs]
    return None if None in values else min(v for v in values if v is not None)


def run(entry: Entry) -> Row:
    model = entry.load()
    original = model.copy()
    start = time.process_time()
    notes = Pipeline([Fold()]).run(model).steps[0].notes
    seconds = time.process_time() - start
    before, after = len(original.proto.graph.node), len(model.proto.graph.node)
    worst = lowest(original, model)
    again = model.copy()
    Fold().run(again)
    stable = "" if again.to_bytes() == model.to_bytes() else "not stable; "
    return Row(entry.path.name, f"{before} → {after}", worst, stable + ", ".join(notes), fix(original), seconds)


def fix(original: Model) -> str:
    """What became of fix-shapes: `same`, or why not."""
    fixed = original.copy()
    try:
        FixShapes().run(fixed)
        onnx.checker.check_model(fixed.to_bytes())
        worst = lowest(original, fixed)
    except OnnxSparseError as error:
        return str(error)[:120]
    return "same" if worst == math.inf else "does not compare" if worst is None else f"{worst:.0f} dB"


def cells(row: Row) -> tuple[object, ...]:
    lowest_db = "does not compare" if row.lowest_sqnr_db is None else f"{row.lowest_sqnr_db:.0f}"
    return row.model, row.nodes, lowest_db, row.done, row.fixed


def main() -> None:
    options = arguments(__doc__)
    rows = examined(run, entries(options.zoo, options.only), options.jobs)
    same = sum(row.lowest_sqnr_db is not None and row.lowest_sqnr_db >= CLOSE_DB for row in rows)
    seconds = sorted(row.seconds for row in rows)
    median, fixed = seconds[len(rows) // 2], sum(row.fixed == "same" for row in rows)
    lines = [
        "# fold and fix-shapes on the zoo",
        "",
        f"Made by `benchmarks/zoo/fold.py`. {len(rows)} graphs. fold leaves the outputs of {same} the same (SQNR of random",
        f"inputs at least {CLOSE_DB} dB, `inf` is bit for bit), in {median:.2f} s CPU (median), {seconds[-1]:.2f} s at most.",
        f"fix-shapes leaves those of {fixed} the same, bit for bit; for the others it says how close they are, or why not.",
        "",
        *table(("model", "nodes", "lowest SQNR dB", "folded", "fix-shapes"), map(cells, rows)),
    ]
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
