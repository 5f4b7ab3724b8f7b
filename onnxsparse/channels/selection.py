"""Which channels go: per group or over all groups, to a ratio, a share of the MACs or of the operations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxsparse.channels.groups import Group, Solution, kept_channels
from onnxsparse.channels.importance import Scores
from onnxsparse.ops.labels import Labels

BISECTIONS = 12
"""Steps in which a ratio is found that leaves a wanted share of the MACs: to a part in four thousand."""


@dataclass(frozen=True)
class Choice:
    """How channels are chosen. `ratio`: of each group's, or of all; `cap`: of any one group's."""

    ratio: float
    over_all: bool = False
    round_to: int = 8
    floor: int = 1
    cap: float = 1.0


def choose_channels(groups: Sequence[Group], scores: Scores, choice: Choice) -> Labels:
    """The classes to cut: those that matter least."""
    counts = shares_over_all(groups, scores, choice) if choice.over_all else [choice.ratio for _ in groups]
    chosen = [least(group, scores, share, choice) for group, share in zip(groups, counts, strict=True)]
    return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)


def least(group: Group, scores: Scores, share: float, choice: Choice) -> Labels:
    """Ties go to the later channel."""
    kept = kept_channels(group.classes.size, min(share, choice.cap), choice.round_to, group.width)
    kept = min(group.classes.size, max(kept, math.ceil(choice.floor / group.width)))
    order = np.argsort(-scores[group.classes], kind="stable")
    chosen: Labels = group.classes[order[kept:]]
    return chosen


def shares_over_all(groups: Sequence[Group], scores: Scores, choice: Choice) -> list[float]:
    """Each group's share of the least important channels overall, scores divided by their group's mean."""
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
    """The mildest ratio that leaves at most `macs`, or the most there is if none does."""
    low, high = 0.0, 1.0
    best = choose_channels(groups, scores, with_ratio(choice, high))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found = choose_channels(groups, scores, with_ratio(choice, middle))
        if solution.macs(solution.removal(found)) <= macs:
            best, high = found, middle
        else:
            low = middle
    return best


def with_ratio(choice: Choice, ratio: float) -> Choice:
    return Choice(ratio, choice.over_all, choice.round_to, choice.floor, choice.cap)
