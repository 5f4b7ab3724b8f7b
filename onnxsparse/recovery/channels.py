"""Fitting what a cut of channels has left: each layer's weights, toward what the dense layer computes in the rows that stay.

1. For each unit of the cut model, the part of the dense weight that it holds (`part_of`); a unit of which this is unknown stays.
2. Two walks in the order of the model, of the dense model and of the cut one: least squares of all weights of a layer, from the
   inputs that the cut model produces so far to the outputs of the dense layer. The bias takes the difference of the means.

Layers before the first cut, whose inputs are those of the dense model, stay as they are. Zeros stay zeros.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from threadpoolctl import threadpool_limits

from onnxsparse.calibration.positions import Inputs, gather, positions_each
from onnxsparse.calibration.walk import Walk
from onnxsparse.channels.groups import Removed, Solution
from onnxsparse.ir.array_types import Floats, Indices
from onnxsparse.ir.mapped import byte_view
from onnxsparse.ir.model import Model
from onnxsparse.progress import tell
from onnxsparse.records import Skip
from onnxsparse.recovery.alps import alive, refit
from onnxsparse.recovery.channel_curves import all_units, main_places, weight_at
from onnxsparse.recovery.fit import Fit
from onnxsparse.recovery.moments import unit_moments
from onnxsparse.recovery.units import Unit, seen
from onnxsparse.runtime.samples import Samples


@dataclass(frozen=True)
class Part:
    """What a cut unit holds of a dense one: `groups`, and for each of them `rows` and `columns` of the dense matrix."""

    unit: Unit
    groups: Indices
    rows: Indices
    columns: Indices

    def wanted(self, dense: Floats) -> Floats:
        """The dense rows that stay: groups × rows × dense columns."""
        return dense[self.groups[:, None], self.rows]

    def moments(self, h: Floats) -> Floats:
        """Second moments of the dense inputs as products of dense columns with those that stay."""
        found: Floats = np.take_along_axis(h[self.groups], self.columns[:, None, :], axis=2)
        return found


def part_of(dense: Unit, unit: Unit, original: Model, cut: Model, solution: Solution, removed: Removed) -> Part | None:
    """The part of a dense unit that `unit` holds. None if its values are others, or no rows and columns of the dense matrix."""
    place = main_places(solution)[dense.at]
    axes = solution.axes_at(place, weight_at(dense, solution, place))
    whole, held = seen(dense.candidate, original), seen(unit.candidate, cut)
    places = np.arange(whole.size).reshape(whole.shape)
    for axis, labels in enumerate(axes or ()):
        kept = solution.kept(labels, removed)
        places = places if kept is None else np.take(places, kept, axis)
    if places.shape != held.shape or not np.array_equal(whole.reshape(-1)[places], held):
        return None
    # matrix of the dense unit → flat index of its weight, inverted
    matrix = dense.form.matrix(np.arange(whole.size).reshape(whole.shape))
    position = np.argsort(matrix, axis=None)
    groups, rows, columns = np.unravel_index(position[unit.form.matrix(places)], matrix.shape)
    found = Part(dense, groups[:, 0, 0], rows[:, :, 0], columns[:, 0, :])
    regular = (
        (groups == found.groups[:, None, None]).all()
        and (rows == found.rows[:, :, None]).all()
        and (columns == found.columns[:, None, :]).all()
    )
    return found if regular else None


@dataclass
class Refit:
    """One refit of `model`, which is `original` without the channels `removed`; `solution` was found on `original`.

    `fitted`: the units that were changed. `few`: how many of them have fewer positions than twice their columns.
    """

    model: Model
    original: Model
    solution: Solution
    removed: Removed
    budget_bytes: int
    seed: int = 0
    fitted: list[Unit] = field(default_factory=list)
    few: int = 0
    skipped: list[Skip] = field(default_factory=list)

    def run(self, samples: Samples) -> None:
        """Fit all units. Raises ModelError and BackendError for samples or models that onnxruntime does not run."""
        with threadpool_limits(limits=1, user_api="blas"):
            pairs = self._pairs()
            walks = [Walk(model, samples, self.budget_bytes // 2) for model in (self.original, self.model)]
            for number, (unit, part) in enumerate(pairs):
                tell("refitting layers", number, len(pairs))
                walks[0].advance(part.unit.at)
                walks[1].advance(unit.at)
                if len(unit.sites) > 1:
                    self._fit_shared(unit, part, walks[0])
                else:
                    self._fit(unit, part, *walks)

    def notes(self) -> list[str]:
        """What was fitted, for people."""
        found = [f"{len(self.fitted)} layers were refitted to what the original computes"]
        if self.few:
            found.append(f"positions are fewer than twice the columns of {self.few} layers, which were refitted cautiously")
        return found

    def _pairs(self) -> list[tuple[Unit, Part]]:
        """The units of the cut model in order, each with its part of the dense model's."""
        old, new = self.original.proto.graph.node, self.model.proto.graph.node
        users = {old[site.index].output[0]: (unit, site) for unit in all_units(self.original)[0] for site in unit.sites}
        found = []
        units, skipped = all_units(self.model)
        self.skipped += [Skip(skip.node, f"not refitted: {skip.reason}") for skip in skipped]
        for unit in units:
            uses = [users[name] for site in unit.sites if (name := new[site.index].output[0]) in users]
            part = None
            if len(uses) == len(unit.sites):
                dense = replace(uses[0][0], sites=tuple(site for _, site in uses))
                part = part_of(dense, unit, self.original, self.model, self.solution, self.removed)
            if part is None:
                why = "not refitted: its weights are no rows and columns of the original's"
                self.skipped += [Skip(node, why) for node in unit.candidate.nodes]
            else:
                found.append((unit, part))
        return found

    def _fit(self, unit: Unit, part: Part, first: Walk, second: Walk) -> None:
        # positions follow from the index of the node and the number of columns, which a cut may change
        of_dense = part.unit.sites[0]
        of_cut = replace(unit.sites[0], index=of_dense.index)
        each = positions_each(first, of_dense)
        wanted = Inputs.of(gather(first, of_dense, self.seed, each), centre=unit.shifts).pick(part.groups)
        given = Inputs.of(gather(second, of_cut, self.seed, each), centre=unit.shifts)
        if np.array_equal(wanted.centred, given.centred) and np.array_equal(wanted.mean, given.mean):
            return
        fit = Fit(part.wanted(part.unit.matrix(self.original)), wanted, given)
        self.few += fit.few
        own = unit.matrix(self.model)
        fit.store(self.model, unit, refit(own, own != 0, fit.h, fit.products, fit.ridge))
        self.fitted.append(unit)

    def _fit_shared(self, unit: Unit, part: Part, walk: Walk) -> None:
        """Fit a tensor that several nodes use, on the inputs of the dense model that stay."""
        dense, own = part.unit.matrix(self.original), unit.matrix(self.model)
        products = part.moments(unit_moments(part.unit, walk, self.seed))
        h = alive(np.take_along_axis(products, part.columns[:, :, None], axis=1))
        unit.store(self.model, refit(own, own != 0, h, part.wanted(dense) @ products))
        self.fitted.append(unit)


