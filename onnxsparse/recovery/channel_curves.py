"""What removing channels costs each group: the order of its channels, the error over their number, and what the outputs feel.

1. The layers that read a group's channels are found through the labels of their inputs (`find_readings`).
2. A walk of the dense model collects the moments of their inputs. When it meets the last reader of a group, the order of the
   group's channels and their cost follow (`elimination`).
3. A second walk over a few samples: the group alone loses a quarter, then half of its channels, all layers that read it are
   refitted, and the rest of the model runs. How far the outputs move per unit of error is the group's sensitivity.

A group that no measurable layer reads is ordered by its weights; half of it is cut from a copy to see how far the outputs move.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from onnxsparse.analysis.layers import layers
from onnxsparse.calibration.positions import Inputs, gather
from onnxsparse.calibration.walk import Values, Walk
from onnxsparse.channels.allocation import LossCurve
from onnxsparse.channels.cut import apply_cut
from onnxsparse.channels.groups import Group, Solution
from onnxsparse.channels.importance import weight_importance
from onnxsparse.ir.array_types import Floats, Indices, Singles
from onnxsparse.ir.model import Model
from onnxsparse.ops.labels import Labels
from onnxsparse.progress import tell
from onnxsparse.pruning.candidates import find_candidates
from onnxsparse.records import Skip
from onnxsparse.recovery.database import PROBED_SAMPLES, TINY
from onnxsparse.recovery.divergence import Reference
from onnxsparse.recovery.elimination import NONE, Elimination, Reader, eliminate
from onnxsparse.recovery.fit import add_bias
from onnxsparse.recovery.moments import unit_moments
from onnxsparse.recovery.units import Unit, find_units
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import runner

PROBED_SHARES = (0.25, 0.5)
"""Shares of a group's channels that are removed to measure its sensitivity; between them its logarithm is interpolated."""


@dataclass(frozen=True)
class Reading:
    """A unit that reads channels. `columns`: groups × columns, `rows`: groups × rows; the class of each, NONE for none."""

    unit: Unit
    columns: Labels
    rows: Labels

    def reader(self, group: Group, weight: Floats, h: Floats) -> Reader:
        """It as a reader of one group's channels, which are numbered as in the group."""
        return Reader.of(weight, h, numbered(group, self.columns), numbered(group, self.rows))


Changed = tuple[Unit, Singles, Floats]
"""A unit, its refitted weights, and the mean of the outputs that these miss."""


@dataclass(frozen=True)
class Curves:
    """The curves of all groups. `unmeasured`: groups that no measurable layer reads."""

    curves: tuple[LossCurve, ...]
    unmeasured: tuple[Group, ...]


def numbered(group: Group, classes: Labels) -> Indices:
    """Classes as numbers of the group's channels; NONE for those of others."""
    at = np.searchsorted(group.classes, classes)
    found: Indices = np.where(group.classes[np.minimum(at, group.classes.size - 1)] == classes, at, NONE)
    return found


def all_units(model: Model) -> tuple[list[Unit], list[Skip]]:
    """Every weight of a model that can be fitted, in the order of its first use, and why others cannot."""
    facts = layers(model)
    candidates, _ = find_candidates(model, facts, {layer.node for layer in facts}, set(), by_operations=False)
    return find_units(model, candidates)


def main_places(solution: Solution) -> list[int]:
    """Index of a node in the main graph → its place in the labelled graph."""
    return [index for index, place in enumerate(solution.found.places) if not place.graph.scope]


def find_readings(model: Model, solution: Solution) -> list[Reading]:
    """The units that sum over labelled channels, in the order of the model on which `solution` was found."""
    places = main_places(solution)
    found = []
    for unit in all_units(model)[0]:
        columns = column_classes(unit, model, solution, places[unit.at])
        if columns is not None:
            found.append(Reading(unit, columns, row_classes(unit, model, solution, places[unit.at])))
    return found


