"""Which factor of an axis is cut where an axis is a product: forced where one only can be, chosen where several can."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsparse.ops.labels import Classes, Grid, Labels, LabelSpace

Choose = Callable[[Grid, list[int], Classes], int]


@dataclass(frozen=True)
class Resolution:
    """Classes after every grid was decided; `lost`: (grid, factor) that was given up for another."""

    classes: Classes
    lost: tuple[tuple[Grid, int], ...]
    chosen: int


def innermost(_grid: Grid, alive: list[int], _classes: Classes) -> int:
    return alive[-1]


def outermost(_grid: Grid, alive: list[int], _classes: Classes) -> int:
    return alive[0]


def finest(grid: Grid, alive: list[int], classes: Classes) -> int:
    """The factor with most indices that can go."""
    return max(alive, key=lambda k: int(free(grid, k, classes).sum()))


STRATEGIES: tuple[Choose, ...] = (innermost, outermost, finest)


def resolve(space: LabelSpace, settled: Classes, choose: Choose) -> Resolution:
    """Decide all grids: those with one factor that can be cut at once, again and again; then one by choice, and so on."""
    classes = settled.copy()
    pending = list(space.grids)
    lost: list[tuple[Grid, int]] = []
    chosen = 0
    while pending:
        decided: list[tuple[Grid, int | None]] = []
        open_grids: list[Grid] = []
        for grid in pending:
            alive = [k for k in range(len(grid.sizes)) if free(grid, k, classes).any()]
            if len(alive) > 1:
                open_grids.append(grid)
            else:
                decided.append((grid, alive[0] if alive else None))
        if not decided:
            grid = open_grids.pop(0)
            alive = [k for k in range(len(grid.sizes)) if free(grid, k, classes).any()]
            k = choose(grid, alive, classes)
            lost += [(grid, other) for other in alive if other != k]
            decided = [(grid, k)]
            chosen += 1
        apply(classes, decided)
        pending = open_grids
    return Resolution(classes, tuple(lost), chosen)


def free(grid: Grid, k: int, classes: Classes) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
    """Which indices of factor `k` could be cut: not frozen, nor is anything that they meet."""
    factor = grid.factors[k]
    if factor is None:
        return np.zeros(grid.sizes[k], np.bool_)
    others = tuple(i for i in range(len(grid.sizes)) if i != k)
    met = classes.is_frozen(grid.merged).reshape(grid.sizes).any(others)
    found: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = ~classes.is_frozen(factor) & ~met
    return found


def apply(classes: Classes, decided: Sequence[tuple[Grid, int | None]]) -> None:
    """The factor that is cut is tied to what it meets; all others stay."""
    ties: list[tuple[Labels, Labels]] = []
    for grid, cut in decided:
        for k, factor in enumerate(grid.factors):
            if factor is not None and k != cut:
                classes.frozen[classes.root[factor]] = True
        if cut is None:
            classes.frozen[classes.root[grid.merged]] = True
            continue
        factor = grid.factors[cut]
        assert factor is not None
        shape = [1] * len(grid.sizes)
        shape[cut] = grid.sizes[cut]
        ties.append((grid.merged, np.broadcast_to(factor.reshape(shape), grid.sizes).reshape(-1)))
    classes.unite(ties)
