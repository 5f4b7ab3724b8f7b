"""Choosing channels: per group or over all groups, to a ratio or to a share of the multiply-accumulates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxsparse.channels.groups import Group, Solution, kept_channels
from onnxsparse.channels.importance import Scores
from onnxsparse.ops.labels import Labels

BISECTIONS = 12
"""Bisection steps for a share of the multiply-accumulates: they find the ratio to 1 / 4096, finer than one channel of most
layers.
"""


@dataclass(frozen=True)
class Choice:
    """How channels are chosen."""

    ratio: float
    """Share of channels to cut: of each group, or of all groups together."""
    over_all: bool = False
    """Whether the least important channels of all groups are cut, not the same share of each."""
    round_to: int = 8
    """Sizes that remain are multiples of this number of channels."""
    floor: int = 1
    """Smallest size that remains along an axis."""
    cap: float = 1.0
    """Largest share that is cut from one group."""


def choose_channels(groups: Sequence[Group], scores: Scores, choice: Choice) -> Labels:
    """Classes to cut: the least important ones."""
    shares = shares_over_all(groups, scores, choice) if choice.over_all else [choice.ratio for _ in groups]
    chosen = [least(group, scores, share, choice) for group, share in zip(groups, shares, strict=True)]
    return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)


def least(group: Group, scores: Scores, share: float, choice: Choice) -> Labels:
    """The least important classes of a group, `share` of them; of equal scores the later channel is cut."""
    order = np.argsort(-scores[group.classes], kind="stable")
    chosen: Labels = group.classes[order[fewest(group, share, choice) :]]
    return chosen


def fewest(group: Group, share: float, choice: Choice) -> int:
    """The channels of a group that stay if `share` of them are to be cut."""
    kept = kept_channels(group.classes.size, min(share, choice.cap), choice.round_to, group.width)
    return min(int(group.classes.size), max(kept, math.ceil(choice.floor / group.width)))


def shares_over_all(groups: Sequence[Group], scores: Scores, choice: Choice) -> list[float]:
    """Each group's share of the least important channels of all groups. Scores are divided by their group's mean; channels
    count by width.
    """
    relative = [scores[g.classes] / max(float(scores[g.classes].mean()), 1e-30) for g in groups]
    weights = [np.full(g.classes.size, g.width) for g in groups]
    if not groups:
        return []
    flat, width = np.concatenate(relative), np.concatenate(weights)
    order = np.argsort(flat, kind="stable")
    gone = np.cumsum(width[order]) <= choice.ratio * width.sum() + 1e-9
    chosen = np.zeros(flat.size, np.bool_)
    chosen[order[gone]] = True
    ends = np.cumsum([g.classes.size for g in groups])
    return [float(part.mean()) for part in np.split(chosen, ends[:-1])]


def choose_for_macs(solution: Solution, groups: Sequence[Group], scores: Scores, choice: Choice, macs: int) -> Labels:
    """The choice with the smallest ratio that leaves at most `macs` multiply-accumulates.

    If none does, the choice at ratio 1.
    """
    low, high = 0.0, 1.0
    best = choose_channels(groups, scores, replace(choice, ratio=high))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found = choose_channels(groups, scores, replace(choice, ratio=middle))
        if solution.macs(solution.removal(found)) <= macs:
            best, high = found, middle
        else:
            low = middle
    return best
