"""Pruning with data: from candidates and a target to a pruned and repaired model.

1. Find the weights that can be repaired (`units`); the others are pruned by magnitude, each to the target.
2. Measure what pruning costs each layer (`database`), or take it from a file.
3. Allocate densities (`allocation`) at the prices of the target (`prices`).
4. Prune and repair in the order of the model (`repair`).
5. Compare with the same zeros without repair, on samples that nothing was learned from; the better of both stays.

With a limit in place of a target, steps 3 to 5 are repeated to find the highest target that keeps it (`highest`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from threadpoolctl import threadpool_limits

from onnxsparse.analysis.layer import Totals
from onnxsparse.annotations import fingerprint
from onnxsparse.errors import ModelError, ParamError, PassError
from onnxsparse.ir.model import Model
from onnxsparse.progress import tell
from onnxsparse.pruning.candidates import Candidate
from onnxsparse.pruning.items import Elements, finite_histogram
from onnxsparse.pruning.plan import Ranking, plan_by_layer
from onnxsparse.pruning.scores import SCORES, Scored
from onnxsparse.pruning.sparsity_pattern import GroupPattern, Pattern
from onnxsparse.pruning.target import Target, own_share
from onnxsparse.records import Change, Skip
from onnxsparse.recovery.allocation import Choices, allocate, densities_of
from onnxsparse.recovery.alps import Keep
from onnxsparse.recovery.database import Database, LayerCurve, Measuring, digest
from onnxsparse.recovery.judgement import keep_better
from onnxsparse.recovery.patterns import keeper, why_not
from onnxsparse.recovery.prices import Latency, Operations, Prices
from onnxsparse.recovery.repair import Repair
from onnxsparse.recovery.units import Unit, find_units
from onnxsparse.runtime.samples import Samples


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What allocation obeys. `max_sparsity`: of a layer. `own`: node → sparsity that the caller has set."""

    pattern: Pattern = None
    max_sparsity: float = 1.0
    own: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Result:
    """A pruned model, and what is to be told of it.

    `target`: what it was pruned to. `kept`: the elements that each unit was allowed; None for a pattern that fixes all.
    """

    model: Model
    target: Target | Latency
    kept: list[int] | None
    changes: list[Change]
    notes: list[str]


