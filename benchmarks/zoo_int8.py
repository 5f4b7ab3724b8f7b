"""Quantize every graph of a folder for both targets, run what came out, and write a table of it.

    python -m benchmarks.zoo_int8 run ZOO --into zoo-int8.jsonl
    python -m benchmarks.zoo_int8 table zoo-int8.jsonl --out benchmarks/results/zoo-int8.md

from the project's root. ZOO holds .onnx files and a manifest.json with, per file, `file` and `run_shapes` (input → shape that
runs). Every graph is a process of its own, one at a time, and adds a line to the file; of several lines for a graph the last one
counts. `--only TEXT` takes the graphs with that in their names.
"""

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import onnx

from benchmarks.zoo_channels import binding
from onnxsparse import OnnxSparseError, Prune, compare, layers, load
from onnxsparse.comparison import Meter, measure
from onnxsparse.folding import fold
from onnxsparse.graph import Graph
from onnxsparse.inputs import seeded_samples
from onnxsparse.model import Model
from onnxsparse.passbase import StepReport
from onnxsparse.passes.quantize import Quantize
from onnxsparse.runtime import runner

TARGETS = ("cv22", "onnxruntime-x86")
SAMPLES, OTHERS = 8, 2
CALIBRATION_SEED, OTHER_SEED = 1, 2

LOW_DB = 5.0
"""Below, a graph is marked: to be looked at."""

LIMIT_S = 900
"""For one graph."""


@dataclass(frozen=True)
class Result:
    """One graph for one target. `sqnr_db` None: nothing is in integers, or no output says anything; infinite for equal outputs.

    `inner_db`: of the last layer that says something, where the outputs are low or say nothing. `other_sizes`: of the open
    dimensions, at which it runs of those at which the original does.
    """

    layers: int = 0
    other_ops: int = 0
    values: int = 0
    sqnr_db: float | None = None
    worst: str = ""
    inner_db: float | None = None
    other_sizes: str = ""
    seconds: float = 0.0
    reasons: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One graph. `linear`: all its linear ops. `zeros`: of a copy that is pruned to half, and how many of them stayed."""

    model: str
    linear: int
    results: dict[str, Result]
    zeros: str = ""
    faults: tuple[str, ...] = ()

    @property
    def all_faults(self) -> list[str]:
        return [*self.faults, *(f"{target}: {fault}" for target, found in self.results.items() for fault in found.faults)]

    @property
    def is_quantized(self) -> bool:
        return any(found.layers for found in self.results.values())

    @property
    def lowest_db(self) -> float:
        return min((found.sqnr_db for found in self.results.values() if found.sqnr_db is not None), default=math.inf)


def examine(source: Path, shapes: list[str], folder: Path) -> Row:
    results = {target: judge(source, shapes, target, folder / f"{target}.onnx") for target in TARGETS}
    row = Row(source.name, len(layers(load(source).bind(shapes), count=False)), results)
    if not row.is_quantized:
        return row
    try:
        return replace(row, zeros=zeros_that_stay(source, shapes, folder / "pruned.onnx"))
    except Exception as error:  # whatever is raised is the finding
        return replace(row, faults=(f"pruned: {said(error)}",))


def judge(source: Path, shapes: list[str], target: str, written: Path) -> Result:
    """Quantize, save, check, run, compare; whatever goes wrong is written down."""
    model = load(source).bind(shapes)
    original = model.copy()
    start = time.perf_counter()
    try:
        report = Quantize(target=target).run(model, seeded_samples(model, SAMPLES, CALIBRATION_SEED).feeds)
        model.save(written)
    except Exception as error:  # whatever is raised is the finding
        return Result(faults=(f"quantize: {said(error)}",), seconds=time.perf_counter() - start)
    result = replace(counted(report), seconds=time.perf_counter() - start)
    faults = checker_faults(source, written)
    try:
        result = compared(result, original, load(written).bind(shapes))
        result = replace(result, other_sizes=at_other_sizes(source, written, shapes))
        if result.layers and (result.sqnr_db is None or result.sqnr_db < LOW_DB or result.sqnr_db == math.inf):
            result = replace(result, inner_db=inner_sqnr_db(original, load(written).bind(shapes)))
    except Exception as error:
        faults.append(f"run: {said(error)}")
    return replace(result, faults=(*result.faults, *faults))


def counted(report: StepReport) -> Result:
    """What the pass says that it did and did not do."""
    told = "; ".join(report.notes)
    done = re.search(r"(\d+) layers and (\d+) other ops in integers; (\d+) activations", told)
    in_integers, others, values = (int(number) for number in done.groups()) if done else (0, 0, 0)
    left = Counter(skip.reason.removeprefix("stays float: ") for skip in report.skipped)
    reasons = [f"{count} × {reason}" for reason, count in left.most_common(3)]
    nothing = re.search(r"nothing to (?:do|quantize): [^;]*", told)
    return Result(in_integers, others, values, reasons=tuple([nothing[0], *reasons] if nothing else reasons))


def checker_faults(source: Path, written: Path) -> list[str]:
    """What onnx's checker has against a file, unless it has something against the original as well."""
    try:
        onnx.checker.check_model(str(written), full_check=True)
    except Exception as error:
        try:
            onnx.checker.check_model(str(source), full_check=True)
        except Exception:
            return []
        return [f"checker: {said(error)}"]
    return []


