"""How many channels each group gives up, so that a target is met at the least predicted loss.

1. Every group starts whole. Again and again, the group gives up its next channels that loses least per operation (or per channel)
   that it saves. What it saves depends on the widths that other groups have by then.
2. Once the target is met, steps that it does not need are taken back, those that cost most first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxsparse.channels.groups import Group, Removed, Solution
from onnxsparse.channels.importance import Scores
from onnxsparse.channels.selection import Choice, fewest
from onnxsparse.ops.labels import Labels

MOST_STEPS = 64
"""Steps of a group, so that time does not grow with wide groups that are not rounded; one is at most 1.6 % of the channels."""


@dataclass(frozen=True)
class LossCurve:
    """A group's channels in the order in which to remove them, and the loss.

    `order`: classes. `loss`: loss i of i removed channels, for none to all but one; it does not fall.
    """

    group: Group
    order: Labels
    loss: NDArray[np.float64]


@dataclass
class Allocation:
    """One allocation. `by_macs`: whether operations are saved, or channels, which count by their width."""

    solution: Solution
    curves: Sequence[LossCurve]
    choice: Choice
    by_macs: bool
    at: list[int] = field(init=False)
    """For each group, how many of its steps are taken."""

    def __post_init__(self) -> None:
        self.at = [0] * len(self.curves)

    def run(self, need: int) -> Labels:
        """The classes to cut so that at least `need` operations or channels are saved; all that can be, if they are too few."""
        rates: dict[int, float] = {}
        saved = 0
        while saved < need:
            for index in range(len(self.curves)):
                if index not in rates:
                    rates[index] = self._rate(index)
            best = min(rates, key=lambda index: rates[index], default=None)
            if best is None or math.isinf(rates[best]):
                break
            saved += self._saved(best, self.at[best] + 1)
            self.at[best] += 1
            for index in self._near[best]:
                rates.pop(index, None)
        self._take_back(saved - need)
        return self.chosen()

    def chosen(self) -> Labels:
        """The classes that are cut now."""
        parts = [curve.order[: self._steps[i][self.at[i]]] for i, curve in enumerate(self.curves)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _take_back(self, spare: int) -> None:
        while spare > 0:
            fitting = [i for i in range(len(self.curves)) if self.at[i] and 0 <= -self._saved(i, self.at[i] - 1) <= spare]
            if not fitting:
                return
            best = max(fitting, key=lambda i: self._loss(i, self.at[i]) - self._loss(i, self.at[i] - 1))
            spare += self._saved(best, self.at[best] - 1)
            self.at[best] -= 1

    @cached_property
    def _steps(self) -> list[list[int]]:
        """For each group, the numbers of channels that it may give up, ascending from 0."""
        return [steps(curve.group, self.choice) for curve in self.curves]

    def _loss(self, index: int, step: int) -> float:
        return float(self.curves[index].loss[self._steps[index][step]])

    def _rate(self, index: int) -> float:
        """Loss per operation of a group's next step; infinite if there is none, or it saves nothing."""
        step = self.at[index] + 1
        saved = self._saved(index, step) if step < len(self._steps[index]) else 0
        return (self._loss(index, step) - self._loss(index, step - 1)) / saved if saved > 0 else math.inf

    def _saved(self, index: int, step: int) -> int:
        """What a group saves if it goes to `step` and all others stay where they are; negative for a step back."""
        curve, steps_of = self.curves[index], self._steps[index]
        if not self.by_macs:
            return (steps_of[step] - steps_of[self.at[index]]) * curve.group.width
        parts = [c.order[: self._steps[i][self.at[i]]] for i, c in enumerate(self.curves) if i != index]
        now, then = (
            self.solution.removal(np.concatenate([*parts, curve.order[: steps_of[at]]])) for at in (self.at[index], step)
        )
        return self._macs(index, now) - self._macs(index, then)

    def _macs(self, index: int, removed: Removed) -> int:
        """Operations of the nodes that a group runs along."""
        return sum(self.solution.macs_of(node, removed) for node in self._nodes[index])

    @cached_property
    def _nodes(self) -> list[list[int]]:
        """For each group, the nodes with operations that it runs along."""
        owner = np.full(self.solution.classes.root.size, -1)
        for index, curve in enumerate(self.curves):
            owner[curve.group.classes] = index
        found: list[list[int]] = [[] for _ in self.curves]
        for node in range(len(self.solution.found.places)):
            spec = self.solution.found.spec(node)
            if spec is not None and spec.macs is not None:
                for index in owners(self.solution, node, owner):
                    found[index].append(node)
        return found

    @cached_property
    def _near(self) -> list[list[int]]:
        """For each group, those whose savings depend on its width, and itself."""
        if not self.by_macs:
            return [[index] for index in range(len(self.curves))]
        sets = [set(nodes) for nodes in self._nodes]
        return [[other for other, theirs in enumerate(sets) if own & theirs or other == i] for i, own in enumerate(sets)]


def steps(group: Group, choice: Choice) -> list[int]:
    """Numbers of channels that a group may give up, ascending from 0: what stays is a multiple that `choice` allows."""
    unit = choice.round_to // math.gcd(choice.round_to, group.width)
    count = int(group.classes.size)
    lowest = fewest(group, 1.0, choice)
    between = range(-(-lowest // unit) * unit, count, unit)
    kept = {count, lowest, *between[:: -(-len(between) // MOST_STEPS) or 1]}
    return sorted(count - k for k in kept)


def owners(solution: Solution, node: int, owner: NDArray[np.int64]) -> list[int]:
    """The groups that run along the inputs and outputs of a node. `owner`: label → group of its class, −1 for none."""
    place = solution.found.places[node]
    every = [solution.axes_at(node, at) for at, name in enumerate(place.node.input) if name]
    every += [solution.found.axes.get(solution.found.output_key(node, at)) for at, name in enumerate(place.node.output) if name]
    labels = [labels for axes in every for labels in axes or () if labels is not None]
    met = np.unique(owner[solution.classes.root[np.concatenate(labels)]]) if labels else np.zeros(0, np.int64)
    return [int(index) for index in met if index >= 0]


def allocate(solution: Solution, curves: Sequence[LossCurve], choice: Choice, macs: int | None) -> Labels:
    """The classes to cut so that at most `macs` operations stay, or (None) to cut the ratio of all channels; if that cannot be,
    all that can be cut.
    """
    if macs is None:
        channels = sum(int(curve.group.classes.size) * curve.group.width for curve in curves)
        return Allocation(solution, curves, choice, by_macs=False).run(int(choice.ratio * channels + 1e-9))
    now = solution.macs(solution.removal(np.zeros(0, np.int64)))
    return Allocation(solution, curves, choice, by_macs=True).run(now - macs)


def scores_of(curves: Sequence[LossCurve], solution: Solution) -> Scores:
    """The place of each channel in the order of its group as its score."""
    scores = np.zeros(solution.classes.root.size)
    for curve in curves:
        scores[curve.order] = np.arange(1, curve.order.size + 1)
    return scores
