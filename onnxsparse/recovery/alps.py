"""Which weights of one layer to keep, and their best values: ALPS and least squares on the kept ones.

A layer is a matrix W of rows × columns, and H the second moments of its inputs (columns × columns): the error of other weights V
is the squared difference of the outputs, tr((V − W) H (V − W)ᵀ).

1. `choose`: the kept weights, by ADMM on the error (ALPS, arXiv 2406.07831). H is scaled to a unit diagonal, and the penalty
   grows with the number of weights that enter or leave.
2. `refit`: the best values of the kept weights, row by row, by Cholesky; a ridge pulls them to the dense weights. Where fewer
   weights are gone than kept, the equations of those that are gone are solved instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from onnxsparse.ir.array_types import Floats, Mask, Singles
from onnxsparse.recovery.tasks import in_parallel

Keep = Callable[[NDArray[np.floating]], Mask]
"""Magnitudes of a matrix → the mask of what is kept: as many as the caller wants, in the pattern that the target needs."""

ITERATIONS = 60
"""Most iterations of ADMM; it stops earlier when the kept weights no longer change."""

FIRST_PENALTY = 0.1

CHECK_EVERY = 3
"""Iterations between two looks at the kept weights."""

GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
"""(least share of kept weights that changed, factor of the penalty)."""

RIDGE = 1e-3
"""Ridge of the refit, as a share of the mean of H's diagonal."""

LARGE = 10**9
"""Multiplications from which on work is shared by all cores."""

BLOCKS = 4
"""Blocks of rows of a large product."""

DEAD = 1e-12
"""Share of the mean of H's diagonal below which a column carries nothing."""


@dataclass(frozen=True)
class Moments:
    """H of a layer, groups × columns × columns, ready for ADMM.

    `scale`: groups × columns, 1 / √diagonal. `values`, `vectors`: eigendecomposition of H scaled to a unit diagonal.
    """

    h: Floats
    scale: Singles
    values: Singles
    vectors: Singles

    @classmethod
    def of(cls, h: Floats) -> "Moments":
        """From second moments; dead columns get a small diagonal, so that their weights have a price."""
        h = alive(h)
        diagonal = np.diagonal(h, axis1=1, axis2=2)
        scale = 1 / np.sqrt(diagonal)
        values, vectors = np.linalg.eigh(h * scale[:, None, :] * scale[:, :, None])
        return cls(h, scale.astype(np.float32), np.maximum(values, 0).astype(np.float32), vectors.astype(np.float32))


def alive(h: Floats) -> Floats:
    """H with a small diagonal in place of that of dead columns."""
    diagonal = np.diagonal(h, axis1=1, axis2=2)
    mean = float(diagonal.mean()) or 1.0
    extra = np.where(diagonal <= DEAD * mean, RIDGE * mean, 0.0)
    return h + extra[:, :, None] * np.eye(h.shape[1])


def error(difference: Floats, h: Floats) -> float:
    """tr(D H Dᵀ), summed over groups, of a difference of weights (groups × rows × columns)."""
    # rounding takes what the samples do not see below 0
    return max(0.0, float(((difference @ h) * difference).sum()))


def choose(weight: Floats, moments: Moments, keep: Keep, wanted: Floats | None = None, settled: float = 0.0) -> Mask:
    """The weights to keep, groups × rows × columns, where `moments` measure the error.

    `wanted`: the wanted outputs times the inputs, in that shape; None: those of `weight` on the same inputs. `settled`: the share
    of the kept weights that still change when the choice ends.
    """
    scale, vectors, back = moments.scale[:, None, :], moments.vectors, moments.vectors.swapaxes(1, 2)
    scaled = (weight / scale).astype(np.float32)
    target: Singles = (((weight @ moments.h) if wanted is None else wanted) * scale).astype(np.float32)
    values = moments.values[:, None, :]
    penalty = FIRST_PENALTY
    mask = last = keep(np.abs(scaled))
    kept: Singles = np.where(mask, scaled, 0)
    dual: Singles = np.zeros_like(scaled)
    for iteration in range(1, ITERATIONS + 1):
        free = product(product(target - dual + penalty * kept, vectors) / (values + penalty), back)
        pulled = free + dual / penalty
        mask = keep(np.abs(pulled))
        kept = np.where(mask, pulled, 0)
        dual += penalty * (free - kept)
        if iteration % CHECK_EVERY == 0:
            changed = float(np.count_nonzero(mask != last)) / max(int(np.count_nonzero(mask)), 1)
            if changed <= settled:
                break
            penalty *= next(factor for least, factor in GROWTH if changed >= least)
            last = mask
    return mask


