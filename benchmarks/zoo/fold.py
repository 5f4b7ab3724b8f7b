"""Run fold and fix-shapes on every graph of a folder and compare the outputs in onnxruntime.

    python -m benchmarks.zoo.fold ZOO --out benchmarks/results/zoo-fold.md

ZOO holds .onnx files and a manifest.json with, per file, `file` and `run_shapes` (input → shape that runs).
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxsparse import FixShapes, Fold, Model, OnnxSparseError, Pipeline, compare, load

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


def run(source: Path, shapes: dict[str, list[int]]) -> Row:
    model = load(source).bind([f"{name}={'x'.join(map(str, shape))}" for name, shape in shapes.items() if shape])
    original = model.copy()
    start = time.process_time()
    notes = Pipeline([Fold()]).run(model).steps[0].notes
    seconds = time.process_time() - start
    before, after = len(original.proto.graph.node), len(model.proto.graph.node)
    worst = lowest(original, model)
    again = model.copy()
    Fold().run(again)
    stable = "" if again.to_bytes() == model.to_bytes() else "not stable; "
    return Row(source.name, f"{before} → {after}", worst, stable + ", ".join(notes), fix(original), seconds)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for entry in json.loads((options.zoo / "manifest.json").read_text()):
        rows.append(run(options.zoo / entry["file"], entry["run_shapes"]))
        print(rows[-1], flush=True)
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
        "| model | nodes | lowest SQNR dB | folded | fix-shapes |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        shown = "does not compare" if row.lowest_sqnr_db is None else f"{row.lowest_sqnr_db:.0f}"
        lines.append(f"| {row.model} | {row.nodes} | {shown} | {row.done} | {row.fixed} |")
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
