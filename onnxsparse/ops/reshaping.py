"""Reshape, Flatten, Squeeze and Unsqueeze as one rule.

1. Axes of size 1 are dropped on both sides.
2. The remaining axes are divided into the shortest runs whose products agree before and after (`segments`).
3. Within a run, both sides are products of common factors (`common_factors`). Axes before are split into factors, and factors are
   merged into axes after. If there are no common factors, the axes of the run stay.
"""

import itertools
import math
from collections.abc import Sequence

from onnxsparse.ops.coupling import Coupling
from onnxsparse.ops.labels import Labels
from onnxsparse.ops.sizes import UnknownFact, paired
from onnxsparse.ops.view import product


def couple_reshape(c: Coupling) -> None:
    """The rule above. Raises UnknownFact if the numbers of elements before and after differ, or a size is unknown."""
    before, after = c.op.input(0), c.op.output()
    axes: list[Labels | None] = [None] * len(after)
    if 0 in before or 0 in after:
        c.freeze_all(0, "is empty")
    elif product(before) != product(after):
        raise UnknownFact(f"its input has {product(before)} elements, and its output {product(after)}")
    elif any(labels is not None for labels in c.axes(0)):
        source = [i for i, size in enumerate(before) if size != 1]
        target = [i for i, size in enumerate(after) if size != 1]
        for taken, made in segments([before[i] for i in source], [after[i] for i in target]):
            old, new = source[slice(*taken)], target[slice(*made)]
            for i, labels in zip(new, regroup(c, old, [before[i] for i in old], [after[i] for i in new]), strict=True):
                axes[i] = labels
    c.emit(axes)


def segments(before: Sequence[int], after: Sequence[int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The shortest runs of axes with equal products on both sides: ((first, last + 1) before, (first, last + 1) after)."""
    found = []
    start = (0, 0)
    i = j = 0
    left = right = 1
    while i < len(before) or j < len(after):
        if left <= right and i < len(before):
            left *= before[i]
            i += 1
        else:
            right *= after[j]
            j += 1
        if left == right and left > 1:
            found.append(((start[0], i), (start[1], j)))
            start, left, right = (i, j), 1, 1
    return found


def regroup(c: Coupling, axes: Sequence[int], before: Sequence[int], after: Sequence[int]) -> list[Labels | None]:
    """Labels of a run's axes after the reshape; `axes` and `before`: its axes and their sizes before. None for axes that stay."""
    labels = [c.axes(0)[i] for i in axes]
    sizes = common_factors(before, after)
    if sizes is None:
        for found in labels:
            c.freeze(found, "is reshaped to sizes that do not nest")
        return [None] * len(after)
    factors: list[Labels | None] = []
    for found, size in paired(labels, before):
        part = take(sizes, len(factors), size)
        if len(part) == 1 or found is None:
            factors += [found if len(part) == 1 else None] * len(part)
        else:
            factors += c.space.split(found, part, c.name)
    made: list[Labels | None] = []
    position = 0
    for size in after:
        part = take(sizes, position, size)
        made.append(c.space.merge(factors[position : position + len(part)], part, c.name))
        position += len(part)
    return made


def take(sizes: Sequence[int], start: int, whole: int) -> list[int]:
    """The consecutive factors from `start` on whose product is `whole`."""
    end = start
    while math.prod(sizes[start:end]) < whole:
        end += 1
    return list(sizes[start:end])


def common_factors(before: Sequence[int], after: Sequence[int]) -> list[int] | None:
    """Factors, row-major, such that every axis of either side is a product of consecutive ones. None if sizes do not nest."""
    borders = sorted({math.prod(side[:end]) for side in (before, after) for end in range(len(side) + 1)})
    if any(high % low for low, high in itertools.pairwise(borders)):
        return None
    return [high // low for low, high in itertools.pairwise(borders)]
