"""One graph in integers: quantized for both targets, saved, checked, run, compared, and its zeros counted."""

import math
import re
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from benchmarks.zoo.channels import runs_at
from onnxsparse import Prune, compare, layers, load
from onnxsparse.analysis.flattening import flatten
from onnxsparse.folding import fold
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.model import Model
from onnxsparse.passes.quantize import Quantize
from onnxsparse.pipeline.base import StepReport
from onnxsparse.runtime.compare import Meter, measure
from onnxsparse.runtime.inputs import seeded_samples
from onnxsparse.runtime.session import runner

TARGETS = ("cv22", "onnxruntime-x86")
SAMPLES, OTHERS = 8, 2
CALIBRATION_SEED, OTHER_SEED = 1, 2

LOW_DB = 5.0
"""Below, a graph is marked: to be looked at."""


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
    flatten(first)
    fold(first, may_grow=True)
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
    sizes = ([scaled(text, free, batch, rest) for text in shapes] for batch, rest in ((2, 1), (1, 2), (3, 2)))
    return runs_at(source, written, (bound for bound in sizes if bound != shapes))


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
