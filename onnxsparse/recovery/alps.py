"""Which weights of one layer to keep, and their best values: ALPS and least squares on the kept ones.

A layer is a matrix W of rows × columns, and H the second moments of its inputs (columns × columns): the error of other weights V
is the squared difference of the outputs, tr((V − W) H (V − W)ᵀ).

1. `choose`: the kept weights, by ADMM on the error (ALPS, arXiv 2406.07831). H is scaled to a unit diagonal, and the penalty
   grows with the number of weights that enter or leave.
2. `refit`: the best values of the kept weights, row by row, by Cholesky; a ridge pulls them to the dense weights.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Mask = NDArray[np.bool_]

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
    return float(((difference @ h) * difference).sum())


def choose(weight: Floats, moments: Moments, keep: Keep, wanted: Floats | None = None) -> Mask:
    """The weights to keep, groups × rows × columns, where `moments` measure the error.

    `wanted`: the wanted outputs times the inputs, in that shape; None: those of `weight` on the same inputs.
    """
    scale, vectors, back = moments.scale[:, None, :], moments.vectors, moments.vectors.swapaxes(1, 2)
    scaled = (weight / scale).astype(np.float32)
    target = (((weight @ moments.h) if wanted is None else wanted) * scale).astype(np.float32)
    values = moments.values[:, None, :]
    penalty = FIRST_PENALTY
    mask = last = keep(np.abs(scaled))
    kept, dual = np.where(mask, scaled, 0), np.zeros_like(scaled)
    for iteration in range(1, ITERATIONS + 1):
        free = ((target - dual + penalty * kept) @ vectors) / (values + penalty) @ back
        pulled = free + dual / penalty
        mask = keep(np.abs(pulled))
        kept = np.where(mask, pulled, 0)
        dual += penalty * (free - kept)
        if iteration % CHECK_EVERY == 0:
            changed = float(np.count_nonzero(mask != last)) / max(int(np.count_nonzero(mask)), 1)
            if not changed:
                break
            penalty *= next(factor for least, factor in GROWTH if changed >= least)
            last = mask
    return mask


def refit(weight: Floats, mask: Mask, h: Floats, wanted: Floats | None = None, ridge: float = RIDGE) -> Floats:
    """The best weights where `mask` is set, and 0 elsewhere, for inputs with second moments `h`.

    `wanted`: as in `choose`. `ridge`: pull to `weight`, as a share of the mean of H's diagonal. A row whose equations are
    singular keeps its own weights where the mask is set.
    """
    right = weight @ h if wanted is None else wanted
    found = np.zeros_like(weight)
    for group in range(weight.shape[0]):
        pull = ridge * (float(np.diagonal(h[group]).mean()) or 1.0)
        whole = mask[group].all(1)
        if whole.any():
            found[group, whole] = solved(h[group], right[group, whole], weight[group, whole], pull)
        for row in np.flatnonzero(~whole):
            at = np.flatnonzero(mask[group, row])
            if at.size:
                found[group, row, at] = solved(h[group][np.ix_(at, at)], right[group, row, at], weight[group, row, at], pull)
    return found


def solved(h: Floats, right: Floats, own: Floats, pull: float) -> Floats:
    """V of V (H + pull I) = right + pull · own, for one or more rows; `own` if the equations are singular."""
    pulled = h.copy()
    pulled[np.diag_indices(h.shape[0])] += pull
    try:
        factors = cho_factor(pulled, overwrite_a=True)
    except LinAlgError:
        return own
    found: Floats = cho_solve(factors, (right + pull * own).T).T
    return found
