"""From a target sparsity to the items that each tensor loses, within scope, protection and caps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnxsparse.pruning.candidates import Candidate
from onnxsparse.pruning.items import Blocks, Elements
from onnxsparse.pruning.select import Choice, Histogram, Ranked, Score, select


@dataclass(frozen=True)
class Ranking:
    """A candidate with what selection needs: its items, their histogram and score.

    `weight` is the gain of one zero element: its MACs if the target is sparsity_op, 1 if it is sparsity.
    """

    candidate: Candidate
    items: Elements | Blocks
    histogram: Histogram
    score: Score
    weight: int

    @property
    def nonzeros(self) -> int:
        """Elements that are not zero yet."""
        return self.candidate.elements - self.candidate.zeros

    def ranked(self, max_sparsity: float) -> Ranked:
        """The input of `select`, limited to the elements that the tensor may lose before its sparsity exceeds `max_sparsity`."""
        limit = math.floor(max_sparsity * self.candidate.elements) - self.candidate.zeros
        return Ranked(self.items, self.histogram, self.score, self.weight, max(0, min(limit, self.nonzeros)))


@dataclass(frozen=True)
class Plan:
    """One choice per ranking, in the order of the rankings, and whether protected tensors had to be pruned."""

    choices: tuple[Choice, ...]
    cut_protected: bool


def plan_global(rankings: Sequence[Ranking], need: int, max_sparsity: float, *, protect: bool) -> Plan:
    """Choose with one threshold of importance for all tensors.

    1. Select from the unprotected tensors, each up to a sparsity of `max_sparsity`.
    2. If those gain less than `need` (in units of `Ranking.weight`), select the rest from the protected tensors.

    Without `protect`, step 1 takes all tensors.
    """
    ranked = [r.ranked(max_sparsity) for r in rankings]
    spared = [protect and r.candidate.protected is not None for r in rankings]
    first = [i for i, s in enumerate(spared) if not s]
    second = [i for i, s in enumerate(spared) if s]
    open_gain = sum(ranked[i].limit * ranked[i].weight for i in first)
    choices = {i: Choice(0, 0, 0) for i in range(len(rankings))}
    choices |= dict(zip(first, select([ranked[i] for i in first], need), strict=True))
    if second and open_gain < need:
        gained = sum(choices[i].gain * ranked[i].weight for i in first)
        choices |= dict(zip(second, select([ranked[i] for i in second], need - gained), strict=True))
    return Plan(tuple(choices[i] for i in range(len(rankings))), bool(second) and open_gain < need)


def plan_by_layer(rankings: Sequence[Ranking], targets: Sequence[float], max_sparsity: float) -> Plan:
    """Choose in every tensor separately: its sparsity reaches its target (0 to 1), exceeded by one item at most."""
    choices = []
    for r, target in zip(rankings, targets, strict=True):
        need = math.ceil(target * r.candidate.elements) - r.candidate.zeros
        own = r.ranked(max_sparsity)
        choices.append(select([Ranked(own.items, own.histogram, own.score, 1, own.limit)], need)[0])
    return Plan(tuple(choices), any(r.candidate.protected for r in rankings))


def reachable(rankings: Sequence[Ranking], base: int, total: int, max_sparsity: float) -> float:
    """The highest reachable target, as a share of `total`: `base`, which is zero in any case, plus what the tensors may lose."""
    gain = sum(ranked.limit * ranked.weight for ranked in (r.ranked(max_sparsity) for r in rankings))
    return (base + gain) / total
