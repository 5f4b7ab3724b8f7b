"""Int8 side by side on EfficientNet-Lite0: noise of the logits, CPU time and memory of quantizing, what onnxruntime fuses.

    python -m venv ORT && ORT/bin/pip install onnxruntime onnx
    python -m venv NNCF && NNCF/bin/pip install nncf onnx onnxruntime
    python -m venv MODELOPT && MODELOPT/bin/pip install torch==2.13.0 'nvidia-modelopt[onnx]'
    python -m benchmarks.peers.int8 run --model lite0.onnx --data FOLDER --onnxsparse onnxsparse --onnxruntime ORT/bin/python \\
        --nncf NNCF/bin/python --modelopt MODELOPT/bin/python --out int8.json
    python -m benchmarks.peers.int8 table int8.json --out benchmarks/results/int8-peers.md

from the project's root. lite0.onnx and FOLDER come from benchmarks/peers/efficientnet_lite0.py. A tool that is left out is in the
table as "not run"; --only 'onnxruntime: *' runs some, and `table` takes several files, the later ones first. Every quantization
is a process of its own on one core; all methods on the first draw, then all on the next.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median

import numpy as np

from benchmarks.peers.int8_methods import METHODS, Method, Tools, add_tools, given_tools, one_line, quantize, select
from benchmarks.peers.int8_runtime import fused, latencies_ms, outputs, samples, sqnr_db
from benchmarks.tables import heading, saved, table_row

DRAWS = 5
SAME = ("minmax", "percentile", "entropy")
"""Methods that onnxsparse and onnxruntime both have under one name."""


@dataclass(frozen=True)
class Row:
    """One method on one draw. `plain_db` is with onnxruntime's optimisations off; fusion and latency are of the first draw."""

    label: str
    draw: int
    fault: str = ""
    sqnr_db: float | None = None
    plain_db: float | None = None
    cpu_s: float | None = None
    peak_mb: float | None = None
    fused: str | None = None
    int8_ms: float | None = None
    float_ms: float | None = None


@dataclass(frozen=True)
class Judge:
    """The float model, the crops to judge on, and the float model's logits for them."""

    model: Path
    test: Path
    logits: np.ndarray

    @classmethod
    def of(cls, model: Path, data: Path) -> "Judge":
        return cls(model, data / "test.npz", outputs(model, samples(data / "test.npz")))

    def row(self, method: Method, draw: int, tools: Tools, calibration: Path) -> Row:
        """Quantize and judge; whatever goes wrong is written down."""
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "int8.onnx"
            cost = quantize(method, tools, self.model, target, calibration)
            if cost.fault:
                return Row(method.label, draw, cost.fault)
            try:
                crops = samples(self.test)
                noise, plain = (sqnr_db(self.logits, outputs(target, crops, plain)) for plain in (False, True))
                row = Row(method.label, draw, "", noise, plain, cost.cpu_s, cost.peak_mb)
                return row if draw else self.on_first_draw(row, target)
            except Exception as error:  # whatever onnxruntime raises is the finding
                return Row(method.label, draw, f"onnxruntime: {one_line(error)}")

    def on_first_draw(self, row: Row, target: Path) -> Row:
        float_ms, int8_ms = latencies_ms([self.model, target], self.test)
        return Row(**asdict(row) | {"fused": str(fused(self.model, target)), "int8_ms": int8_ms, "float_ms": float_ms})


def rows(judge: Judge, data: Path, tools: Tools, methods: Sequence[Method], draws: int) -> Iterator[Row]:
    for draw in range(draws):
        for method in methods:
            yield judge.row(method, draw, tools, data / f"calib{draw}.npz")


# What came out


def cell(values: Sequence[float | None], digits: int, of: str = "mean") -> str:
    known = [v for v in values if v is not None]
    if not known:
        return ""
    return f"{(mean if of == 'mean' else median if of == 'median' else max)(known):.{digits}f}"


