"""How far two models' outputs are apart, in onnxruntime, and whether that comparison says anything."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxsparse.errors import BackendError
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array
from onnxsparse.ops import find
from onnxsparse.runtime.as_run import AsRun, Runs, explanation, saturates
from onnxsparse.runtime.inputs import Samples, seeded_samples
from onnxsparse.runtime.session import Feeds, Runner, holds_integers, processor_notes, runner

SEEDED_SAMPLES = 2

INSENSITIVE = 1e-4
"""An output that moves less than this, relative to its largest value, between two inputs tells nothing about a change."""

AS_RUN_TOLERANCE_DB = 1.0
"""A processor's own run that is closer than this to the file as it is written is not worth a word."""

BLOCK_ELEMENTS = 1 << 20
"""How much of a tensor is held as float64 at a time."""


@dataclass(frozen=True)
class OutputComparison:
    """One tensor of two models. Differences are absolute; `sqnr_db` is infinite for equal tensors, None if not comparable.

    `top1`: share of rows (last axis) whose largest element is at the same place, None where there is one element a row.
    `vacuous`: why agreement here proves nothing. `feeds`: the node that this inner tensor is compared for.
    """

    name: str
    max_difference: float | None
    mean_difference: float | None
    sqnr_db: float | None
    cosine: float | None
    top1: float | None
    vacuous: str | None
    feeds: str | None = None
    broken: bool = False
    """Whether the second model alone makes values that are not finite, or another shape."""
    as_run_sqnr_db: float | None = None
    """The SQNR with integers as a processor runs them; None where that was not tried, there are none, or it does not compare."""

    @property
    def runs_otherwise(self) -> bool:
        """Whether a processor makes something else of the integers than the file says."""
        if self.as_run_sqnr_db is None or self.sqnr_db is None or self.as_run_sqnr_db == self.sqnr_db:
            return False
        return abs(self.as_run_sqnr_db - self.sqnr_db) > AS_RUN_TOLERANCE_DB


@dataclass(frozen=True)
class Comparison:
    outputs: tuple[OutputComparison, ...]
    samples: int
    notes: tuple[str, ...] = ()

    @property
    def worst_sqnr_db(self) -> float | None:
        """The lowest SQNR over outputs that mean something; None if there is none, or one does not compare or is broken."""
        found = [None if o.broken else o.sqnr_db for o in self.outputs if o.vacuous is None or o.broken]
        return min((v for v in found if v is not None), default=None) if None not in found else None

    def passes(self, min_sqnr_db: float) -> bool:
        """Whether every output is compared, means something, and is at least this close."""
        return all(o.vacuous is None and o.sqnr_db is not None and o.sqnr_db >= min_sqnr_db for o in self.outputs)

    def to_json(self) -> dict[str, object]:
        rows = [
            {
                "name": o.name,
                "max_difference": o.max_difference,
                "mean_difference": o.mean_difference,
                "sqnr_db": finite(o.sqnr_db),
                "as_run_sqnr_db": finite(o.as_run_sqnr_db),
                "identical": o.sqnr_db == math.inf,
                "cosine": o.cosine,
                "top1": o.top1,
                "vacuous": o.vacuous,
                "feeds": o.feeds,
            }
            for o in self.outputs
        ]
        return {"schema": 1, "outputs": rows, "samples": self.samples, "notes": list(self.notes)}


def finite(value: float | None) -> float | None:
    """As JSON has it, where infinity is no number."""
    return value if value is not None and math.isfinite(value) else None


