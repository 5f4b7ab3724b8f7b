"""Reshape, Flatten, Squeeze, Unsqueeze as one rule: sizes of 1 dropped, the rest refined into common factors."""

import itertools
import math
from collections.abc import Sequence

from onnxsparse.ops.coupling import Coupling
from onnxsparse.ops.labels import Labels
from onnxsparse.ops.sizes import UnknownFact, paired
from onnxsparse.ops.view import product


def couple_reshape(c: Coupling) -> None:
    """Axes keep their labels where they stay, split into factors or merge; where sizes do not nest, they cannot be cut."""
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
    """The shortest runs of axes on both sides with equal products: (first, last + 1) before and after."""
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
    """The labels of one segment's new axes."""
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
    """The factors from `start` on that make `whole`."""
    end = start
    while math.prod(sizes[start:end]) < whole:
        end += 1
    return list(sizes[start:end])


def common_factors(before: Sequence[int], after: Sequence[int]) -> list[int] | None:
    """Factors that both sides' axes are products of; None where there are none."""
    borders = sorted({math.prod(side[:end]) for side in (before, after) for end in range(len(side) + 1)})
    if any(high % low for low, high in itertools.pairwise(borders)):
        return None
    return [high // low for low, high in itertools.pairwise(borders)]
