"""Comparison of two models by their outputs in onnxruntime, and whether an agreement means anything.

1. Run both models on the same samples, and sum up the differences of each output (`Distance`).
2. Look at how each output of the first model differs between samples (`Meter`). An output that is constant, empty, or
   independent of the input agrees whatever the second model does: the comparison is vacuous.
3. For ops that select elements (NonMaxSuppression, TopK), compare the tensors that decide too: a small difference there
   may change an output completely.
4. Compare the slices of outputs, of which a broken one may be small (`runtime.slices`).
5. On request, repeat 1 for models with integers as this processor runs them (`as_run`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
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
from onnxsparse.runtime.classes import Choices, batch_size
from onnxsparse.runtime.distance import Distance, finite
from onnxsparse.runtime.inputs import seeded_samples
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import Feeds, Runner, holds_integers, processor_notes, runner
from onnxsparse.runtime.slices import Slices, WorstSlice, judged

SEEDED_SAMPLES = 2
"""Random samples if the caller gives none: the fewest that show whether an output depends on the input."""

INSENSITIVE = 1e-4
"""Smallest change of an output between samples, relative to its largest value, at which it counts as dependent on the input."""

AS_RUN_TOLERANCE_DB = 1.0
"""Largest difference in SQNR, in dB, between a file as written and as run that is too small to report."""


@dataclass(frozen=True)
class OutputComparison:
    """One tensor of two models. Figures are None if the tensors are not comparable.

    `max_difference`, `mean_difference`: absolute. `sqnr_db`: signal to quantization noise; infinite for equal tensors.
    `cosine`: cosine similarity, None if one tensor is zero. `top1`: share of samples whose largest element is at the same index,
    None for outputs that are no classifier's. `vacuous`: why an agreement means nothing, None if it does. `feeds`: the selecting
    node that this inner tensor decides, None for an output.
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
    """Whether the second model alone produces NaN or infinite values, or its shape differs."""
    as_run_sqnr_db: float | None = None
    """SQNR of the whole output as a processor runs the models. None if not tried, without integers, or not comparable."""
    worst_slice: WorstSlice | None = None
    """The slice with the lowest SQNR that carries signal. None if there is none, all are equal, or it is not comparable."""

    @property
    def lowest_db(self) -> float | None:
        """The SQNR in dB of the whole or of its worst slice, whichever is lower; None if not comparable."""
        if self.sqnr_db is None or self.worst_slice is None:
            return self.sqnr_db
        return min(self.sqnr_db, self.worst_slice.sqnr_db)

    @property
    def lowest_text(self) -> str:
        """The lower SQNR and what has it, in words; or why there is none."""
        if self.vacuous is not None:
            return f"{self.name} says nothing about the change: {self.vacuous}"
        if self.lowest_db is None:
            return f"{self.name} cannot be compared"
        sliced = self.worst_slice is not None and self.worst_slice.sqnr_db == self.lowest_db
        label = self.worst_slice.label if sliced and self.worst_slice is not None else self.name
        return f"{label} has {self.lowest_db:.2f} dB"

    @property
    def runs_otherwise(self) -> bool:
        """Whether the SQNR as run differs from that as written by more than AS_RUN_TOLERANCE_DB."""
        if self.as_run_sqnr_db is None or self.sqnr_db is None or self.as_run_sqnr_db == self.sqnr_db:
            return False
        return abs(self.as_run_sqnr_db - self.sqnr_db) > AS_RUN_TOLERANCE_DB


