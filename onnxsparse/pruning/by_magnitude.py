"""Pruning without data: every weight has a score, and the lowest are zeroed.

1. Rank the elements or blocks of each tensor by importance over operations (`_rank`).
2. Choose the items to zero. Layers with a sparsity of their own reach it. The other layers make up the rest of the target with
   one common threshold (`_global`) or, by layer, reach the target one by one.
3. Zero the chosen elements. N:M patterns need no ranking: every group keeps its N largest (`prune_groups`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnxsparse.analysis.layer import Totals
from onnxsparse.analysis.stored_weights import count_zeros
from onnxsparse.ir.model import Model
from onnxsparse.pruning.application import apply, make_items, stored_axis, why_no_groups
from onnxsparse.pruning.candidates import Candidate
from onnxsparse.pruning.items import Elements, finite_histogram, keep_n_of_m
from onnxsparse.pruning.plan import Plan, Ranking, plan_by_layer, plan_global, reachable
from onnxsparse.pruning.scores import SCORES, Scored, ScoreName
from onnxsparse.pruning.sparsity_pattern import BlockPattern, GroupPattern
from onnxsparse.pruning.target import Target, own_share
from onnxsparse.records import Change, Skip


@dataclass
class Magnitude:
    """One run of pruning by score. `model` is changed.

    `own`: node → sparsity that the caller has set. `cost_exponent`: power of a layer's operations that divides importance.
    `max_sparsity`: of a layer. `by_layer`: whether each layer reaches the target. `protect`: whether stem, depthwise and output
    layers are spared as long as the target can be reached without them. `pattern`: of blocks; None for elements.
    """

    model: Model
    target: Target
    own: Mapping[str, float]
    score: ScoreName
    cost_exponent: float
    max_sparsity: float
    by_layer: bool
    protect: bool
    pattern: BlockPattern | None
    skipped: list[Skip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self, candidates: Sequence[Candidate], before: Totals) -> list[Change]:
        """Zero what matters least. Raises ParamError for a target out of reach, ModelError for weights that are not finite."""
        rankings = [self._rank(candidate) for candidate in candidates]
        shares = [own_share(self.own, candidate.nodes) for candidate in candidates]
        fixed = [(ranking, share) for ranking, share in zip(rankings, shares, strict=True) if share is not None]
        free = [ranking for ranking, share in zip(rankings, shares, strict=True) if share is None]
        settled = plan_by_layer([ranking for ranking, _ in fixed], [share for _, share in fixed], 1.0)
        if self.by_layer:
            plan = plan_by_layer(free, [self.target.sparsity] * len(free), self.max_sparsity)
        else:
            gained = sum(choice.gain * ranking.weight for choice, (ranking, _) in zip(settled.choices, fixed, strict=True))
            plan = self._global(free, before, gained)
        chosen = [*zip([ranking for ranking, _ in fixed], settled.choices, strict=True), *zip(free, plan.choices, strict=True)]
        changes = [apply(self.model, ranking, choice) for ranking, choice in chosen if choice.gain]
        self._tell(free, plan, changes)
        return changes

    def _rank(self, candidate: Candidate) -> Ranking:
        items = make_items(self.model, candidate, self.pattern)
        found = finite_histogram(items, candidate.nodes[0])
        score = SCORES[self.score](Scored(found, max(candidate.uses, 1) ** self.cost_exponent))
        return Ranking(candidate, items, found, score, self.target.weight(candidate))

    def _global(self, rankings: Sequence[Ranking], before: Totals, settled: int) -> Plan:
        total, base = self.target.whole(before), self.target.reached(before) + settled
        need = self.target.need(before) - settled
        highest = reachable(rankings, base, total, self.max_sparsity)
        if highest < self.target.sparsity and need > 0:
            raise self.target.out_of_reach(highest, self.max_sparsity)
        return plan_global(rankings, need, self.max_sparsity, protect=self.protect)

    def _tell(self, rankings: Sequence[Ranking], plan: Plan, changes: Sequence[Change]) -> None:
        """Skips and notes: protected layers that were spared, or were not."""
        held = [r.candidate for r in rankings if r.candidate.protected]
        if self.protect and not self.by_layer and not plan.cut_protected:
            self.skipped += [
                Skip(node, f"spared, the target is reached without it: {c.protected}") for c in held for node in c.nodes
            ]
        if not changes:
            self.notes.append(f"nothing was pruned: {self.target.kind} is already {self.target.share:g} or {self._beyond}")
            return
        cut = [r.candidate for r, c in zip(rankings, plan.choices, strict=True) if c.gain and r.candidate.protected]
        if not plan.cut_protected or not cut or not self.protect:
            return
        why = "every layer is pruned to the target" if self.by_layer else "the target cannot be reached without them"
        named = ", ".join(dict.fromkeys(f"{c.nodes[0]} ({c.protected})" for c in cut))
        self.notes.append(f"protected layers were pruned as well, since {why}: {named}")

    @property
    def _beyond(self) -> str:
        return "less" if self.target.kind == "macs" else "more"


def prune_groups(
    model: Model, candidates: Sequence[Candidate], pattern: GroupPattern, *, protect: bool
) -> tuple[list[Change], list[Skip], list[str]]:
    """Keep the N largest of every M inputs of each tensor that can be; changes, the other layers with the reason, and notes."""
    changes: list[Change] = []
    skipped: list[Skip] = []
    for candidate in candidates:
        axis = stored_axis(candidate, "input")
        reason = why_no_groups(model, candidate, axis, pattern, protect=protect)
        if reason is not None or axis is None:
            skipped += [Skip(node, reason or "") for node in candidate.nodes]
            continue
        finite_histogram(Elements(model.weights, candidate.stored, candidate.elements), candidate.nodes[0])
        model.weights[candidate.name] = keep_n_of_m(model.weights, candidate.stored, axis, pattern.keep, pattern.group)
        zeros = count_zeros(candidate.stored, model.weights)
        if zeros > candidate.zeros:
            changes.append(Change(candidate.name, candidate.nodes, candidate.elements, candidate.zeros, zeros))
    form = f"{pattern.keep}:{pattern.group}"
    notes = [] if changes else [f"nothing was pruned: no layer can be, or all that can be are {form} already"]
    return changes, skipped, notes
