"""Which density each layer gets, so that the target is met at the least predicted divergence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxsparse.recovery.database import LayerCurve

STEP = 0.01
"""Distance of two densities of a layer."""

FLOOR = 0.06
"""Lowest density of a layer, below which its error is not measured."""

ROUNDS = 60
"""Bisections of the price of an operation."""


@dataclass(frozen=True)
class Choices:
    """The densities that one layer may have, and what each costs.

    `kept`: elements that stay nonzero. `loss`: predicted divergence. `weight`: operations of one element (1 towards a sparsity).
    """

    kept: NDArray[np.int64]
    loss: NDArray[np.float64]
    weight: int

    @classmethod
    def of(cls, curve: LayerCurve, weight: int, max_sparsity: float, fixed: float | None) -> "Choices":
        """The choices of a layer. `fixed`: a sparsity that the caller has set; None: free up to `max_sparsity`."""
        candidate = curve.unit.candidate
        most = candidate.elements - candidate.zeros
        lowest = max(FLOOR, 1 - max_sparsity)
        densities = (
            np.array([1 - fixed])
            if fixed is not None
            else np.arange(round(lowest / STEP), round(1 / STEP) + 1).astype(np.float64) * STEP
        )
        kept = np.minimum(np.ceil(densities * candidate.elements - 1e-9), most).astype(np.int64)
        return cls(kept, curve.loss(densities), weight)

    def at(self, price: float) -> int:
        """The choice that is best if an operation costs `price`."""
        return int(np.argmin(self.loss + price * self.weight * self.kept))


def allocate(layers: Sequence[Choices], budget: int) -> list[int] | None:
    """The kept elements of each layer, whose operations are at most `budget`; None if even the lowest densities need more.

    A bisection over the price of an operation; what then remains of the budget goes to the layers that gain most per operation.
    """
    if sum(int(layer.kept[0]) * layer.weight for layer in layers) > budget:
        return None
    low, high = 0.0, 1.0
    while used(layers, [layer.at(high) for layer in layers]) > budget and high < 1e30:
        high *= 10
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        if used(layers, [layer.at(middle) for layer in layers]) > budget:
            low = middle
        else:
            high = middle
    chosen = [layer.at(high) for layer in layers]
    if used(layers, chosen) > budget:
        chosen = [0] * len(layers)
    return spend_rest(layers, chosen, budget)


def used(layers: Sequence[Choices], chosen: Sequence[int]) -> int:
    """The operations of some choices."""
    return sum(int(layer.kept[at]) * layer.weight for layer, at in zip(layers, chosen, strict=True))


def spend_rest(layers: Sequence[Choices], chosen: list[int], budget: int) -> list[int]:
    """Kept elements with what remains of the budget: whole steps while one fits, the best per operation first, then elements."""
    rest = budget - used(layers, chosen)
    chosen = list(chosen)
    while True:
        fitting = [at for at in range(len(layers)) if 0 < step_price(layers[at], chosen[at]) <= rest]
        if not fitting:
            break
        best = max(fitting, key=lambda at: step_gain(layers[at], chosen[at]))
        rest -= step_price(layers[best], chosen[best])
        chosen[best] += 1
    kept = [int(layer.kept[at]) for layer, at in zip(layers, chosen, strict=True)]
    for at in sorted(range(len(layers)), key=lambda at: -step_gain(layers[at], chosen[at])):
        more = min(step_price(layers[at], chosen[at]), rest) // max(layers[at].weight, 1)
        kept[at] += more
        rest -= more * layers[at].weight
    return kept


def step_price(layer: Choices, at: int) -> int:
    """The operations that the next choice of a layer needs beyond choice `at`; 0 if there is none."""
    return 0 if at + 1 >= layer.kept.size else int(layer.kept[at + 1] - layer.kept[at]) * layer.weight


def step_gain(layer: Choices, at: int) -> float:
    """The loss per operation that the next choice saves."""
    price = step_price(layer, at)
    return float(layer.loss[at] - layer.loss[at + 1]) / price if price else 0.0