def product(a: Singles, b: Singles) -> Singles:
    """Matrix products, group by group; large ones in blocks of rows, which are the same for any number of cores."""
    if a.size * b.shape[-1] < LARGE:
        found: Singles = a @ b
        return found
    return np.concatenate(in_parallel(lambda rows: rows @ b, np.array_split(a, BLOCKS, axis=1)), axis=1)


def refit(weight: Floats, mask: Mask, h: Floats, wanted: Floats | None = None, ridge: float = RIDGE) -> Floats:
    """`Equations.refit` for inputs with second moments `h`."""
    return Equations.of(h, ridge).refit(weight, mask, wanted)


@dataclass(frozen=True)
class Equations:
    """The equations of least squares of one layer: H, groups × columns × columns, plus `pulls` on the diagonal of each group.

    `inverses`: of both, by group; None where they are singular.
    """

    h: Floats
    pulls: Sequence[float]
    inverses: Sequence[Floats | None]

    @classmethod
    def of(cls, h: Floats, ridge: float = RIDGE) -> "Equations":
        """From second moments. `ridge`: pull to the dense weights, as a share of the mean of H's diagonal."""
        pulls = [ridge * (float(np.diagonal(part).mean()) or 1.0) for part in h]
        return cls(h, pulls, [inverse(part, pull) for part, pull in zip(h, pulls, strict=True)])

    def refit(self, weight: Floats, mask: Mask, wanted: Floats | None = None) -> Floats:
        """The best weights where `mask` is set, and 0 elsewhere.

        `wanted`: as in `choose`. A row whose equations are singular keeps its own weights where the mask is set.
        """
        right = weight @ self.h if wanted is None else wanted
        found = np.zeros_like(weight)
        for group, pull in enumerate(self.pulls):
            target = right[group] + pull * weight[group]
            free = self.inverses[group]
            whole = None if free is None else target @ free

            def row(at: int, group: int = group, target: Floats = target, whole: Floats | None = whole) -> Floats:
                return self._row(group, mask[group, at], target[at], None if whole is None else whole[at], weight[group, at])

            work = mask.shape[1] * mask.shape[2] ** 3 // 24
            rows = in_parallel(row, range(mask.shape[1])) if work > LARGE else map(row, range(mask.shape[1]))
            for at, values in enumerate(rows):
                found[group, at, mask[group, at]] = values
        return found

    def _row(self, group: int, mask: Mask, target: Floats, whole: Floats | None, own: Floats) -> Floats:
        """The kept weights of a row. `whole`: all of its weights if none had to be 0."""
        kept, gone = np.flatnonzero(mask), np.flatnonzero(~mask)
        free = self.inverses[group]
        best: Floats
        try:
            if free is None or whole is None or kept.size <= gone.size:
                return solution(self.h[group], kept, target, self.pulls[group])
            # what brings the weights that are gone to 0
            excess = solution(free, gone, whole)
            best = whole[kept] - free[np.ix_(kept, gone)] @ excess
        except LinAlgError:
            best = own[kept]
        return best


def inverse(h: Floats, pull: float) -> Floats | None:
    """The inverse of a matrix plus `pull` on its diagonal; None if that is singular."""
    try:
        found: Floats = cho_solve(cho_factor(h + pull * np.eye(len(h)), overwrite_a=True), np.eye(len(h)), overwrite_b=True)
    except LinAlgError:
        return None
    return found


def solution(equations: Floats, at: NDArray[np.intp], right: Floats, pull: float = 0.0) -> Floats:
    """The solution of equations at some places, plus `pull` on the diagonal, where all other unknowns are 0.

    Raises LinAlgError if they are singular.
    """
    if not at.size:
        return np.zeros(0)
    part = equations[np.ix_(at, at)]
    part[np.diag_indices(at.size)] += pull
    found: Floats = cho_solve(cho_factor(part, overwrite_a=True), right[at])
    return found