@dataclass
class Recovery:
    """Pruning of `dense` with data. `judged`: samples that nothing is learned from; None: no judgement.

    `totals`: of the dense model. `stored`: a database to use in place of measuring.
    """

    dense: Model
    totals: Totals
    rules: Rules
    learned: Samples
    judged: Samples | None
    budget_bytes: int
    seed: int = 0
    stored: Database | None = None
    units: list[Unit] = field(default_factory=list, init=False)
    others: list[Candidate] = field(default_factory=list, init=False)
    skipped: list[Skip] = field(default_factory=list, init=False)
    notes: list[str] = field(default_factory=list, init=False)
    curves: Sequence[LayerCurve | None] = field(default=(), init=False)
    """One for each unit; None where the caller has set the sparsity, so that nothing is to be allocated."""

    def prepare(self, candidates: Sequence[Candidate], others: str) -> None:
        """Steps 1 and 2. `others`: what becomes of weights that cannot be repaired, in words.

        Raises ParamError for a stored database that lacks a layer, ModelError for one of another model.
        """
        found, skipped = find_units(self.dense, candidates)
        reasons = [(unit, why_not(self.rules.pattern, unit)) for unit in found]
        self.units = [unit for unit, reason in reasons if reason is None]
        skipped += [Skip(node, reason) for unit, reason in reasons if reason is not None for node in unit.candidate.nodes]
        taken = [unit.candidate for unit in self.units]
        self.others = [] if isinstance(self.rules.pattern, GroupPattern) else [c for c in candidates if c not in taken]
        self.skipped = [Skip(skip.node, f"{others}: {skip.reason}") for skip in skipped]
        order = np.random.default_rng(self.seed).permutation(len(self.learned)).tolist()
        self.learned = self.learned.pick(order)
        if not isinstance(self.rules.pattern, GroupPattern):
            self.curves = self._measured() if self.stored is None else self._stored(self.stored)

    def _measured(self) -> list[LayerCurve | None]:
        free = [unit for unit in self.units if self._own(unit) is None]
        if not free:
            return [None] * len(self.units)
        measuring = Measuring(self.dense, free, self.learned, self.budget_bytes, self.seed, self.rules.pattern)
        found = iter(measuring.run())
        self.notes.append(f"sensitivity was measured in {measuring.seconds:.1f} s")
        return [next(found) if self._own(unit) is None else None for unit in self.units]

    def _stored(self, database: Database) -> list[LayerCurve | None]:
        found = [database.curve(unit) for unit in self.units]
        pairs = zip(self.units, found, strict=True)
        other = any(curve is not None and curve.digest != digest(unit, self.dense) for unit, curve in pairs)
        if other or database.graph != fingerprint(self.dense.proto):
            raise ModelError(f"--database: it was made of another model, {database.model}, not of {self.dense.name}")
        pairs = zip(self.units, found, strict=True)
        lacking = [unit.candidate.nodes[0] for unit, curve in pairs if curve is None and self._own(unit) is None]
        if lacking:
            raise ParamError(f"--database: it lacks {lacking[0]}; make it without --only and --exclude, or leave the layer out")
        return [curve if self._own(unit) is None else None for unit, curve in zip(self.units, found, strict=True)]

    def _own(self, unit: Unit) -> float | None:
        """The sparsity that the caller has set for a unit; None: free."""
        return own_share(self.rules.own, unit.candidate.nodes)

    def database(self, source: str, pattern: str) -> Database:
        """The curves as a database. `source`: the data, `pattern`: the pattern, as the options say them."""
        graph, curves = fingerprint(self.dense.proto), tuple(curve for curve in self.curves if curve is not None)
        return Database(self.dense.name, graph, source, len(self.learned), self.seed, pattern, curves)

    def run(self, target: Target | Latency) -> Result:
        """Steps 3 to 5, once. Raises ParamError for a target that cannot be reached."""
        model, changes, gained = self.dense.copy(), [], 0
        if isinstance(target, Target):
            pruned = self._by_magnitude(model, target.sparsity)
            gained = sum((change.zeros_after - change.zeros_before) * target.weight(c) for change, c in pruned)
            changes = [change for change, _ in pruned if change.zeros_after > change.zeros_before]
        plain = model.copy()  # gets the same zeros, and no repair
        kept = None if isinstance(self.rules.pattern, GroupPattern) else self.kept(self.prices(target, gained))
        keepers = self._keepers(kept)
        repair = Repair(model, self.dense, keepers, self.judged, self.budget_bytes, self.seed)
        repair.run(self.units, self.learned)
        for unit in self.units:
            if unit.candidate.name in keepers:
                unit.store(plain, np.where(unit.matrix(model) != 0, unit.matrix(self.dense), 0))
        notes = self._judge(model, plain, repair)
        return Result(model, target, kept, changes + self._changes(model, keepers), notes)

    def prices(self, target: Target | Latency, gained: int = 0) -> Prices:
        """The prices of a target, if `gained` operations became zero already."""
        return Operations(target, self.totals, gained) if isinstance(target, Target) else target

    def _by_magnitude(self, model: Model, target: float) -> list[tuple[Change, Candidate]]:
        """Prune weights that cannot be repaired, each to its own sparsity or the target."""
        found = []
        for candidate in self.others:
            items = Elements(model.weights, candidate.stored, candidate.elements - candidate.zeros)
            histogram = finite_histogram(items, candidate.nodes[0])
            ranking = Ranking(candidate, items, histogram, SCORES["l1"](Scored(histogram, 1.0)), 1)
            own = own_share(self.rules.own, candidate.nodes)
            (choice,) = plan_by_layer([ranking], [target if own is None else own], 1.0).choices
            model.weights.assign_parts(candidate.name, items.zeroed(choice))
            zeros = candidate.zeros + choice.gain
            found.append((Change(candidate.name, candidate.nodes, candidate.elements, candidate.zeros, zeros), candidate))
        return found

    def choices(self, prices: Prices) -> list[Choices]:
        """What each unit may keep at these prices."""
        found = []
        for unit, curve in zip(self.units, self.curves, strict=True):
            kept = densities_of(unit.candidate, self.rules.max_sparsity, self._own(unit))
            loss = np.zeros(kept.size) if curve is None else curve.loss(kept)
            found.append(Choices(kept, loss, prices.costs(unit.candidate, kept)))
        return found

    def allocated(self, prices: Prices) -> list[int] | None:
        """The elements that each unit keeps; None for a target out of reach."""
        budget = prices.budget([unit.candidate for unit in self.units])
        return allocate(self.choices(prices), budget, convex=prices.convex)

    def kept(self, prices: Prices) -> list[int]:
        """The elements that each unit keeps. Raises ParamError for a target out of reach."""
        found = self.allocated(prices)
        if found is None:
            excess = sum(int(layer.cost[0]) for layer in self.choices(prices))
            excess -= prices.budget([unit.candidate for unit in self.units])
            raise prices.out_of_reach(excess, self.rules.max_sparsity)
        return found

    def _keepers(self, kept: Sequence[int] | None) -> dict[str, Keep]:
        """Tensor → what may be kept of it; tensors that keep all are left out. `kept`: as in `Result`."""
        found: dict[str, Keep] = {}
        for unit, count in zip(self.units, [0] * len(self.units) if kept is None else kept, strict=True):
            candidate = unit.candidate
            if count < candidate.elements - candidate.zeros:
                found[candidate.name] = keeper(self.rules.pattern, unit, unit.matrix(self.dense) != 0, count)
        return found

    def _judge(self, model: Model, plain: Model, repair: Repair) -> list[str]:
        """Make `model` the better of itself and of the same zeros without repair, `plain`; returns notes."""
        notes = []
        if repair.few:
            notes.append(f"positions are fewer than twice the columns of {repair.few} layers, which were repaired cautiously")
        if repair.left_out:
            some = ", ".join(repair.left_out[:5]) + ("…" if len(repair.left_out) > 5 else "")
            notes.append(f"{len(repair.left_out)} × no repair, as held-out samples ask for: {some}")
        return [*notes, keep_better(self.dense, model, plain, self.judged, "repair")]

    def _changes(self, model: Model, keepers: Mapping[str, Keep]) -> list[Change]:
        found = []
        for unit in self.units:
            c = unit.candidate
            zeros = c.elements - int(np.count_nonzero(model.weights[c.name]))
            if c.name in keepers or zeros > c.zeros:
                found.append(Change(c.name, c.nodes, c.elements, c.zeros, zeros))
        return found


