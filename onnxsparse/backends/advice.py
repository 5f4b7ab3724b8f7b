"""What would make a layer cheaper, by asking the layer model what a change would do."""

from dataclasses import dataclass, replace
from typing import Literal

from onnxsparse.backends.base import CostBackend, LayerCost
from onnxsparse.backends.work import WorkItem

STEP = 0.1
"""Share of a layer's weights that one more step of pruning zeroes."""

WORTH = 0.01
"""A gain below this share of the layer's latency is none."""

Action = Literal["prune on", "cut channels", "nothing left"]


@dataclass(frozen=True)
class Advice:
    """`gain_ms`: what one step of pruning saves; None where pruning is not what helps."""

    action: Action
    gain_ms: float | None = None

    def __str__(self) -> str:
        return self.action if self.gain_ms is None else f"{self.action}: {self.gain_ms:.3f} ms per 10 %"


def advise(model: CostBackend, item: WorkItem, cost: LayerCost) -> Advice | None:
    """None for a layer without weights, which neither pruning nor a channel cut of its own can change."""
    if not item.weights:
        return None
    fewer = max(0, item.nonzeros - round(STEP * item.weights))
    pruned = model.cost(replace(item, nonzeros=fewer))
    gain = cost.latency_ms - pruned.latency_ms if pruned is not None else 0.0
    if gain > WORTH * cost.latency_ms:
        return Advice("prune on", gain)
    if cost.compute_ms is None or cost.io_ms is None or cost.overhead_ms is None:
        return None
    computes = cost.compute_ms > cost.io_ms
    if max(cost.compute_ms, cost.io_ms) > cost.overhead_ms and (computes or cost.dram_bytes > 2 * cost.coefficient_bytes):
        return Advice("cut channels")
    return Advice("nothing left")
