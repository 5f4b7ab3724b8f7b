"""Pruning with data: from candidates and a target to a pruned and repaired model.

1. Find the weights that can be repaired (`units`); the others are pruned by magnitude, each to the target.
2. Measure what pruning costs each layer (`database`), and allocate densities (`allocation`).
3. Prune and repair in the order of the model (`repair`).
4. Compare with the same zeros without repair, on samples that nothing was learned from; the better of both stays.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from onnxsparse.calibration.walk import Walk
from onnxsparse.ir.model import Model
from onnxsparse.pruning.candidates import Candidate
from onnxsparse.pruning.items import Elements, finite_histogram
from onnxsparse.pruning.plan import Ranking, plan_by_layer, refuse
from onnxsparse.pruning.scores import SCORES, Scored
from onnxsparse.pruning.sparsity_pattern import GroupPattern
from onnxsparse.records import Change, Skip
from onnxsparse.recovery.allocation import Choices, allocate
from onnxsparse.recovery.alps import Keep
from onnxsparse.recovery.database import LayerCurve, measure
from onnxsparse.recovery.judgement import keep_better
from onnxsparse.recovery.patterns import Largest, LargestOfGroups
from onnxsparse.recovery.repair import Repair
from onnxsparse.recovery.units import Unit, find_units
from onnxsparse.runtime.samples import Samples


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What pruning is to reach.

    `kind`, `target`: sparsity_op or sparsity, and its value, 0 to 1; `total`: what it is a share of, in operations or weights.
    `need`: operations, or weights, that are to become zero beyond those that are. `weigh`: operations of one element of a
    candidate; 1 towards a sparsity. `max_sparsity`: of a layer. `own`: node → sparsity that the caller has set. `pattern`: N of
    every M inputs, which fixes all. Weights that cannot be repaired get `target` as their sparsity.
    """

    kind: str
    total: int
    need: int
    weigh: Callable[[Candidate], int]
    target: float
    max_sparsity: float = 1.0
    own: Mapping[str, float] = field(default_factory=dict)
    pattern: GroupPattern | None = None


@dataclass
class Recovery:
    """One run of pruning with data. `model` is changed. `judged`: samples that nothing is learned from; None: no judgement."""

    model: Model
    goal: Goal
    learned: Samples
    judged: Samples | None
    budget_bytes: int
    seed: int = 0
    skipped: list[Skip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self, candidates: Sequence[Candidate]) -> list[Change]:
        """Prune and repair. Raises ParamError for a target that cannot be reached, ModelError and BackendError for the model."""
        # sums depend on the number of threads; and most matrices are so small that threads cost more than they gain
        with threadpool_limits(limits=1, user_api="blas"):
            return self._run(candidates)

    def _run(self, candidates: Sequence[Candidate]) -> list[Change]:
        dense = self.model.copy()
        units, skipped = find_units(self.model, candidates)
        done = "pruned by magnitude, not repaired" if self.goal.pattern is None else "left dense"
        self.skipped = [Skip(skip.node, f"{done}: {skip.reason}") for skip in skipped]
        others = [c for c in candidates if c not in [unit.candidate for unit in units]]
        spread = self.learned.pick(np.random.default_rng(self.seed).permutation(len(self.learned)).tolist())
        changes = self._by_magnitude(others)
        plain = self.model.copy()  # gets the same zeros, and no repair
        gained = sum((change.zeros_after - change.zeros_before) * self.goal.weigh(c) for change, c in changes)
        curves, shared = measure(self.model, units, Walk(self.model, spread, self.budget_bytes), self.seed)
        keepers = self._keepers(curves, self.goal.need - gained)
        repair = Repair(self.model, dense, keepers, shared, self.budget_bytes, self.seed)
        repair.run(units, spread)
        if repair.few:
            self.notes.append(f"{repair.few} layers have fewer positions than weights of a row; they were repaired cautiously")
        for unit in units:
            if unit.candidate.name in keepers:
                unit.store(plain, np.where(unit.matrix(self.model) != 0, unit.matrix(dense), 0))
        self.notes.append(keep_better(dense, self.model, plain, self.judged, "repair"))
        return [change for change, _ in changes if change.zeros_after > change.zeros_before] + self._changes(units, keepers)

    def _by_magnitude(self, candidates: Sequence[Candidate]) -> list[tuple[Change, Candidate]]:
        """Prune weights that cannot be repaired, each to its own sparsity or the target."""
        found = []
        for candidate in candidates if self.goal.pattern is None else ():
            items = Elements(self.model.weights, candidate.stored, candidate.elements - candidate.zeros)
            histogram = finite_histogram(items, candidate.nodes[0])
            ranking = Ranking(candidate, items, histogram, SCORES["l1"](Scored(histogram, 1.0)), 1)
            wanted = max((self.goal.own[n] for n in candidate.nodes if n in self.goal.own), default=self.goal.target)
            (choice,) = plan_by_layer([ranking], [wanted], 1.0).choices
            self.model.weights.assign_parts(candidate.name, items.zeroed(choice))
            zeros = candidate.zeros + choice.gain
            found.append((Change(candidate.name, candidate.nodes, candidate.elements, candidate.zeros, zeros), candidate))
        return found

    def _keepers(self, curves: Sequence[LayerCurve], need: int) -> dict[str, Keep]:
        """Tensor → what may be kept of it; tensors that keep all are left out. Raises ParamError for a target out of reach."""
        goal = self.goal
        if goal.pattern is not None:
            return dict(self._groups(goal.pattern, [curve.unit for curve in curves]))
        layers, budget = [], -need
        for curve in curves:
            candidate = curve.unit.candidate
            fixed = max((goal.own[n] for n in candidate.nodes if n in goal.own), default=None)
            layers.append(Choices.of(curve, goal.weigh(candidate), goal.max_sparsity, fixed))
            budget += (candidate.elements - candidate.zeros) * goal.weigh(candidate)
        kept = allocate(layers, budget)
        if kept is None:
            least = sum(int(layer.kept[0]) * layer.weight for layer in layers)
            raise refuse(goal.kind, goal.target, goal.target - (least - budget) / goal.total, goal.max_sparsity)
        found: dict[str, Keep] = {}
        for curve, count in zip(curves, kept, strict=True):
            candidate = curve.unit.candidate
            if count < candidate.elements - candidate.zeros:
                found[candidate.name] = Largest(count, curve.unit.matrix(self.model) != 0)
        return found

    def _groups(self, pattern: GroupPattern, units: Sequence[Unit]) -> "dict[str, Keep]":
        found: dict[str, Keep] = {}
        for unit in units:
            axes = unit.candidate.use.axes
            columns = unit.matrix(self.model).shape[2]
            inputs = 0 if axes is None else self.model.weights.shape(unit.candidate.name)[unit.candidate.stored.axes[axes.input]]  # type: ignore[index]  # units have axes
            inputs = math.gcd(inputs, columns)
            if inputs == 0 or inputs % pattern.group:
                reason = f"its input axis has {inputs} elements, not a multiple of {pattern.group}"
                self.skipped += [Skip(node, reason) for node in unit.candidate.nodes]
                continue
            found[unit.candidate.name] = LargestOfGroups(pattern, inputs)
        return found

    def _changes(self, units: Sequence[Unit], keepers: Mapping[str, Keep]) -> list[Change]:
        found = []
        for unit in units:
            c = unit.candidate
            zeros = c.elements - int(np.count_nonzero(self.model.weights[c.name]))
            if c.name in keepers or zeros > c.zeros:
                found.append(Change(c.name, c.nodes, c.elements, c.zeros, zeros))
        return found
