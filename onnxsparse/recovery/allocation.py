"""How many elements each layer keeps, so that the costs of all layers meet a budget at the least predicted loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxsparse.pruning.candidates import Candidate

Counts = NDArray[np.int64]

STEP = 0.01
"""Distance of two densities of a layer."""

FLOOR = 0.06
"""Lowest density of a layer, below which its error is not measured."""

ROUNDS = 60
"""Bisections of the price of a unit of cost."""

STEPS_OF_A_LAYER = 200
"""Least steps of the budget for each layer, if it has as many units; costs are rounded up to whole steps."""


@dataclass(frozen=True)
class Choices:
    """What one layer may keep, in rising order, and what each choice costs.

    `kept`: elements that stay nonzero. `loss`: predicted divergence of the outputs, which falls. `cost`: in units of the budget,
    which rises.
    """

    kept: Counts
    loss: NDArray[np.float64]
    cost: Counts

    def at(self, price: float) -> int:
        """The choice that is best if a unit of cost has this price."""
        return int(np.argmin(self.loss + price * self.cost))

    def best_step(self, at: int, rest: int) -> tuple[float, int]:
        """The larger choice that costs at most `rest` more and saves most loss per unit; with this gain. (0, at): none."""
        price, saved = self.cost[at + 1 :] - self.cost[at], self.loss[at] - self.loss[at + 1 :]
        gains = np.where((price <= rest) & (saved > 0), saved / np.maximum(price, 1), 0.0)
        best = int(np.argmax(gains)) if gains.size else 0
        return (float(gains[best]), at + 1 + best) if gains.size and gains[best] > 0 else (0.0, at)


def densities_of(candidate: Candidate, max_sparsity: float, own: float | None) -> Counts:
    """The numbers of elements that a tensor may keep, rising. `own`: a sparsity that the caller has set; None: free."""
    most = candidate.elements - candidate.zeros
    lowest = max(FLOOR, 1 - max_sparsity)
    shares = np.arange(round(lowest / STEP), round(1 / STEP) + 1) * STEP if own is None else np.array([1 - own])
    found: Counts = np.minimum(np.ceil(shares * candidate.elements - 1e-9), most).astype(np.int64)
    return found


def allocate(layers: Sequence[Choices], budget: int, *, convex: bool) -> list[int] | None:
    """The elements that each layer keeps, whose costs are at most `budget`; None if even the lowest choices cost more.

    What remains of the budget after whole steps goes to single elements. `convex`: whether loss falls ever more slowly over cost,
    in every layer, so that one price of a unit of cost gives the best choices; otherwise, tables find them.
    """
    if sum(int(layer.cost[0]) for layer in layers) > budget:
        return None
    chosen = by_price(layers, budget)
    if not convex:
        others = by_table(layers, budget)
        chosen = min(chosen, others, key=lambda found: lost(layers, found))
    return spend_rest(layers, chosen, budget - used(layers, chosen))


def by_price(layers: Sequence[Choices], budget: int) -> list[int]:
    """The best choices at the lowest price of a unit of cost at which they meet the budget, found by bisection."""
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
    return chosen if used(layers, chosen) <= budget else [0] * len(layers)


def by_table(layers: Sequence[Choices], budget: int) -> list[int]:
    """The choices of least loss, by dynamic programming over the budget in steps.

    least[b] is the least loss of the layers so far that cost at most b steps beyond their lowest choices.
    """
    spare = budget - sum(int(layer.cost[0]) for layer in layers)
    step = max(spare // (STEPS_OF_A_LAYER * len(layers)), 1)
    steps = spare // step
    least = np.zeros(steps + 1)
    taken = []
    for layer in layers:
        prices = -((layer.cost[0] - layer.cost) // step)
        found, choice = np.full(steps + 1, np.inf), np.zeros(steps + 1, np.int64)
        for at in np.flatnonzero((prices <= steps) & (prices != np.append(prices[1:], -1))):
            sums = least[: steps + 1 - prices[at]] + layer.loss[at]
            better = sums < found[prices[at] :]
            found[prices[at] :][better], choice[prices[at] :][better] = sums[better], at
        least = found
        taken.append((prices, choice))
    left, chosen = steps, []
    for prices, choice in reversed(taken):
        chosen.append(int(choice[left]))
        left -= int(prices[chosen[-1]])
    return chosen[::-1]


def lost(layers: Sequence[Choices], chosen: Sequence[int]) -> float:
    """The predicted loss of some choices."""
    return sum(float(layer.loss[at]) for layer, at in zip(layers, chosen, strict=True))


def used(layers: Sequence[Choices], chosen: Sequence[int]) -> int:
    """The costs of some choices."""
    return sum(int(layer.cost[at]) for layer, at in zip(layers, chosen, strict=True))


def spend_rest(layers: Sequence[Choices], chosen: list[int], rest: int) -> list[int]:
    """Kept elements after `rest` is spent: on whole steps while one fits, then on elements."""
    chosen = list(chosen)
    while layers:
        steps = [layer.best_step(at, rest) for layer, at in zip(layers, chosen, strict=True)]
        best = max(range(len(steps)), key=lambda number: steps[number][0])
        if not steps[best][0]:
            break
        rest -= int(layers[best].cost[steps[best][1]] - layers[best].cost[chosen[best]])
        chosen[best] = steps[best][1]
    kept = [int(layer.kept[at]) for layer, at in zip(layers, chosen, strict=True)]
    open_layers = [number for number, at in enumerate(chosen) if at + 1 < layers[number].kept.size]
    for number in sorted(open_layers, key=lambda number: -next_gain(layers[number], chosen[number])):
        layer, at = layers[number], chosen[number]
        step = int(layer.kept[at + 1] - layer.kept[at])
        each = -(-int(layer.cost[at + 1] - layer.cost[at]) // max(step, 1))
        more = min(step, rest // each) if each else step
        kept[number] += more
        rest -= more * each
    return kept


def next_gain(layer: Choices, at: int) -> float:
    """The loss per unit of cost that the choice after `at` saves."""
    return float(layer.loss[at] - layer.loss[at + 1]) / max(int(layer.cost[at + 1] - layer.cost[at]), 1)