def compare(
    first: Model,
    second: Model,
    samples: Samples | None = None,
    *,
    custom_ops: Sequence[Path] = (),
    seed: int = 0,
    as_run: AsRun | None = None,
) -> Comparison:
    """Run both models, as they are written, on the same inputs: `samples`, as `load_samples` reads them, else seeded random ones.

    Where the first model picks elements (NonMaxSuppression, TopK), the tensors that decide are compared as well. `as_run`: how
    a processor runs a model, to try integers on as well. Raises BackendError where onnxruntime cannot run a model.
    """
    samples = seeded_samples(first, SEEDED_SAMPLES, seed) if samples is None else samples
    inner = dict(deciding_tensors(first))
    known = {o for node in second.proto.graph.node for o in node.output}
    inner = {name: node for name, node in inner.items() if name in known}
    runners = tuple(runner(m, custom_ops=custom_ops, also=list(inner)) for m in (first, second))
    shared = [name for name in runners[0].outputs if name in runners[1].outputs]
    lost = [name for name in runners[0].outputs if name not in runners[1].outputs]
    meters = {name: Meter(name, inner.get(name)) for name in shared}
    for feeds in samples.feeds:
        measure(runners, feeds, meters)
    if not differ(samples.feeds):
        probe(runners[0], first, meters, seed)
    outputs = tuple(meter.result() for meter in meters.values())
    notes = [*samples.notes, *(f"output '{name}' is only in {first.name}" for name in lost)]
    notes += [*processor_notes(first), *processor_notes(second)]
    if as_run is not None and (holds_integers(first) or holds_integers(second)):
        outputs, said = tried((first, second), samples, outputs, as_run, custom_ops)
        notes += said
    return Comparison(outputs, len(samples.feeds), tuple(notes))


def tried(
    models: tuple[Model, Model],
    samples: Samples,
    outputs: tuple[OutputComparison, ...],
    as_run: AsRun,
    custom_ops: Sequence[Path],
) -> tuple[tuple[OutputComparison, ...], list[str]]:
    """The outputs' figures with those of a processor's own run beside them, and what to say where they differ."""
    try:
        acting: list[Runs] = [
            as_run(model, custom_ops) if holds_integers(model) else runner(model, custom_ops=custom_ops) for model in models
        ]
        distances = {output.name: Distance() for output in outputs if output.feeds is None}
        for feeds in samples.feeds:
            first, second = (one.run(feeds) for one in acting)
            for name, distance in distances.items():
                distance.add(first[name], second[name])
    except BackendError as error:
        return outputs, [f"as onnxruntime runs it on this processor, with optimisations, it does not run: {error}"]
    found = tuple(
        replace(output, as_run_sqnr_db=distances[output.name].level_db if output.name in distances else None)
        for output in outputs
    )
    said = [
        f"{output.name}: {output.sqnr_db:.2f} dB as the file is written, {output.as_run_sqnr_db:.2f} dB as it runs here"
        for output in found
        if output.runs_otherwise
    ]
    return found, [*said, explanation(saturates(as_run))] if said else []


def measure(runners: tuple[Runner, ...], feeds: Feeds, meters: "dict[str, Meter]") -> None:
    a, b = (r.run(feeds) for r in runners)
    for name, meter in meters.items():
        meter.add(a[name], b[name])


def differ(feeds: Sequence[Feeds]) -> bool:
    """Whether there are two different samples."""
    return any(not np.array_equal(other[name], array) for other in feeds[1:] for name, array in feeds[0].items())


def probe(first: Runner, model: Model, meters: "dict[str, Meter]", seed: int) -> None:
    """With samples that are all alike there is nothing to see an output move by: run the first model on a random one as well."""
    values = first.run(seeded_samples(model, 1, seed + 1).feeds[0])
    for name, meter in meters.items():
        meter.see(values[name])


def deciding_tensors(model: Model) -> Iterator[tuple[str, str]]:
    """(tensor, node) for what decides which elements a picking op picks."""
    for node, name in zip(model.proto.graph.node, Graph(model.proto.graph).names, strict=True):
        spec = find(node.domain, node.op_type, model.opset(node.domain))
        for at in spec.quant.selects if spec is not None else ():
            if at < len(node.input) and node.input[at]:
                yield node.input[at], f"{node.op_type} {name}"


