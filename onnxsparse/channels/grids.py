"""Grids: which factor of an axis is cut if the axis is a product of factors.

1. A grid with at most one factor that can be cut is decided: that factor is cut, the others stay. The cut factor is tied to the
   positions of the axis that it meets.
2. This may freeze or tie factors of other grids; step 1 is repeated until it decides nothing.
3. The first remaining grid is decided by a strategy, and step 1 starts again.

`groups.solve` compares the outcomes of all STRATEGIES.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsparse.ops.labels import Classes, Freeze, Grid, Labels, LabelSpace

Choose = Callable[[Grid, list[int], Classes], int]
"""(grid, factors that can be cut, classes) → the factor to cut."""


@dataclass(frozen=True)
class Resolution:
    """Classes after every grid is decided."""

    classes: Classes
    """The settled classes, with the ties and freezes of every decision."""
    chosen: int
    """Number of grids that were decided by a strategy."""
    freezes: tuple[Freeze, ...] = ()
    """What the decisions froze, in order."""


@dataclass(frozen=True)
class Decision:
    """Which factor of a grid is cut."""

    grid: Grid
    """The axis and its factors."""
    cut: int | None
    """The factor that is cut. None: none can be."""
    alive: tuple[int, ...]
    """Factors that could be cut."""


def innermost(_grid: Grid, alive: list[int], _classes: Classes) -> int:
    """The last factor, which varies fastest: for example elements within heads."""
    return alive[-1]


def outermost(_grid: Grid, alive: list[int], _classes: Classes) -> int:
    """The first factor, which varies slowest: for example whole heads."""
    return alive[0]


def finest(grid: Grid, alive: list[int], classes: Classes) -> int:
    """The factor with the most indices that can be cut."""
    return max(alive, key=lambda k: int(free(grid, k, classes).sum()))


STRATEGIES: tuple[Choose, ...] = (innermost, outermost, finest)


def resolve(space: LabelSpace, settled: Classes, choose: Choose) -> Resolution:
    """Decide all grids by the steps above, without changing `settled`."""
    classes = settled.copy()
    pending = list(space.grids)
    freezes: list[Freeze] = []
    chosen = 0
    while pending:
        found = [Decision(grid, None, tuple(living(grid, classes))) for grid in pending]
        decided = [Decision(d.grid, d.alive[0] if d.alive else None, d.alive) for d in found if len(d.alive) < 2]
        pending = [d.grid for d in found if len(d.alive) > 1]
        if not decided:
            first = found[0]
            k = choose(first.grid, list(first.alive), classes)
            decided, pending = [Decision(first.grid, k, first.alive)], pending[1:]
            chosen += 1
        freezes += apply(classes, decided)
    return Resolution(classes, chosen, tuple(freezes))


def living(grid: Grid, classes: Classes) -> Iterator[int]:
    """Factors with an index that can be cut."""
    return (k for k in range(len(grid.sizes)) if free(grid, k, classes).any())


def free(grid: Grid, k: int, classes: Classes) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
    """Which indices of factor `k` can be cut: neither they nor any position of the axis that they meet is frozen."""
    factor = grid.factors[k]
    if factor is None:
        return np.zeros(grid.sizes[k], np.bool_)
    others = tuple(i for i in range(len(grid.sizes)) if i != k)
    met = classes.is_frozen(grid.merged).reshape(grid.sizes).any(others)
    found: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = ~classes.is_frozen(factor) & ~met
    return found


def apply(classes: Classes, decided: Sequence[Decision]) -> list[Freeze]:
    """Tie each cut factor to the positions that it meets, and freeze all others. Changes `classes`; returns what it froze,
    with reasons.
    """
    ties: list[tuple[Labels, Labels]] = []
    freezes: list[Freeze] = []
    for decision in decided:
        grid = decision.grid
        freezes += newly_frozen(decision, classes)
        for k, factor in enumerate(grid.factors):
            if factor is not None and k != decision.cut:
                classes.freeze(factor)
        if decision.cut is None:
            classes.freeze(grid.merged)
            continue
        factor = grid.factors[decision.cut]
        assert factor is not None
        shape = [1] * len(grid.sizes)
        shape[decision.cut] = grid.sizes[decision.cut]
        ties.append((grid.merged, np.broadcast_to(factor.reshape(shape), grid.sizes).reshape(-1)))
    classes.unite(ties)
    return freezes


def newly_frozen(decision: Decision, classes: Classes) -> Iterator[Freeze]:
    """What a decision freezes that was not frozen before."""
    grid = decision.grid
    stays = grid.merged[classes.is_frozen(grid.merged)]
    cut = None if decision.cut is None else grid.factors[decision.cut]
    for k, factor in enumerate(grid.factors):
        labels = factor if factor is None or k == decision.cut else factor[~classes.is_frozen(factor)]
        if labels is None or k == decision.cut or not labels.size:
            continue
        if k in decision.alive:
            yield Freeze(labels, "another factor of its axis is cut instead", grid.node, instead=cut)
        else:
            yield Freeze(labels, "is a factor of an axis that stays", grid.node, because=stays)
    if decision.cut is None:
        followed = [factor for factor in grid.factors if factor is not None]
        fixed = np.concatenate([factor[classes.is_frozen(factor)] for factor in followed]) if followed else stays
        yield Freeze(grid.merged, "has no factor that can be cut alone", grid.node, because=fixed if fixed.size else stays)
