"""How the peers remove whole channels at ratio 0.5: onnxsim on every graph of a folder, Torch-Pruning on every architecture.

    python -m venv PEERS && PEERS/bin/pip install onnxsim==0.8.1 onnxruntime
    python -m benchmarks.peers.channels onnxsim --zoo ZOO --python PEERS/bin/python --out onnxsim.json
    python -m benchmarks.peers.channels torch --script build_zoo.py --python ZOO_VENV/bin/python --out torch.json
    python -m benchmarks.peers.channels ours --zoo ZOO --out ours.json
    python -m benchmarks.peers.channels table ours.json onnxsim.json torch.json

benchmarks/zoo/runner.py says what ZOO holds. build_zoo.py holds `registry()` and `build(name)`, and ZOO_VENV what they import
and torch-pruning. Every model has a process of its own, one at a time, on one thread.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import channels_child
from benchmarks.peers.channels_child import RATIO, short
from benchmarks.tables import saved, table
from benchmarks.zoo.runner import Entry, entries

ONNXSIM_LIMIT_S = 120
TORCH_LIMIT_S = 180


@dataclass(frozen=True)
class Row:
    """What became of one model. `fault` is empty if it worked and runs; `macs_kept` is of the original's."""

    model: str
    worked: bool = False
    changed: bool = False
    runs: bool = False
    macs_kept: float | None = None
    seconds: float | None = None
    fault: str = ""


def ask(python: Path, limit_s: float, *arguments: str) -> dict[str, Any]:
    """channels_child in another interpreter, one thread, at most `limit_s`: fields of a Row, from its last line."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [str(python), channels_child.__file__, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"fault": "time limit"}
    if done.returncode < 0:
        return {"fault": f"killed by signal {-done.returncode}"}
    if done.returncode:
        return {"fault": short((done.stderr.strip() or "no message").splitlines()[-1])}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


# onnxsim


def onnxsim_rows(zoo: Path, python: Path) -> Iterator[Row]:
    """onnxsim on every graph of the folder."""
    for entry in entries(zoo):
        yield onnx_row(entry, python, "_prune-onnx")


def our_rows(zoo: Path, cut_norms: bool) -> Iterator[Row]:
    """onnxsparse on every graph of the folder, as the others: no rounding, and the proof left to benchmarks/zoo/channels.py."""
    for entry in entries(zoo):
        yield onnx_row(entry, Path(sys.executable), "_prune-ours", json.dumps(entry.sizes), str(int(cut_norms)))


def onnx_row(entry: Entry, python: Path, command: str, *more: str) -> Row:
    """One graph in one tool: pruned in the tool's interpreter, judged in this one."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = str(entry.path), str(Path(folder) / "pruned.onnx")
        row = ask(python, ONNXSIM_LIMIT_S, command, source, target, *more)
        if "fault" not in row:
            given = (json.dumps(entry.run_shapes), json.dumps(entry.sizes))
            row |= ask(Path(sys.executable), ONNXSIM_LIMIT_S, "_judge-onnx", source, target, *given)
    return Row(entry.name, **row)


# Torch-Pruning


def torch_rows(script: Path, python: Path) -> Iterator[Row]:
    """Torch-Pruning on every architecture of the zoo's build script, with nothing said of a single one."""
    names = ask(python, TORCH_LIMIT_S, "_names-torch", str(script))
    if "fault" in names:
        raise SystemExit(f"peers/channels: {python} cannot list the architectures of {script}: {names['fault']}")
    for name in names["names"]:
        yield Row(name, **ask(python, TORCH_LIMIT_S, "_prune-torch", str(script), name))


# What came out


def summary(name: str, rows: list[Row]) -> tuple[object, ...]:
    kept = [row.macs_kept for row in rows if row.runs and row.changed and row.macs_kept is not None]
    seconds = [row.seconds for row in rows if row.seconds is not None]
    flags = [(True, row.worked, row.changed, row.runs, row.runs and row.changed) for row in rows]
    counts = [sum(column) for column in zip(*flags, strict=True)]
    median = f"{statistics.median(kept):.3f}" if kept else ""
    return name, *counts, median, f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}"


def failures(name: str, rows: list[Row]) -> list[str]:
    """A line per reason, numbers and quoted names in it left out."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.fault:
            reason = re.sub(r"\d+", "N", re.sub(r"(?<=[ :(])'[^']*'|/\S+", "…", row.fault))
            reasons.setdefault(reason, []).append(row.model)
    largest = sorted(reasons.items(), key=lambda item: -len(item[1]))
    lines = [f"- {len(models)} × {reason} ({', '.join(models)})" for reason, models in largest]
    return [f"Failures of {name}:", "", *lines, ""] if lines else [f"No failures of {name}.", ""]


PREFACE = f"""# Whole channels, side by side

Made by `benchmarks/peers/channels.py` at ratio {RATIO}: `ours`, `onnxsim` and `torch`, then `table`. onnxsparse and
onnxsim on the same graphs, without rounding; Torch-Pruning, without hints for single architectures, on the modules
that the graphs come from. Seconds are wall time from load to written file (Torch-Pruning: building the pruner and the
step), each model in a process of its own, imports left out; the proof is not in it. MACs kept: the median of those
that run and were changed. "runs" means outputs of the right shapes; what they hold is checked for onnxsparse alone,
in zoo-channels.md.
"""


COLUMNS = ("peer", "tried", "worked", "changed", "runs", "runs and changed", "MACs kept", "median s", "max s")


def render(paths: list[Path]) -> str:
    results = {path.stem: [Row(**row) for row in json.loads(path.read_text())] for path in paths}
    lines = [PREFACE]
    lines += [*table(COLUMNS, (summary(name, rows) for name, rows in results.items())), ""]
    for name, rows in results.items():
        lines += failures(name, rows)
    return "\n".join(lines)


def collect(rows: Iterator[Row], out: Path) -> None:
    """Write and print every row, then how many have a fault."""
    endings: Counter[str] = Counter()
    for row in saved(rows, out):
        print(row, flush=True)
        endings["fault" if row.fault else "ok"] += 1
    print(endings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    onnxsim, torch, shown = (commands.add_parser(name) for name in ("onnxsim", "torch", "table"))
    ours = commands.add_parser("ours")
    for part in (onnxsim, ours):
        part.add_argument("--zoo", type=Path, required=True)
    ours.add_argument("--cut-norms", action="store_true")
    ours.add_argument("--out", type=Path, required=True)
    torch.add_argument("--script", type=Path, required=True)
    for part in (onnxsim, torch):
        part.add_argument("--python", type=Path, required=True, help="an interpreter that has the peer")
        part.add_argument("--out", type=Path, required=True)
    shown.add_argument("results", type=Path, nargs="+")
    options = parser.parse_args()
    if options.command == "onnxsim":
        collect(onnxsim_rows(options.zoo, options.python), options.out)
    elif options.command == "ours":
        collect(our_rows(options.zoo, options.cut_norms), options.out)
    elif options.command == "torch":
        collect(torch_rows(options.script, options.python), options.out)
    else:
        print(render(options.results))


if __name__ == "__main__":
    main()