def compared(result: Result, original: Model, model: Model) -> Result:
    """The worst of the outputs that say something, on other inputs than those it was calibrated on."""
    outputs = compare(original, model, seeded_samples(original, OTHERS, OTHER_SEED)).outputs
    faults = tuple(f"output '{o.name}' {o.vacuous or 'does not compare'}" for o in outputs if o.sqnr_db is None)
    telling = {o.name: o.sqnr_db for o in outputs if o.vacuous is None and o.sqnr_db is not None}
    if not telling or not result.layers:
        return replace(result, faults=faults)
    worst = min(telling, key=lambda name: telling[name])
    return replace(result, sqnr_db=telling[worst], worst=worst if len(outputs) > 1 else "", faults=faults)


def inner_sqnr_db(original: Model, model: Model) -> float | None:
    """Of the last linear layer whose result depends on the input: behind it may be a Sigmoid that is zero everywhere."""
    first = original.copy()
    fold(first)
    graph, linear = Graph(first.proto.graph), {layer.within for layer in layers(first, count=False)}
    kept = {name for node in model.proto.graph.node for name in node.output}
    made = [node.output[0] for node, name in zip(graph.proto.node, graph.names, strict=True) if name in linear]
    meters = {name: Meter(name, None) for name in made if name in kept}
    runners = tuple(runner(m, also=list(meters)) for m in (first, model))
    for feeds in seeded_samples(original, OTHERS, OTHER_SEED).feeds:
        measure(runners, feeds, meters)
    found = [meter.result() for meter in meters.values()]
    return next((f.sqnr_db for f in reversed(found) if f.vacuous is None and f.sqnr_db not in (None, math.inf)), None)


def at_other_sizes(source: Path, written: Path, shapes: list[str]) -> str:
    """At how many other batches, resolutions and both a graph with open dimensions runs, of those at which the original does."""
    inputs = load(source).proto.graph.input
    free = {v.name: [not d.HasField("dim_value") for d in v.type.tensor_type.shape.dim] for v in inputs}
    if not any(any(dims) for dims in free.values()):
        return ""
    works = total = 0
    for batch, rest in ((2, 1), (1, 2), (3, 2)):
        bound = [scaled(text, free, batch, rest) for text in shapes]
        if bound == shapes:
            continue
        try:
            feeds = seeded_samples(load(source).bind(bound), 1).feeds[0]
            wanted = runner(load(source)).run(feeds)
        except OnnxSparseError:
            continue
        total += 1
        try:
            found = runner(load(written)).run(feeds)
            works += all(found[name].shape == value.shape for name, value in wanted.items())
        except OnnxSparseError:
            continue
    return f"{works} of {total}"


def scaled(text: str, free: dict[str, list[bool]], batch: int, rest: int) -> str:
    """An input's shape with its open dimensions multiplied: the first, and the others."""
    name, _, shape = text.partition("=")
    factors = [(batch if at == 0 else rest) if is_open else 1 for at, is_open in enumerate(free[name])]
    return f"{name}={'x'.join(str(int(size) * factor) for size, factor in zip(shape.split('x'), factors, strict=True))}"


