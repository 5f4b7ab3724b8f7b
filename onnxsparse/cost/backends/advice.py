"""Advice per layer: what would make it cheaper, found by predicting its cost after a change.

1. If zeroing one more step of the weights saves at least WORTH of the layer's latency: prune on.
2. Else, if the pattern 2:4 does: prune to 2:4.
3. Else, if the overhead dominates: nothing left.
4. Else, if compute dominates, or activations rather than coefficients dominate the traffic: cut channels.
5. Else the layer waits for coefficients whose encoding is no smaller than dense yet: prune on past the sparsity from which
   pruning saves time again, or cut channels if there is none.
"""

from dataclasses import dataclass, replace
from typing import Literal

from onnxsparse.cost.backends.base import CostBackend, LayerCost
from onnxsparse.cost.backends.work import WorkItem

STEP = 0.1
"""Share of a layer's weights that one more step of pruning zeroes."""

WORTH = 0.01
"""Share of the layer's latency below which a gain is not worth advice."""

Action = Literal["prune on", "prune to 2:4", "cut channels", "nothing left"]


@dataclass(frozen=True)
class Advice:
    """What to do about one layer.

    `gain_ms`: latency that one STEP of pruning saves, or the pattern; None for another action. `past`: sparsity at which pruning
    starts to pay, None if it pays now.
    """

    action: Action
    gain_ms: float | None = None
    past: float | None = None

    def __str__(self) -> str:
        start = "" if self.past is None else f" past {100 * self.past:.0f} %"
        if self.gain_ms is None:
            return self.action
        return f"{self.action}{start}: {self.gain_ms:.3f} ms{'' if self.action == 'prune to 2:4' else ' per 10 %'}"


def advise(model: CostBackend, item: WorkItem, cost: LayerCost) -> Advice | None:
    """The advice for a layer of this cost; None without weights to prune or cut, or if the parts of its time are unknown."""
    if not item.weights:
        return None
    if (gain := gain_ms(model, item, item.nonzeros)) > WORTH * cost.latency_ms:
        return Advice("prune on", gain)
    if item.two_of_four is False and (gain := pattern_gain_ms(model, item)) > WORTH * cost.latency_ms:
        return Advice("prune to 2:4", gain)
    if cost.compute_ms is None or cost.io_ms is None or cost.overhead_ms is None:
        return None
    if max(cost.compute_ms, cost.io_ms) <= cost.overhead_ms:
        return Advice("nothing left")
    if cost.compute_ms > cost.io_ms or cost.dram_bytes > 2 * cost.coefficient_bytes:
        return Advice("cut channels")
    return prune_further(model, item, cost) or Advice("cut channels")


def prune_further(model: CostBackend, item: WorkItem, cost: LayerCost) -> Advice | None:
    """Advice with the first sparsity at which pruning pays again, in multiples of STEP; None if no step pays.

    For a layer bound by coefficient traffic whose encoding is still no smaller than dense.
    """
    for nonzeros in (round(step * STEP * item.weights) for step in range(9, 0, -1)):
        if nonzeros < item.nonzeros and (gain := gain_ms(model, item, nonzeros)) > WORTH * cost.latency_ms:
            return Advice("prune on", gain, 1 - nonzeros / item.weights)
    return None


def gain_ms(model: CostBackend, item: WorkItem, nonzeros: int) -> float:
    """Milliseconds that one more STEP of pruning saves, for a layer with `nonzeros` nonzero weights."""
    fewer = max(0, nonzeros - round(STEP * item.weights))
    return saved_ms(model, replace(item, nonzeros=nonzeros), replace(item, nonzeros=fewer))


def pattern_gain_ms(model: CostBackend, item: WorkItem) -> float:
    """Milliseconds that the pattern 2:4 saves."""
    return saved_ms(model, item, replace(item, nonzeros=min(item.nonzeros, item.weights // 2), two_of_four=True))


def saved_ms(model: CostBackend, before: WorkItem, after: WorkItem) -> float:
    """Milliseconds between two states of a layer."""
    costs = (model.cost(item) for item in (before, after))
    first, second = (0.0 if cost is None else cost.latency_ms for cost in costs)
    return first - second
