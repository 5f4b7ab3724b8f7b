"""Int8 side by side on several networks: SQNR of the outputs and of the worst slice, top-1 or IoU, CPU seconds and memory.

    python -m venv ORT && ORT/bin/pip install onnxruntime onnx
    python -m venv AIMET && AIMET/bin/pip install aimet-onnx==2.42.0 onnxruntime
    python -m benchmarks.peers.int8_models FOLDER... --onnxsparse onnxsparse --onnxruntime ORT/bin/python \\
        --aimet AIMET/bin/python --only 'onnxsparse: cv22*' --only 'aimet: *' --rows rows.json \\
        --out benchmarks/results/int8-models.md

Each FOLDER holds model.onnx with one input, calib.npz and test.npz; labels.npy of the test data for a classifier; threshold.txt,
from which on an element of the first output counts as found, for a detector of pixels. A draw is three quarters of the
calibration data. Models are run as written, optimisations off. Shown are the mean over the draws and the least and largest.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.accuracy.output_error import judged, opened
from benchmarks.accuracy.rounding import accuracy, drawn, spread
from benchmarks.peers.int8_methods import LIMIT_S, Method, Tools, add_tools, given_tools, one_line, quantize, select
from benchmarks.tables import saved, table
from onnxsparse import Model, compare
from onnxsparse.runtime.session import runner

SHARE = 0.75
COLUMNS = ("network", "method", "SQNR dB", "worst slice dB", "top-1 or IoU", "CPU s", "peak MB")


@dataclass(frozen=True)
class Row:
    """One method on one draw."""

    network: str
    label: str
    fault: str = ""
    sqnr_db: float | None = None
    worst_db: float | None = None
    score: float | None = None
    cpu_s: float | None = None
    peak_mb: float | None = None


def overlap(folder: Path, plain: Model, model: Model) -> float | None:
    """Intersection over union of what both models find in the first output; None without a threshold."""
    file = folder / "threshold.txt"
    if not file.exists():
        return None
    level, both, either = float(file.read_text()), 0, 0
    first, second = runner(plain), runner(model)
    for feeds in judged(folder):
        a, b = (next(iter(each.run(feeds).values())).astype(np.float64) > level for each in (first, second))
        both, either = both + int((a & b).sum()), either + int((a | b).sum())
    return both / either


def row(folder: Path, method: Method, tools: Tools, data: Path, target: Path, limit_s: float) -> Row:
    """Quantize once, and measure."""
    target.unlink(missing_ok=True)
    cost = quantize(method, tools, folder / "model.onnx", target, data, limit_s)
    if cost.fault:
        return Row(folder.name, method.label, cost.fault)
    plain = opened(folder)
    try:
        model = opened(folder, target)
        found = compare(plain, model, judged(folder))
        score = next(accuracy(folder, model), None) or overlap(folder, plain, model)
    except Exception as error:  # whatever a peer's model raises is the finding
        return Row(folder.name, method.label, one_line(error))
    return Row(folder.name, method.label, "", found.outputs[0].sqnr_db, found.worst_sqnr_db, score, cost.cpu_s, cost.peak_mb)


def rows(folders: Sequence[Path], methods: Sequence[Method], tools: Tools, draws: int, limit_s: float) -> Iterator[Row]:
    """All methods on all draws of all networks."""
    for folder in folders:
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            for data in drawn(folder, work, draws, SHARE):
                yield from (row(folder, method, tools, data, work / "int8.onnx", limit_s) for method in methods)


def cells(found: Sequence[Row]) -> tuple[str, ...]:
    """A line of the table: one method on one network over its draws."""
    first, good = found[0], [one for one in found if not one.fault]
    if not good:
        return first.network, first.label, first.fault, "", "", "", ""
    levels = [[one.sqnr_db for one in good], [one.worst_db for one in good], [one.score for one in good]]
    shown = (spread([value for value in values if value is not None], 2) for values in levels)
    costs = ([one.cpu_s for one in good], [one.peak_mb for one in good])
    means = (f"{np.mean([value for value in values if value is not None]):.0f}" for values in costs)
    return first.network, first.label, *shown, *means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*")
    add_tools(parser)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="SECONDS", help="after which a method is given up")
    parser.add_argument("--rows", type=Path, nargs="+", required=True, help="JSON of a run; without folders, of earlier runs")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.folders:
        each = rows(options.folders, select(options.only), given_tools(options), options.draws, options.limit)
        for one in saved(each, options.rows[0]):
            print(one, flush=True)
    found = [Row(**one) for path in options.rows for one in json.loads(path.read_text()) if one["fault"] != "not run"]
    groups: dict[tuple[str, str], list[Row]] = {}
    for one in found:
        groups.setdefault((one.network, one.label), []).append(one)
    share = f"{options.draws} draws of {SHARE:.0%} of the calibration data (a figure without a range: one draw, or all the same)"
    head = ["# Int8 side by side", "", f"Made by `benchmarks/peers/int8_models.py`: {share}, one core.", ""]
    options.out.write_text("\n".join([*head, *table(COLUMNS, map(cells, groups.values()))]) + "\n")


if __name__ == "__main__":
    main()