def column_classes(unit: Unit, model: Model, solution: Solution, place: int) -> Labels | None:
    """The class of each column of a unit; None if its node does not sum over a labelled axis."""
    axis = next((axis for at, axis in solution.found.contracted.get(place, ()) if at == unit.form.data_at), None)
    axes = solution.axes_at(place, unit.form.data_at)
    labels = None if axis is None or axes is None else axes[axis]
    if labels is None:
        return None
    groups, _, columns = unit.matrix(model).shape
    inputs = labels.reshape(groups, -1)
    # columns are inputs × kernel positions in this order
    return solution.classes.root[np.repeat(inputs, columns // inputs.shape[1], axis=1)]


def row_classes(unit: Unit, model: Model, solution: Solution, place: int) -> Labels:
    """The class of each row of a unit, NONE where rows are not labelled."""
    candidate = unit.candidate
    axes = solution.axes_at(place, weight_at(unit, solution, place))
    groups, rows, _ = unit.matrix(model).shape
    output = None if candidate.use.axes is None else candidate.use.axes.output
    labels = None if axes is None or output is None else axes[output]
    if labels is None or output is None:
        return np.full((groups, rows), NONE)
    assert candidate.stored.axes is not None  # of units
    held = model.weights.shape(candidate.name)
    shape = tuple(held[axis] for axis in candidate.stored.axes)
    spread = [1] * len(shape)
    spread[output] = -1
    whole = np.broadcast_to(solution.classes.root[labels].reshape(spread), shape)
    found: Labels = unit.form.matrix(whole)[:, :, 0].astype(np.int64)
    return found


def weight_at(unit: Unit, solution: Solution, place: int) -> int:
    """The input at which a unit's node reads its weight."""
    spec = solution.found.spec(place)
    assert spec is not None  # a unit's op has weights
    return next(slot.at for slot in spec.weights if slot.at != unit.form.data_at)


def with_weights(model: Model, changed: Sequence[Changed]) -> Model:
    """A copy with other weights."""
    variant = model.copy()
    for unit, matrix, missing in changed:
        unit.store(variant, matrix.astype(np.float64))
        if unit.shifts:
            add_bias(variant, unit, missing.reshape(-1))
    return variant


@dataclass
class Measuring:
    """One measurement of all `groups` of `model`, on which `solution` was found, on `samples`."""

    model: Model
    solution: Solution
    groups: Sequence[Group]
    samples: Samples
    budget_bytes: int
    seed: int = 0
    probes: dict[int, dict[int, list[Changed]]] = field(default_factory=dict)
    """Group → number of removed channels → its readers as they then are."""

    def run(self) -> Curves:
        """The curves. Raises ModelError and BackendError for a model or samples that onnxruntime does not run."""
        if not self.groups:
            return Curves((), ())
        with threadpool_limits(limits=1, user_api="blas"):
            # in the order of the files, so that each is read once
            drawn = np.random.default_rng(self.seed).permutation(len(self.samples))[:PROBED_SAMPLES]
            few = self.samples.pick(sorted(drawn.tolist()))
            readings = self._readings()
            found = self._eliminate(readings, Walk(self.model, self.samples, self.budget_bytes))
            walk = Walk(self.model, few, self.budget_bytes)
            reference = Reference(walk.outputs(self.model))
            levels = self._sensitivities(readings, found, walk, reference)
            curves, others = [], []
            scores = weight_importance(self.model, self.solution, "l1")
            for index, group in enumerate(self.groups):
                if index in found:
                    order = group.classes[found[index].order]
                    loss = np.maximum.accumulate(levels[index] * found[index].errors)
                    curves.append(LossCurve(group, order, loss))
                else:
                    others.append(group)
                    curves.append(self._by_weights(group, scores, few, reference))
            return Curves(tuple(curves), tuple(others))

    def _readings(self) -> dict[int, list[Reading]]:
        """Group → the units that read it and stay without it; groups without any are left out."""
        found: dict[int, list[Reading]] = {}
        for reading in find_readings(self.model, self.solution):
            for index, group in enumerate(self.groups):
                columns, rows = numbered(group, reading.columns), numbered(group, reading.rows)
                if any((rows[g] != c).any() for g, own in enumerate(columns) for c in np.unique(own[own != NONE])):
                    found.setdefault(index, []).append(reading)
        return found

    def _eliminate(self, readings: dict[int, list[Reading]], walk: Walk) -> dict[int, Elimination]:
        """Group → the removal of its channels, made when the walk has passed the last unit that reads it."""
        units = sorted({r.unit.at: r.unit for own in readings.values() for r in own}.items())
        last = {index: max(r.unit.at for r in own) for index, own in readings.items()}
        held: dict[int, tuple[Floats, Floats]] = {}
        found: dict[int, Elimination] = {}
        for number, (at, unit) in enumerate(units):
            tell("measuring channels", number, len(units))
            walk.advance(at)
            inputs = Inputs.of(gather(walk, unit.sites[0], self.seed), centre=unit.shifts)
            h = inputs.moments() if len(unit.sites) == 1 else unit_moments(unit, walk, self.seed)
            held[at] = h, inputs.mean.astype(np.float64)
            for index in [index for index, end in last.items() if end == at]:
                found[index] = self._eliminated(index, readings[index], held)
            ahead = {r.unit.at for index, own in readings.items() if last[index] > at for r in own}
            held = {place: kept for place, kept in held.items() if place in ahead}
        return found

    def _eliminated(self, index: int, readings: list[Reading], held: dict[int, tuple[Floats, Floats]]) -> Elimination:
        group = self.groups[index]
        count = int(group.classes.size)
        marks = sorted({min(max(1, round(share * count)), count - 1) for share in PROBED_SHARES} - {0})
        weights = [reading.unit.matrix(self.model) for reading in readings]
        readers = [r.reader(group, w, held[r.unit.at][0]) for r, w in zip(readings, weights, strict=True)]
        found = eliminate(readers, count, marks)
        self.probes[index] = {
            mark: [
                (reading.unit, refitted.astype(np.float32), (weight - refitted) @ held[reading.unit.at][1].swapaxes(1, 2))
                for reading, weight, refitted in zip(readings, weights, found.refitted[mark], strict=True)
            ]
            for mark in marks
        }
        return found

    def _sensitivities(
        self, readings: dict[int, list[Reading]], found: dict[int, Elimination], walk: Walk, reference: Reference
    ) -> dict[int, Floats]:
        """Group → divergence of the outputs per unit of error, for each number of removed channels."""
        levels: dict[int, Floats] = {}
        starts = sorted((min(r.unit.at for r in own), index) for index, own in readings.items())
        for number, (at, index) in enumerate(starts):
            tell("measuring sensitivity", number, len(starts))
            walk.advance(at)
            marks, moved = list(self.probes[index]), []
            for mark, changed in self.probes.pop(index).items():
                divergence = reference.divergence(walk.outputs(with_weights(self.model, changed)))
                moved.append(divergence / max(float(found[index].errors[mark]), TINY))
            count = np.arange(found[index].errors.size)
            levels[index] = np.exp(np.interp(count, marks, np.log(np.maximum(moved, TINY)))) if marks else np.zeros(1)
        return levels

    def _by_weights(self, group: Group, scores: Floats, few: Samples, reference: Reference) -> LossCurve:
        """The curve of a group by importance of its weights: its loss is proportional to the importance that is removed."""
        own = scores[group.classes]
        order = np.argsort(own, kind="stable")
        gone = np.concatenate([[0.0], np.cumsum(own[order])[:-1]])
        half = int(group.classes.size) // 2
        variant = self.model.copy()
        apply_cut(variant, self.solution, self.solution.removal(group.classes[order[:half]]))
        running = runner(variant)
        outputs: list[Values] = [running.run(feeds) for feeds in few]
        moved = reference.divergence(outputs) / max(float(gone[half]), TINY)
        return LossCurve(group, group.classes[order], moved * gone)