def recover(
    recovery: Recovery,
    candidates: Sequence[Candidate],
    target: Target | Latency | None,
    failures: Callable[[Model], Sequence[str]],
) -> Result:
    """Prune with data: towards `target` or, if it is None, to the highest sparsity_op whose model has no `failures`.

    Raises ParamError for a target that cannot be reached, PassError if no sparsity keeps the limits.
    """
    stay = isinstance(target, Latency) or isinstance(recovery.rules.pattern, GroupPattern)
    others = "left dense" if stay else "pruned by magnitude, not repaired"
    # sums depend on the number of threads; tasks, not kernels, run in parallel
    with threadpool_limits(limits=1, user_api="blas"):
        recovery.prepare(candidates, others)
        found = highest(recovery, failures) if target is None else recovery.run(target)
    return replace(found, notes=[*recovery.notes, *found.notes])


def highest(recovery: Recovery, failures: Callable[[Model], Sequence[str]]) -> Result:
    """The result of the highest whole per cent of sparsity_op without `failures`, by bisection.

    Raises PassError if there is none, ParamError if no layer can lose a per cent more.
    """
    totals = recovery.totals
    prices = Operations(Target("sparsity_op", 0.0), totals)
    gain = sum(int(layer.cost[-1] - layer.cost[0]) for layer in recovery.choices(prices))
    low = math.ceil(100 * (totals.sparsity_op or 0.0))
    high = math.floor(100 * (prices.target.reached(totals) + gain) / totals.weight_macs) + 1
    if high - low <= 1:
        raise ParamError(f"prune: sparsity_op {low} % is the most that these layers allow, and is reached already")
    best: Result | None = None
    missed: Sequence[str] = ()
    probes = 0
    while high - low > 1:
        middle = (low + high) // 2
        tell(f"probing sparsity_op {middle} %")
        found = recovery.run(Target("sparsity_op", middle / 100))
        probes += 1
        failed = failures(found.model)
        if failed:
            high, missed = middle, failed
        else:
            low, best = middle, found
    if best is None:
        raise PassError(f"prune: no sparsity_op keeps the limits; at {high} %: {'; '.join(missed)}")
    reached = f"sparsity_op {low} % is the most that keeps the limits, of {probes} probed"
    return replace(best, notes=[reached, *([f"at {high} %: {'; '.join(missed)}"] if missed else []), *best.notes])
