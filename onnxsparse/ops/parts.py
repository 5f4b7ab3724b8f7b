"""A sequence of tensors as rules see it: the shapes of its elements."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ir.binding import Shape
from onnxsparse.ops.sizes import UnknownFact
from onnxsparse.ops.view import OpView

Parts = tuple[Shape | None, ...]
"""The shapes of a sequence's elements; None for one whose rank is unknown."""


@dataclass
class Sequences:
    """One node that takes or makes sequences. `parts(at)`: the elements of input `at`; raises UnknownFact unless their number is
    known. A rule sets what its first output is: `made`, the elements of a sequence, or `shape` and, if it is known, `value`.
    """

    op: OpView
    parts: Callable[[int], Parts]
    made: Parts | None = None
    shape: Shape | None = None
    value: NDArray[np.generic] | None = None

    def number(self, at: int) -> int:
        """The one integer that input `at` holds."""
        values = self.op.integers(at)
        if len(values) != 1:
            raise UnknownFact(f"its input {at} holds {len(values)} numbers, not one")
        return values[0]

    def position(self, at: int, count: int, last: int) -> int:
        """The integer that input `at` holds, where negative ones count back from `count`. Raises UnknownFact beyond `last`."""
        given = self.number(at)
        found = given if given >= 0 else count + given
        if not 0 <= found <= last:
            raise UnknownFact(f"its position {given} is none of {count}")
        return found