@dataclass
class Distance:
    """How far two versions of a tensor are apart: sums over samples, in float64, without keeping the samples."""

    elements: int = 0
    max_difference: float = 0.0
    sum_difference: float = 0.0
    noise: float = 0.0
    power: float = 0.0
    other_power: float = 0.0
    dot: float = 0.0
    problem: str | None = None
    broken: bool = False
    mismatch: str | None = None

    def add(self, a: Array, b: Array) -> bool:
        """Add a sample; whether all of it counts."""
        if a.dtype.kind not in "fiubV" or b.dtype.kind not in "fiubV":
            self.mismatch = f"has type {a.dtype}"
        elif a.shape != b.shape:
            self.mismatch = f"has shape {list(a.shape)} in one model and {list(b.shape)} in the other"
            self.broken = True
        else:
            flat = a.reshape(-1), b.reshape(-1)
            blocks = (slice(start, start + BLOCK_ELEMENTS) for start in range(0, a.size, BLOCK_ELEMENTS))
            return all(self._add_values(*(v[block].astype(np.float64) for v in flat)) for block in blocks)
        return False

    def _add_values(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
        if not np.isfinite(a).all() or not np.isfinite(b).all():
            self.problem = "it has NaN or infinite values"
            self.broken = self.broken or bool(np.isfinite(a).all())
            return False
        difference = np.abs(a - b)
        self.elements += a.size
        self.max_difference = max(self.max_difference, float(difference.max()))
        self.sum_difference += float(difference.sum())
        self.noise += float((difference**2).sum())
        self.power += float((a**2).sum())
        self.other_power += float((b**2).sum())
        self.dot += float((a * b).sum())
        return True

    @property
    def sqnr_db(self) -> float:
        return sqnr_db(self.power, self.noise)

    @property
    def level_db(self) -> float | None:
        """The SQNR of what compares in whole; None where something does not."""
        return self.sqnr_db if self.elements and self.problem is None and self.mismatch is None else None

    @property
    def cosine(self) -> float | None:
        return self.dot / math.sqrt(self.power * self.other_power) if self.power and self.other_power else None


@dataclass
class Meter:
    """Gathers one output's figures over samples, and whether they say anything."""

    name: str
    feeds: str | None
    distance: Distance = field(default_factory=Distance)
    rows: int = 0
    agreeing: int = 0
    first: NDArray[np.float64] | None = None
    constant: bool = True
    moved: float = field(default=0.0)

    def add(self, a: Array, b: Array) -> None:
        self.see(a)
        if self.distance.add(a, b) and a.ndim and a.shape[-1] > 1:
            agreeing = a.argmax(-1) == b.argmax(-1)
            self.rows += agreeing.size
            self.agreeing += int(agreeing.sum())

    def see(self, a: Array) -> None:
        """Remember how the first model's output moves between samples."""
        if a.dtype.kind not in "fiubV" or not a.size:
            return
        value = a.astype(np.float64)
        if self.first is None:
            self.first = value
        # one element that is repeated may still be another one for another sample
        self.constant = self.constant and value.size > 1 and bool((value == self.first.flat[0]).all())
        if self.first is value:
            return
        if self.first.shape != value.shape:
            self.moved = math.inf
        else:
            scale = max(float(np.abs(self.first).max()), np.finfo(np.float64).tiny)
            self.moved = max(self.moved, float(np.abs(value - self.first).max()) / scale)

    def result(self) -> OutputComparison:
        found = self.distance
        if found.mismatch is not None or not found.elements:
            why = found.mismatch or self._vacuous()
            return OutputComparison(self.name, None, None, None, None, None, why, self.feeds, found.broken)
        return OutputComparison(
            self.name,
            found.max_difference,
            found.sum_difference / found.elements,
            found.sqnr_db,
            found.cosine,
            self.agreeing / self.rows if self.rows else None,
            self._vacuous(),
            self.feeds,
            found.broken,
        )

    def _vacuous(self) -> str | None:
        if self.distance.problem is not None:
            return self.distance.problem
        if self.first is None:
            return "it is empty"
        if self.constant:
            return "it is constant"
        if self.moved < INSENSITIVE:
            return f"it does not depend on the input, as far as samples tell (moves by {self.moved:.1e} of its largest value)"
        return None


def sqnr_db(power: float, noise: float) -> float:
    """10·log10(signal power / noise power): infinite without noise, −infinite for noise on a zero signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(power / noise) if power else -math.inf
