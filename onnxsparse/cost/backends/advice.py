"""What would make a layer cheaper, by asking the layer model what a change would do."""

from dataclasses import dataclass, replace
from typing import Literal

from onnxsparse.cost.backends.base import CostBackend, LayerCost
from onnxsparse.cost.backends.work import WorkItem

STEP = 0.1
"""Share of a layer's weights that one more step of pruning zeroes."""

WORTH = 0.01
"""A gain below this share of the layer's latency is none."""

Action = Literal["prune on", "cut channels", "nothing left"]


@dataclass(frozen=True)
class Advice:
    """`gain_ms`: what a step of pruning saves; None where pruning is not what helps. `past`: the sparsity from which it does."""

    action: Action
    gain_ms: float | None = None
    past: float | None = None

    def __str__(self) -> str:
        start = "" if self.past is None else f" past {100 * self.past:.0f} %"
        return self.action if self.gain_ms is None else f"{self.action}{start}: {self.gain_ms:.3f} ms per 10 %"


def advise(model: CostBackend, item: WorkItem, cost: LayerCost) -> Advice | None:
    """None for a layer without weights, which neither pruning nor a channel cut of its own can change."""
    if not item.weights:
        return None
    if (gain := gain_ms(model, item, item.nonzeros)) > WORTH * cost.latency_ms:
        return Advice("prune on", gain)
    if cost.compute_ms is None or cost.io_ms is None or cost.overhead_ms is None:
        return None
    if max(cost.compute_ms, cost.io_ms) <= cost.overhead_ms:
        return Advice("nothing left")
    if cost.compute_ms > cost.io_ms or cost.dram_bytes > 2 * cost.coefficient_bytes:
        return Advice("cut channels")
    return prune_further(model, item, cost) or Advice("cut channels")


def prune_further(model: CostBackend, item: WorkItem, cost: LayerCost) -> Advice | None:
    """Where coefficients are waited for that are no smaller encoded than dense yet, pruning pays from some sparsity on."""
    for nonzeros in (round(step * STEP * item.weights) for step in range(9, 0, -1)):
        if nonzeros < item.nonzeros and (gain := gain_ms(model, item, nonzeros)) > WORTH * cost.latency_ms:
            return Advice("prune on", gain, 1 - nonzeros / item.weights)
    return None


def gain_ms(model: CostBackend, item: WorkItem, nonzeros: int) -> float:
    """What one more step of pruning saves at a number of nonzeros."""
    costs = [model.cost(replace(item, nonzeros=n)) for n in (nonzeros, max(0, nonzeros - round(STEP * item.weights)))]
    before, after = (0.0 if cost is None else cost.latency_ms for cost in costs)
    return before - after
