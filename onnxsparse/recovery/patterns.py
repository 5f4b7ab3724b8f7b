"""What may be kept of a layer's weights: a number of elements, of blocks, or N of every M along the inputs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ir.array_types import Mask
from onnxsparse.pruning.sparsity_pattern import BlockPattern, GroupPattern, Pattern
from onnxsparse.recovery.units import Unit

Magnitudes = NDArray[np.floating]


@dataclass(frozen=True)
class Largest:
    """The `count` largest elements among those that are `allowed` (None: all)."""

    count: int
    allowed: Mask | None = None

    def __call__(self, magnitudes: Magnitudes) -> Mask:
        """The mask of what is kept; of equal magnitudes, which ones is not defined but the same for the same input."""
        if self.allowed is not None:
            magnitudes = np.where(self.allowed, magnitudes, -1)
        flat = magnitudes.reshape(-1)
        mask = np.zeros(flat.size, bool)
        if self.count >= flat.size:
            mask[:] = True
        elif self.count:
            mask[np.argpartition(flat, flat.size - self.count)[flat.size - self.count :]] = True
        shaped: Mask = mask.reshape(magnitudes.shape)
        return shaped if self.allowed is None else shaped & self.allowed


@dataclass(frozen=True)
class LargestBlocks:
    """Whole blocks with at most `count` elements that are `allowed`, those with the largest mean square of them first.

    `inputs`: input channels of a group of the layer; blocks are of outputs × inputs at one kernel position, smaller at the edges.
    """

    count: int
    allowed: Mask
    pattern: BlockPattern
    inputs: int

    def __call__(self, magnitudes: Magnitudes) -> Mask:
        """The mask of what is kept, groups × rows × columns; columns are inputs × kernel positions."""
        squares, allowed = (self._summed(part) for part in (np.where(self.allowed, magnitudes, 0) ** 2, self.allowed))
        means = squares / np.maximum(allowed, 1)
        order = np.argsort(-means, axis=None, kind="stable")
        fitting = order[: np.searchsorted(np.cumsum(allowed.reshape(-1)[order]), self.count, side="right")]
        chosen = np.zeros(means.size, bool)
        chosen[fitting] = True
        rows, columns = magnitudes.shape[1:]
        wide = chosen.reshape(means.shape).repeat(self.pattern.rows, axis=1)[:, :rows]
        mask = wide.repeat(self.pattern.columns, axis=2)[:, :, : self.inputs].reshape(len(wide), rows, columns)
        shaped: Mask = mask & self.allowed
        return shaped

    def _summed(self, values: NDArray[np.generic]) -> NDArray[np.float64]:
        groups, rows, columns = values.shape
        split = values.reshape(groups, rows, self.inputs, columns // self.inputs).astype(np.float64)
        by_rows = np.add.reduceat(split, np.arange(0, rows, self.pattern.rows), axis=1)
        found: NDArray[np.float64] = np.add.reduceat(by_rows, np.arange(0, self.inputs, self.pattern.columns), axis=2)
        return found


@dataclass(frozen=True)
class LargestOfGroups:
    """N of every M inputs at each kernel position. `inputs`: input channels of a group of the layer."""

    pattern: GroupPattern
    inputs: int

    def __call__(self, magnitudes: Magnitudes) -> Mask:
        """The mask of what is kept, groups × rows × columns; columns are inputs × kernel positions."""
        groups, rows, columns = magnitudes.shape
        size, keep = self.pattern.group, self.pattern.keep
        split = magnitudes.reshape(groups, rows, self.inputs // size, size, columns // self.inputs)
        order = np.argsort(split, axis=3, kind="stable")
        mask = np.zeros(split.shape, bool)
        np.put_along_axis(mask, order[:, :, :, size - keep :], True, axis=3)
        return mask.reshape(magnitudes.shape)


Keeper = Largest | LargestBlocks | LargestOfGroups


def keeper(pattern: Pattern, unit: Unit, allowed: Mask, count: int) -> Keeper:
    """What may be kept of a unit: `count` of the `allowed` elements at most, singly (None) or as blocks; or N:M groups."""
    match pattern:
        case None:
            return Largest(count, allowed)
        case BlockPattern():
            return LargestBlocks(count, allowed, pattern, unit.inputs)
        case GroupPattern():
            return LargestOfGroups(pattern, unit.inputs)


def why_not(pattern: Pattern, unit: Unit) -> str | None:
    """Why a unit cannot take a pattern; None if it can."""
    groups, rows, _ = unit.size
    if isinstance(pattern, GroupPattern) and unit.inputs % pattern.group:
        return f"its input axis has {unit.inputs} elements, not a multiple of {pattern.group}"
    if isinstance(pattern, BlockPattern) and groups > 1 and rows % pattern.rows:
        return f"blocks of {pattern.rows} outputs straddle its groups of {rows}"
    return None