@dataclass(frozen=True)
class Comparison:
    """The comparison of two models over `samples` runs."""

    outputs: tuple[OutputComparison, ...]
    samples: int
    notes: tuple[str, ...] = ()

    @property
    def worst_sqnr_db(self) -> float | None:
        """The lowest SQNR in dB over the outputs that are not vacuous and their worst slices.

        None if there is none, or one is broken or not comparable.
        """
        found = [None if o.broken else o.lowest_db for o in self.outputs if o.vacuous is None or o.broken]
        return min((v for v in found if v is not None), default=None) if None not in found else None

    def passes(self, min_sqnr_db: float) -> bool:
        """Whether every output is comparable, not vacuous, and has at least this SQNR in dB, as has its worst slice."""
        return self.shortfall(min_sqnr_db) is None

    def shortfall(self, min_sqnr_db: float) -> str | None:
        """Why the models do not agree to `min_sqnr_db` dB, the worst output first; None if they do."""
        low = [o for o in self.outputs if o.vacuous is not None or o.lowest_db is None or o.lowest_db < min_sqnr_db]
        if not low:
            return None
        worst = min(low, key=lambda o: -math.inf if o.lowest_db is None or o.vacuous is not None else o.lowest_db)
        return f"not every output reaches {min_sqnr_db:g} dB: {worst.lowest_text}"

    @property
    def worst_slice(self) -> WorstSlice | None:
        """The worst slice of all outputs that are not vacuous; None if there is none."""
        found = [o.worst_slice for o in self.outputs if o.worst_slice is not None and o.vacuous is None]
        return min(found, key=lambda part: part.sqnr_db, default=None)

    def to_json(self) -> dict[str, object]:
        """The comparison as JSON; an infinite SQNR is null, with `identical` true."""
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
                "worst_slice": None if o.worst_slice is None else o.worst_slice.to_json(),
            }
            for o in self.outputs
        ]
        return {"schema": 1, "outputs": rows, "samples": self.samples, "notes": list(self.notes)}


def compare(
    first: Model,
    second: Model,
    samples: Samples | None = None,
    *,
    custom_ops: Sequence[Path] = (),
    seed: int = 0,
    as_run: AsRun | None = None,
) -> Comparison:
    """Run both models, as they are written, on the same inputs, and compare their outputs.

    `samples`: from `load_samples`; None: two seeded random ones. `custom_ops`: libraries for onnxruntime. `as_run`: how a
    processor runs a model, to compare integers as run too; None: not compared.

    Raises BackendError if onnxruntime cannot run a model, ParamError for an input for which random values cannot be drawn.
    """
    samples = seeded_samples(first, SEEDED_SAMPLES, seed) if samples is None else samples
    inner = dict(deciding_tensors(first))
    known = {o for node in second.proto.graph.node for o in node.output}
    inner = {name: node for name, node in inner.items() if name in known}
    runners = tuple(runner(m, custom_ops=custom_ops, also=list(inner)) for m in (first, second))
    shared = [name for name in runners[0].outputs if name in runners[1].outputs]
    lost = [name for name in runners[0].outputs if name not in runners[1].outputs]
    meters = {name: Meter(name, inner.get(name)) for name in shared}
    for feeds in samples:
        measure(runners, feeds, meters)
    if not differ(samples):
        probe(runners[0], first, samples.feeds[0], meters, seed)
    outputs = with_slices([meter.result() for meter in meters.values()], meters)
    notes = [*samples.notes, *(f"output '{name}' is only in {first.name}" for name in lost)]
    notes += [*processor_notes(first), *processor_notes(second)]
    if as_run is not None and (holds_integers(first) or holds_integers(second)):
        outputs, said = tried((first, second), runners, samples, outputs, as_run, custom_ops)
        notes += said
    return Comparison(outputs, len(samples), tuple(notes))


def with_slices(outputs: Sequence[OutputComparison], meters: "Mapping[str, Meter]") -> tuple[OutputComparison, ...]:
    """The outputs with their worst slices, and with `top1` where an output is a classifier's; inner tensors have neither."""
    ours = {o.name: meters[o.name] for o in outputs if o.feeds is None}
    slices = judged({name: meter.slices for name, meter in ours.items()})
    found = []
    for output in outputs:
        others = [meter.choices.shape for name, meter in ours.items() if name != output.name]
        comparable = output.sqnr_db is not None and output.name in ours
        worst = slices[output.name].worst if comparable and output.name in slices else None
        top1 = ours[output.name].choices.share(others) if comparable else None
        found.append(replace(output, worst_slice=worst, top1=top1))
    return tuple(found)


