"""Boxes out of a face detector's outputs, and how well two lists of boxes agree."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SCORE, SAME_FACE = 0.5, 0.3
"""Lowest score of a box, and the overlap (IoU) above which two boxes of one picture are one face."""

MATCH = 0.5
"""Lowest IoU of two boxes that agree."""

Boxes = NDArray[np.float32]
"""N x 4 corners: left, top, right, bottom; the highest score first."""


def decoded(scores: NDArray[np.float32], corners: Boxes) -> Boxes:
    """The faces of one picture: boxes of at least SCORE, of overlapping ones the highest score (greedy NMS).

    `scores`: priors x 2, the second of a face; `corners`: priors x 4.
    """
    order = np.argsort(-scores[:, 1], kind="stable")
    left, kept = corners[order[scores[order, 1] >= SCORE]], []
    while len(left):
        kept.append(left[0])
        left = left[overlap(left[:1], left)[0] <= SAME_FACE]
    return np.stack(kept) if kept else np.zeros((0, 4), np.float32)


def overlap(first: Boxes, second: Boxes) -> NDArray[np.float32]:
    """The IoU of each box of `first` with each of `second`."""
    low, high = (
        side(first[:, None, at], second[None, :, at]) for side, at in ((np.maximum, slice(0, 2)), (np.minimum, slice(2, 4)))
    )
    shared = np.clip(high - low, 0, None).prod(-1)
    one, other = (np.clip(b[:, 2:] - b[:, :2], 0, None).prod(-1) for b in (first, second))
    return np.asarray(shared / np.maximum(one[:, None] + other[None] - shared, np.finfo(np.float32).tiny))


def matches(wanted: Boxes, found: Boxes) -> int:
    """How many boxes agree, each with one of the other list; the best scores choose first."""
    pairs, free, count = overlap(found, wanted), np.ones(len(wanted), bool), 0
    for row in pairs:
        best = int(np.where(free, row, -1).argmax()) if free.any() else -1
        if best >= 0 and row[best] >= MATCH:
            free[best], count = False, count + 1
    return count


def f1(wanted: Sequence[Boxes], found: Sequence[Boxes]) -> float:
    """F1 over all pictures, 0 to 1; 1 if there is no box at all."""
    hits = sum(matches(a, b) for a, b in zip(wanted, found, strict=True))
    boxes = sum(map(len, wanted)) + sum(map(len, found))
    return 2 * hits / boxes if boxes else 1.0
