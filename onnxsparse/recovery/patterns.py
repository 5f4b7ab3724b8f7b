"""What may be kept of a layer's weights: a number of elements, of blocks, or N of every M along the inputs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxsparse.pruning.sparsity_pattern import GroupPattern

Mask = NDArray[np.bool_]

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