def tried(
    models: tuple[Model, Model],
    runners: tuple[Runner, ...],
    samples: Samples,
    outputs: tuple[OutputComparison, ...],
    as_run: AsRun,
    custom_ops: Sequence[Path],
) -> tuple[tuple[OutputComparison, ...], list[str]]:
    """The outputs with `as_run_sqnr_db` filled in, and notes for those that differ from the file as written.

    `runners`: the models as they are written, which serve a model without integers. A model that does not run as a processor
    would adds a note and no figures.
    """
    try:
        acting: list[Runs] = [
            as_run(model, custom_ops) if holds_integers(model) else written
            for model, written in zip(models, runners, strict=True)
        ]
        distances = {output.name: Distance() for output in outputs if output.feeds is None}
        for feeds in samples:
            first, second = (one.run(feeds) for one in acting)
            for name, distance in distances.items():
                distance.add(first[name], second[name])
    except BackendError as error:
        return outputs, [f"with onnxruntime's optimisations, it does not run on this processor: {error}"]
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
    """Run both models on one sample, and add the outputs to the meters."""
    a, b = (r.run(feeds) for r in runners)
    for name, meter in meters.items():
        meter.add(a[name], b[name], batch_size(feeds))


def differ(samples: Samples) -> bool:
    """Whether there are two different samples; those after the first that differs are not read."""
    first = samples.feeds[0]
    return any(not np.array_equal(other[name], array) for other in samples for name, array in first.items())


def probe(first: Runner, model: Model, given: Feeds, meters: "dict[str, Meter]", seed: int) -> None:
    """Run the first model on a random sample too, to see whether its outputs change: all samples are equal to `given`."""
    values = first.run(seeded_samples(model, 1, seed + 1, like=given).feeds[0])
    for name, meter in meters.items():
        meter.see(values[name])


def deciding_tensors(model: Model) -> Iterator[tuple[str, str]]:
    """(tensor, node) for each input by which a selecting op (NonMaxSuppression, TopK) decides which elements it selects."""
    for node, name in zip(model.proto.graph.node, Graph(model.proto.graph).names, strict=True):
        spec = find(node.domain, node.op_type, model.opset(node.domain))
        for at in spec.quant.selects if spec is not None else ():
            if at < len(node.input) and node.input[at]:
                yield node.input[at], f"{node.op_type} {name}"


@dataclass
class Meter:
    """One output over all samples: the distance of the models, and the changes between samples.

    `slices`, `choices`: of an output; an inner tensor has none. `first`: the first sample. `moved`: largest change from the first
    sample, relative to its largest value. `constant`: all values equal so far.
    """

    name: str
    feeds: str | None
    distance: Distance = field(default_factory=Distance)
    slices: Slices = field(default_factory=Slices)
    choices: Choices = field(default_factory=Choices)
    first: NDArray[np.float64] | None = None
    constant: bool = True
    moved: float = 0.0

    def add(self, a: Array, b: Array, batch: int | None) -> None:
        """Add one sample of both models, whose inputs have `batch` rows; None: the inputs do not tell."""
        self.see(a)
        comparable = self.distance.add(a, b)
        if self.feeds is not None or not a.ndim:
            return
        self.slices.add(a, b)
        if comparable:
            self.choices.add(a, b, batch)

    def see(self, a: Array) -> None:
        """Note how the first model's output changes from the first sample."""
        if a.dtype.kind not in "fiubV" or not a.size:
            return
        value = a.astype(np.float64)
        if self.first is None:
            self.first = value
        # an output of one element is equal within a sample; `moved` tells whether it changes between samples
        self.constant = self.constant and value.size > 1 and bool((value == self.first.flat[0]).all())
        if self.first is value:
            return
        if self.first.shape != value.shape:
            self.moved = math.inf
        else:
            scale = max(float(np.abs(self.first).max()), np.finfo(np.float64).tiny)
            self.moved = max(self.moved, float(np.abs(value - self.first).max()) / scale)

    def result(self) -> OutputComparison:
        """The figures over all samples, without those that depend on the model's other outputs (`with_slices`)."""
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
            None,
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