def zeros_that_stay(source: Path, shapes: list[str], written: Path) -> str:
    """Prune to half, quantize, and count in the file which of the zeros are integer 0."""
    model = load(source).bind(shapes)
    Prune(sparsity_op=0.5).run(model)
    before = {name: model.weights[name] == 0 for name in model.weights}
    report = Quantize(method="minmax").run(model, seeded_samples(model, 1, CALIBRATION_SEED).feeds)
    model.save(written)
    found = load(written).weights
    zeros = kept = 0
    for change in report.changes:
        name = f"{change.tensor}_quantized" if f"{change.tensor}_quantized" in found else change.tensor
        if change.tensor in before and before[change.tensor].shape == found[name].shape:
            zeros += int(before[change.tensor].sum())
            kept += int((found[name][before[change.tensor]] == 0).sum())
    return "all" if kept == zeros else f"{kept} of {zeros}"


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def in_own_process(zoo: Path, entry: dict[str, object]) -> str:
    """The row of one graph as JSON."""
    command = [sys.executable, "-m", "benchmarks.zoo_int8", "one", str(zoo), "--only", str(entry["file"])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return json.dumps(asdict(Row(str(entry["file"]), 0, {}, faults=(f"took more than {LIMIT_S} s",))))
    if done.returncode == 0:
        return done.stdout.strip().splitlines()[-1]
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return json.dumps(asdict(Row(str(entry["file"]), 0, {}, faults=(f"process ended with {done.returncode}: {last}",))))


def rows_of(lines: Sequence[str]) -> list[Row]:
    found = {}
    for line in lines:
        fields = json.loads(line)
        fields["results"] = {target: Result(**result) for target, result in fields["results"].items()}
        found[fields["model"]] = Row(**fields)
    return [found[name] for name in sorted(found)]


def describe(row: Row) -> str:
    results = [row.results.get(target, Result()) for target in TARGETS]
    reasons = dict.fromkeys(reason for found in results for reason in found.reasons)
    mark = "look: " if row.lowest_db < LOW_DB else ""
    faults = row.all_faults
    cells = (
        row.model,
        *(f"{found.layers} of {row.linear}" for found in results),
        *(str(found.other_ops) for found in results),
        *(str(found.values) for found in results),
        *(decibels(found) for found in results),
        "fault" if any("checker" in fault for fault in faults) else "passes",
        "fault" if any(word in fault for fault in faults for word in ("run:", "quantize:", "process")) else "yes",
        row.zeros,
        ", ".join(dict.fromkeys(found.other_sizes for found in results if found.other_sizes)),
        f"{sum(found.seconds for found in results):.1f}",
        mark + "; ".join([*faults, *reasons]),
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def decibels(found: Result) -> str:
    """Of the worst output; its name where there are several."""
    if found.sqnr_db is None:
        shown = "says nothing" if found.layers else ""
    else:
        shown = f"{found.sqnr_db:.1f}" + (f" ({found.worst})" if found.worst else "")
    return shown if found.inner_db is None else f"{shown}, inside {found.inner_db:.1f}"


def render(rows: Sequence[Row]) -> str:
    faulty = [row for row in rows if row.all_faults]
    nothing = [row for row in rows if not row.is_quantized and not row.all_faults]
    low = [row for row in rows if row.lowest_db < LOW_DB]
    medians = []
    for target in TARGETS:
        found = [r.results[target].sqnr_db for r in rows if target in r.results]
        numbers = [v for v in found if v is not None]
        medians.append(f"{median(numbers):.1f} dB ({target}, {len(numbers)} graphs)" if numbers else f"none ({target})")
    columns = [
        *("model", "layers, cv22", "layers, x86", "other ops, cv22", "other ops, x86", "values, cv22", "values, x86"),
        *("SQNR dB, cv22", "SQNR dB, x86", "checker", "runs", "zeros kept", "other sizes", "s", "notes"),
    ]
    lines = [
        "# Every graph in integers",
        "",
        f"Made by `benchmarks/zoo_int8.py`: default options, {SAMPLES} seeded random samples for the ranges, {OTHERS} others for",
        "the SQNR of the worst output against the float model. Most graphs have random weights and all get random inputs: SQNR",
        "says how far the integers moved the outputs and nothing about accuracy. Zeros kept: of a copy pruned to half. Other",
        "sizes: of open dimensions, how many batch sizes and resolutions it runs at, of those at which the original does.",
        "Inside: of the last layer that depends on the input, where the outputs say nothing or are low (a Sigmoid near zero).",
        "",
        f"- {len(rows)} graphs: {len(rows) - len(faulty) - len(nothing)} quantized, {len(nothing)} with nothing to quantize, "
        f"{len(faulty)} with a fault",
        f"- SQNR, median: {', '.join(medians)}",
        f"- {len(low)} below {LOW_DB:.0f} dB: {', '.join(row.model for row in low) or 'none'}",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
    ]
    return "\n".join([*lines, *map(describe, rows)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "one"):
        command = commands.add_parser(name)
        command.add_argument("zoo", type=Path)
        command.add_argument("--only", default="")
        command.add_argument("--into", type=Path, default=Path("zoo-int8.jsonl"))
    table = commands.add_parser("table")
    table.add_argument("rows", type=Path)
    table.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.command == "table":
        given.out.write_text(render(rows_of(given.rows.read_text().splitlines())))
        return
    entries = sorted(json.loads((given.zoo / "manifest.json").read_text()), key=lambda entry: str(entry["file"]))
    for entry in (entry for entry in entries if given.only in entry["file"]):
        if given.command == "one":
            np.seterr(all="ignore")  # onnx's reference implementation warns of infinities in masks
            with tempfile.TemporaryDirectory() as folder:
                row = examine(given.zoo / entry["file"], binding(entry["run_shapes"]), Path(folder))
            print(json.dumps(asdict(row)))
        else:
            line = in_own_process(given.zoo, entry)
            with given.into.open("a") as file:
                file.write(line + "\n")
            print(describe(rows_of([line])[0]), flush=True)


if __name__ == "__main__":
    main()
