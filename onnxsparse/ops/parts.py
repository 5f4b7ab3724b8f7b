"""Sequences of tensors as rules see them: the shapes of their elements, in order."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ir.binding import Shape
from onnxsparse.ops.sizes import UnknownFact
from onnxsparse.ops.view import OpView

Parts = tuple[Shape | None, ...]
"""Shapes of a sequence's elements; None for an element of unknown rank."""


@dataclass
class Sequences:
    """One node that takes or produces sequences. A rule sets what its first output is."""

    op: OpView
    """The node."""
    parts: Callable[[int], Parts]
    """Elements of the sequence at an input position. Raises UnknownFact if their number is unknown."""
    made: Parts | None = None
    """Elements of the output if it is a sequence. None: it is a tensor, or unknown."""
    shape: Shape | None = None
    """Shape of the output if it is a tensor. None: it is a sequence, or unknown."""
    value: NDArray[np.generic] | None = None
    """Value of the output if it is known. None: unknown."""
    wrong: str | None = None
    """Why no runtime can compute the node, with the two sizes. None: it can be computed, or that is unknown."""

    def position(self, at: int, count: int, last: int) -> int:
        """The position that input `at` holds, negative ones counted back from `count`. Raises UnknownFact if it is unknown or
        above `last`.
        """
        given = self.op.integer(at)
        found = given if given >= 0 else count + given
        if not 0 <= found <= last:
            self.wrong = f"cannot take position {given} of a sequence of {count}"
            raise UnknownFact(f"its position {given} is none of {count}")
        return found
