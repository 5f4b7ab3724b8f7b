"""One graph in integers: quantized for both targets, saved, checked, run, compared, and its zeros counted."""

import math
import re
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.zoo.runner import Entry, at_other_sizes, checker_faults, said
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


def examine(entry: Entry, folder: Path) -> Row:
    results = {target: judge(entry, target, folder / f"{target}.onnx") for target in TARGETS}
    row = Row(entry.name, len(layers(entry.load(), count=False)), results)
    if not row.is_quantized:
        return row
    try:
        return replace(row, zeros=zeros_that_stay(entry, folder / "pruned.onnx"))
    except Exception as error:  # whatever is raised is the finding
        return replace(row, faults=(f"pruned: {said(error)}",))


def judge(entry: Entry, target: str, written: Path) -> Result:
    """Quantize, save, check, run, compare; whatever goes wrong is written down."""
    model = entry.load()
    original = model.copy()
    start = time.perf_counter()
    try:
        report = Quantize(target=target).run(model, seeded_samples(model, SAMPLES, CALIBRATION_SEED).feeds)
        model.save(written)
    except Exception as error:  # whatever is raised is the finding
        return Result(faults=(f"quantize: {said(error)}",), seconds=time.perf_counter() - start)
    result = replace(counted(report, model), seconds=time.perf_counter() - start)
    faults = checker_faults(entry.path, written)
    try:
        result = compared(result, original, load(written).bind(entry.sizes))
        result = replace(result, other_sizes=at_other_sizes(entry, written, ((2, 1), (1, 2), (3, 2))))
        if result.layers and (result.sqnr_db is None or result.sqnr_db < LOW_DB or result.sqnr_db == math.inf):
            result = replace(result, inner_db=inner_sqnr_db(original, load(written).bind(entry.sizes)))
    except Exception as error:
        faults.append(f"run: {said(error)}")
    return replace(result, faults=(*result.faults, *faults))


def counted(report: StepReport, model: Model) -> Result:
    """What the pass did and did not do: its own words for layers and ops, the quantizers in the model for values."""
    told = "; ".join(report.notes)
    done = re.search(r"(\d+) layers and (\d+) other ops in integers", told)
    in_integers, others = (int(number) for number in done.groups()) if done else (0, 0)
    values = len({node.input[0] for node in model.proto.graph.node if node.op_type == "QuantizeLinear"}) if done else 0
    left = Counter(skip.reason.removeprefix("stays float: ") for skip in report.skipped)
    reasons = [f"{count} × {reason}" for reason, count in left.most_common(3)]
    nothing = re.search(r"nothing to (?:do|quantize): [^;]*", told)
    return Result(in_integers, others, values, reasons=tuple([nothing[0], *reasons] if nothing else reasons))


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
    """Of the last linear layer whose result depends on the input: after it may be a Sigmoid that is zero everywhere."""
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


def zeros_that_stay(entry: Entry, written: Path) -> str:
    """Prune to half, quantize, and count in the file which of the zeros are integer 0."""
    model = entry.load()
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
