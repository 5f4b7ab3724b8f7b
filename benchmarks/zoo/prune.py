"""Run prune → annotate → compare → inspect on every graph of a folder and write a table of what came out.

    python -m benchmarks.zoo.prune ZOO --out benchmarks/results/zoo-prune.md

benchmarks/zoo/runner.py says what ZOO holds.
"""

import contextlib
import io
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import onnx

from benchmarks.tables import table
from benchmarks.zoo.runner import Entry, Shapes, arguments, checker_faults, entries, examined, sizes
from onnxsparse.cli import app as cli

TARGET = 0.5


@dataclass(frozen=True)
class Row:
    """What became of one model. `faults` is empty if everything held."""

    model: str
    layers: int
    reached: float | None
    sqnr_db: str
    seconds: float
    faults: tuple[str, ...]
    reason: str


def command(*arguments: str) -> tuple[int, str]:
    """Exit code and what was printed to either stream."""
    captured = io.StringIO()
    with contextlib.redirect_stdout(captured), contextlib.redirect_stderr(captured):
        code = cli.main(arguments)
    return code, captured.getvalue()


def interface(path: Path) -> list[bytes]:
    graph = onnx.load(path, load_external_data=False).graph
    return [value.SerializeToString(deterministic=True) for value in (*graph.input, *graph.output)]


def run_chain(entry: Entry) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        return run_in(Path(folder), entry.path, entry.run_shapes)


def run_in(folder: Path, source: Path, shapes: Shapes) -> Row:
    options = [f"--input-shape={size}" for size in sizes(shapes)]
    pruned, annotated, facts, figures = (folder / n for n in ("pruned.onnx", "annotated.onnx", "facts.json", "compare.json"))
    start = time.process_time()
    code, printed = command(
        "prune", str(source), str(pruned), "--sparsity-op", str(TARGET), "--partial", "--no-compare", *options
    )
    seconds = time.process_time() - start
    if code:
        return Row(source.name, 0, None, "", seconds, ("prune failed",), printed.strip())
    faults = []
    for given in (
        ("annotate", str(pruned), str(annotated), *options),
        ("compare", str(source), str(annotated), "--json", str(figures), *options),
        ("inspect", str(annotated), "--json", str(facts), *options),
    ):
        code, text = command(*given)
        if code:
            faults.append(f"{given[0]}: {text.strip().splitlines()[-1]}")
    if faults:
        return Row(source.name, 0, None, "", seconds, tuple(faults), "")
    faults += checker_faults(source, annotated)
    if interface(source) != interface(annotated):
        faults.append("interface changed")
    inspected = json.loads(facts.read_text())
    reached = inspected["totals"]["sparsity_op"]
    said = [line.strip() for line in printed.splitlines() if "nothing was pruned" in line or "left alone" in line]
    if (reached or 0) < TARGET and not said:
        faults.append("target missed without a reason")
    known = "" if inspected["complete"] else "of what is known"
    reason = said[0] if (reached or 0) < TARGET and said else known
    return Row(
        source.name, len(inspected["layers"]), reached, worst(json.loads(figures.read_text())), seconds, tuple(faults), reason
    )


def worst(figures: dict[str, list[dict[str, object]]]) -> str:
    """The lowest SQNR over outputs, with a mark where an output says nothing."""
    values = [o["sqnr_db"] for o in figures["outputs"] if isinstance(o["sqnr_db"], float)]
    vacuous = any(o["vacuous"] for o in figures["outputs"])
    return (f"{min(values):.1f}" if values else "equal") + (" (vacuous)" if vacuous else "")


def main() -> None:
    options = arguments(__doc__)
    rows = examined(run_chain, entries(options.zoo, options.only), options.jobs)
    options.out.write_text(render(rows))


def cells(row: Row) -> tuple[object, ...]:
    reached = None if row.reached is None else f"{row.reached:.6f}"
    return row.model, row.layers, reached, row.sqnr_db, "; ".join(row.faults) or row.reason


def render(rows: list[Row]) -> str:
    met = sum((row.reached or 0) >= TARGET for row in rows)
    faulty = sum(bool(row.faults) for row in rows)
    seconds = sorted(row.seconds for row in rows)
    median = seconds[len(seconds) // 2]
    lines = [
        "# prune → annotate → compare → inspect on the zoo",
        "",
        f"Made by `benchmarks/zoo/prune.py`. {len(rows)} graphs, target sparsity_op {TARGET}: met by {met}, not met for a stated",
        f"reason by {len(rows) - met - faulty}, {faulty} with a fault. `prune` took {median:.2f} s CPU in the median,",
        f"{seconds[-1]:.2f} s at most (imports included in the first). Each output passes onnx's checker (full_check) where its",
        "input does, has the same interface, and runs in onnxruntime. SQNR is of random inputs, the worst output; most of these",
        "graphs have random weights, so it says how much the outputs moved and nothing about accuracy.",
        "",
        *table(("model", "layers", "sparsity_op", "worst SQNR dB", "faults or reason"), map(cells, rows)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
