"""What is fixed on a node after channels were cut from what it reads and makes: attributes, target sizes, indices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnxsparse.ops.spec import OpView, Size

Value = NDArray[np.generic]
Indices = NDArray[np.intp]


@dataclass
class Refit:
    """One node after a cut. `old` and `new` see the shapes before and after.

    `kept_input(at, axis)` and `kept_output(at, axis)`: the indices that are left, None where all are. `constant(at)`: the value
    that an input had. `replace(at, value)` gives it another one; `rescale(at, old, new)` multiplies a vector of sizes, which
    may be computed, by new / old; `restore_output(old, new)` does the opposite to what the node makes.
    """

    node: onnx.NodeProto
    old: OpView
    new: OpView
    kept_input: Callable[[int, int], Indices | None]
    kept_output: Callable[[int, int], Indices | None]
    constant: Callable[[int], Value | None]
    replace: Callable[[int, Value], None]
    rescale: Callable[[int, Sequence[int], Sequence[int]], None]
    restore_output: Callable[[Sequence[int], Sequence[int]], None]

    def set(self, name: str, value: int | float | Sequence[int]) -> None:
        """Give an attribute another value."""
        kept = [a for a in self.node.attribute if a.name != name]
        made = helper.make_attribute(name, value)
        if len(kept) == len(self.node.attribute):
            self.node.attribute.append(made)
        else:
            next(a for a in self.node.attribute if a.name == name).CopyFrom(made)


def refit_sizes(at: int) -> Callable[[Refit], None]:
    """An input holds the output's sizes."""

    def refit(r: Refit) -> None:
        before, after = r.old.output(), r.new.output()
        if before != after:
            r.rescale(at, before, after)

    return refit


def refit_reshape(r: Refit) -> None:
    """As above; −1 goes on being worked out, and a 0, which copies the input's size, is written out where that differs now."""
    before, after = r.old.output(), r.new.output()
    target = r.constant(1)
    if target is not None and 0 in target and not r.old.number("allowzero", 0):
        source = r.new.input(0)
        written = [after[i] if v == 0 and source[i] != after[i] else v for i, v in enumerate(target.reshape(-1).tolist())]
        kept = [after[i] if before[i] != after[i] and v not in (0, -1) else v for i, v in enumerate(written)]
        if kept != target.reshape(-1).tolist():
            r.replace(1, np.array(kept, np.int64))
    elif before != after:
        r.rescale(1, before, after)


def positions(kept: Indices, wanted: Value) -> Value:
    """Where indices are among those that are kept."""
    found: Value = np.searchsorted(kept, wanted).astype(wanted.dtype)
    return found


def total(size: Size) -> int:
    return int(np.prod(size, dtype=np.int64))
