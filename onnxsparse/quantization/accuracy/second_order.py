"""Rounding of a weight matrix that lets errors of its elements cancel each other at the outputs.

A layer is a matrix W of groups × rows × columns, and H the second moments of its inputs (groups × columns × columns). The error
of integers Q with scale s is the squared difference of the outputs, tr((sQ − W) H (sQ − W)ᵀ).

1. `successive`: round column by column, and let the columns that are not rounded yet make up for the error. Source: GPTQ, arXiv
   2210.17323.
2. `descended`: sweeps over the columns, each set to its best integers for all others as they are (coordinate descent).
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri

from onnxsparse.ir.array_types import Floats, Mask

DAMPING = 0.01
"""Addend to H's diagonal for the propagation of errors, as a share of its mean."""

BLOCK = 64
"""Columns after which the remaining ones are updated, in one product."""

SWEEPS = 4
"""Sweeps of coordinate descent, at most."""


@dataclass(frozen=True)
class Steps:
    """What values a matrix may take: scale · integer, from `low` to `high`, and 0 where `free` is not set.

    `scale` broadcasts to groups × rows × columns.
    """

    scale: Floats
    low: int
    high: int
    free: Mask

    def nearest(self, values: Floats, columns: slice | int = slice(None)) -> Floats:
        """The nearest integers of some columns' values."""
        free, scale = self.free[..., columns], np.broadcast_to(self.scale, self.free.shape)[..., columns]
        found: Floats = np.where(free, np.clip(np.rint(values / scale), self.low, self.high), 0)
        return found


def rounded(wanted: Floats, h: Floats, steps: Steps) -> Floats:
    """Integers for the best weights without rounding, `wanted`; groups × rows × columns."""
    order = np.argsort(-np.diagonal(h, axis1=1, axis2=2).mean(0), kind="stable")
    back = np.argsort(order)
    scale = np.broadcast_to(steps.scale, wanted.shape)[..., order]
    own = Steps(scale, steps.low, steps.high, steps.free[..., order])
    wanted, h = wanted[..., order], h[:, order[:, None], order]
    found = descended(successive(wanted, h, own), wanted, h, own)
    return found[..., back]


def successive(wanted: Floats, h: Floats, steps: Steps) -> Floats:
    """Step 1 of the head of this file."""
    columns, upper = wanted.shape[2], making_up(h)
    left, found = wanted.copy(), np.empty_like(wanted)
    scale = np.broadcast_to(steps.scale, wanted.shape)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = np.empty_like(left[..., start:stop])
        for at in range(start, stop):
            found[..., at] = steps.nearest(left[..., at], at)
            error = (left[..., at] - found[..., at] * scale[..., at]) / upper[:, at, at, None]
            errors[..., at - start] = error
            left[..., at + 1 : stop] -= error[..., None] * upper[:, None, at, at + 1 : stop]
        left[..., stop:] -= errors @ upper[:, start:stop, stop:]
    return found


def making_up(h: Floats) -> Floats:
    """Upper triangles U with UᵀU = (H + damping)⁻¹, whose row j tells how later columns make up for an error of column j.

    The inverse takes the place of H's copy, since H of wide layers has many times the size of the weight. Raises LinAlgError.
    """
    found, columns = h.copy(), np.arange(h.shape[1])
    found[:, columns, columns] += DAMPING * np.diagonal(h, axis1=1, axis2=2).mean(1)[:, None]
    for own in found:
        # a symmetric matrix is its transpose, which has LAPACK's order
        factor, first = dpotrf(own.T, overwrite_a=1)
        inverse, second = dpotri(factor, overwrite_c=1)
        upper, third = dpotrf(inverse, overwrite_a=1)
        if first or second or third:
            raise np.linalg.LinAlgError("second moments are not positive definite")
        own[...] = upper.T
    return found.swapaxes(1, 2)


def descended(integers: Floats, wanted: Floats, h: Floats, steps: Steps) -> Floats:
    """Step 2 of the head of this file."""
    found = integers.copy()
    slope = (found * np.broadcast_to(steps.scale, wanted.shape) - wanted) @ h
    for _ in range(SWEEPS):
        moved = [sweep(found, slope, h, steps, start) for start in range(0, wanted.shape[2], BLOCK)]
        if not any(moved):
            break
    return found


def sweep(found: Floats, slope: Floats, h: Floats, steps: Steps, start: int) -> bool:
    """Set each column of a block to its best integers; returns whether any changed. `slope`: of the error by the values, halved.

    Changes `found` and `slope`.
    """
    stop = min(start + BLOCK, found.shape[2])
    scale = np.broadcast_to(steps.scale, found.shape)
    moves, own = np.zeros_like(found[..., start:stop]), slope[..., start:stop]
    for at in range(start, stop):
        # against the slope, to the bottom of the parabola
        best = found[..., at] * scale[..., at] - own[..., at - start] / h[:, at, at, None]
        new = steps.nearest(best, at)
        move = (new - found[..., at]) * scale[..., at]
        if move.any():
            found[..., at], moves[..., at - start] = new, move
            own += move[..., None] * h[:, None, at, start:stop]
    if not moves.any():
        return False
    slope[..., :start] += moves @ h[:, start:stop, :start]
    slope[..., stop:] += moves @ h[:, start:stop, stop:]
    return True
