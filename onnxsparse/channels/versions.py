"""What a cut leaves: cuts per tensor, and the versions of constants that their users need."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxsparse.channels.groups import Kept
from onnxsparse.ir.model import Model
from onnxsparse.ir.sparse import is_same
from onnxsparse.ir.weights import Array


@dataclass(frozen=True)
class TensorCut:
    """What was removed along one axis of a tensor, for one of its uses."""

    tensor: str
    """The tensor's name in the weights."""
    axis: int
    """The axis."""
    removed: tuple[int, ...]
    """Indices before the cut, ascending."""
    role: str
    """Value of the axis's Role."""
    size: int
    """Size before the cut."""


@dataclass
class CutResult:
    """What a cut did."""

    cuts: tuple[TensorCut, ...]
    """What was removed from each tensor, without repetition."""
    copied: tuple[str, ...]
    """Tensors that were copied because their users need different versions."""
    touched: tuple[int, ...]
    """Indices of the nodes with an input or output of another shape."""


@dataclass(frozen=True)
class Part:
    """What remains of a tensor. Data is read only when it is written, so that memory holds one tensor at a time."""

    tensor: str
    """The tensor's name in the weights."""
    kept: tuple[tuple[int, bytes], ...]
    """(axis, kept indices as bytes of intp) for every axis that is cut; bytes, so that parts can be compared."""

    @classmethod
    def of(cls, tensor: str, kept: Mapping[int, Kept]) -> "Part":
        """The part that keeps these indices, by axis."""
        return cls(tensor, tuple((axis, indices.tobytes()) for axis, indices in kept.items()))

    def take(self, model: Model) -> Array:
        """The remaining elements as an array."""
        array = model.weights[self.tensor]
        for axis, indices in self.kept:
            array = np.take(array, np.frombuffer(indices, np.intp), axis)
        model.weights.release(self.tensor)
        return array


Version = Array | Part
"""What one user of a constant needs in its place."""


def same(a: Version, b: Version) -> bool:
    """Whether two versions are equal, byte for byte. A Part equals only a Part of the same tensor and indices."""
    if isinstance(a, Part) or isinstance(b, Part):
        return a == b if isinstance(a, Part) and isinstance(b, Part) else False
    return a is b or is_same(a, b)