def only_fitted_differ(proven: Model, model: Model, fitted: Sequence[Unit]) -> bool:
    """Whether `model` differs from the proven cut in values of fitted weights and their biases alone, and in added biases."""
    old, new = proven.proto.graph.node, model.proto.graph.node
    free = {unit.candidate.name for unit in fitted} | {unit.bias for unit in fitted if unit.bias is not None}
    biased = {unit.at: unit.form.bias_at for unit in fitted if unit.takes_bias}
    added: set[str] = set()
    if len(old) != len(new):
        return False
    for index, (before, after) in enumerate(zip(old, new, strict=True)):
        at = biased.get(index)
        if at is not None and len(after.input) > at:
            added.add(after.input[at])
            after = without_input(after, at)
        if before != after and without_input(before, None) != after:
            return False
    if set(model.weights) - added != set(proven.weights):
        return False
    for name in proven.weights:
        a, b = proven.weights[name], model.weights[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if name not in free and not np.array_equal(byte_view(a), byte_view(b)):
            return False
    return True


def without_input(node: onnx.NodeProto, at: int | None) -> onnx.NodeProto:
    """A copy without one input (None: with all), and without empty names at the end."""
    found = onnx.NodeProto()
    found.CopyFrom(node)
    if at is not None:
        found.input[at] = ""
    while found.input and not found.input[-1]:
        del found.input[-1]
    return found