def line(label: str, rows: Sequence[Row]) -> str:
    good = [row for row in rows if not row.fault]
    if not good:
        return table_row((label, rows[0].fault if rows else "not run", *[None] * 5))
    noise = [row.sqnr_db for row in good if row.sqnr_db is not None]
    first = next((row for row in good if row.fused is not None), None)
    ran = (first.fused, f"{first.int8_ms:.1f} / {first.float_ms:.1f}") if first else (None, None)
    failed = f", {len(rows) - len(good)} failed" if len(good) < len(rows) else ""
    cells = [
        f"{cell(noise, 2)} ({min(noise):.2f} to {max(noise):.2f}{failed})",
        cell([row.plain_db for row in good], 2),
        cell([row.cpu_s for row in good], 1, "median"),
        cell([row.peak_mb for row in good], 0, "max"),
        *ran,
    ]
    return table_row((label, *cells))


def ratios(by_label: dict[str, list[Row]]) -> Iterator[str]:
    """Our CPU seconds over onnxruntime's, method by method, both with uint8 activations."""
    for name in SAME:
        peer = next(m.label for m in METHODS if m.tool == "onnxruntime" and m.settings[0].lower() == name)
        cpu = [cell([row.cpu_s for row in by_label.get(key, [])], 6, "median") for key in (f"onnxsparse: x86, {name}", peer)]
        if all(cpu):
            yield f"- {name}: {float(cpu[0]) / float(cpu[1]):.2f} × onnxruntime's CPU seconds"


def margin(by_label: dict[str, list[Row]]) -> Iterator[str]:
    """The best of each side by mean SQNR."""
    best: dict[bool, tuple[float, str]] = {}
    for label, found in by_label.items():
        noise = [row.sqnr_db for row in found if row.sqnr_db is not None]
        if noise:
            side = label.startswith("onnxsparse")
            best[side] = max(best.get(side, (-math.inf, "")), (mean(noise), label))
    if len(best) == 2:
        yield f"- {best[True][1]} is {best[True][0] - best[False][0]:.2f} dB above {best[False][1]}, the best peer"


PREFACE = """# Int8 on EfficientNet-Lite0, side by side

Made by `benchmarks/peers/int8.py`. Signal to noise ratio of the logits in dB, summed over 16 crops that no calibration saw: the
mean over {draws} draws of 64 calibration crops (and the range), as onnxruntime runs the file, and with its optimisations off. CPU
seconds (the median) and peak memory (the largest) are of the whole process that quantizes, imports with it, on one core. Fused:
operations of the float model that onnxruntime runs as integers on this CPU. Latency: the median of 30 runs on one thread, int8
and float in turn in one process. Peers: per channel, int8 weights, their own defaults otherwise.
"""
COLUMNS = ("method", "SQNR dB", "optimisations off", "CPU s", "peak MB", "fused", "ms int8 / float")


def table(paths: Sequence[Path]) -> str:
    by_label: dict[str, list[Row]] = {}
    for path in paths:
        found = [Row(**row) for row in json.loads(path.read_text())]
        for label in dict.fromkeys(row.label for row in found):
            these = [row for row in found if row.label == label]
            if label not in by_label or any(row.fault != "not run" for row in these):
                by_label[label] = these
    labels = [m.label for m in METHODS]
    draws = max((row.draw + 1 for found in by_label.values() for row in found), default=0)
    lines = [PREFACE.format(draws=draws), *heading(COLUMNS), *(line(label, by_label.get(label, [])) for label in labels)]
    return "\n".join([*lines, "", *margin(by_label), *ratios(by_label)]).strip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run, shown = (commands.add_parser(name) for name in ("run", "table"))
    run.add_argument("--model", type=Path, required=True)
    run.add_argument("--data", type=Path, required=True, help="folder of calib0.npz and on, and test.npz")
    run.add_argument("--draws", type=int, default=DRAWS)
    add_tools(run)
    shown.add_argument("results", type=Path, nargs="+")
    for part in (run, shown):
        part.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "run":
        judge = Judge.of(options.model, options.data)
        methods = select(options.only)
        for row in saved(rows(judge, options.data, given_tools(options), methods, options.draws), options.out):
            print(row, flush=True)
    else:
        options.out.write_text(table(options.results))


if __name__ == "__main__":
    main()
