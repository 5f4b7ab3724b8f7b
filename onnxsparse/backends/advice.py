"""What would make a layer cheaper, by asking the layer model what a change would do."""

from dataclasses import dataclass, replace
from typing import Literal

from onnxsparse.backends.layer_model import LayerCost, LayerModel
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


def advise(model: LayerModel, item: WorkItem, cost: LayerCost) -> Advice | None:
    """None for a layer without weights, which neither pruning nor a channel cut of its own can change."""
    if not item.weights:
        return None
    fewer = max(0, item.nonzeros - round(STEP * item.weights))
    pruned = model.cost(replace(item, nonzeros=fewer))
    gain = cost.latency_ms - pruned.latency_ms if pruned is not None else 0.0
    if gain > WORTH * cost.latency_ms:
        return Advice("prune on", gain)
    activations = cost.input_bytes * cost.passes + cost.output_bytes
    if max(cost.compute_ms, cost.io_ms) > cost.overhead_ms and (
        activations > cost.coefficient_bytes or cost.compute_ms > cost.io_ms
    ):
        return Advice("cut channels")
    return Advice("nothing left")
