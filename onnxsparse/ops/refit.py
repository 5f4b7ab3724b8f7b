"""What is fixed on a node after channels were cut from what it reads and makes: attributes, target sizes, indices."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnxsparse.ops.sizes import Size
from onnxsparse.ops.view import OpView

Value = NDArray[np.generic]
Indices = NDArray[np.intp]


class Rescale(Protocol):
    """Changes a vector of sizes where they are `old`, to `new`; where they are 0, to what `fill` says."""

    def __call__(self, at: int, old: Sequence[int], new: Sequence[int], fill: Mapping[int, int] = {}, /) -> None: ...


@dataclass
class Refit:
    """One node after a cut. `old` and `new` see the shapes before and after.

    `kept_input(at, axis)` and `kept_output(at, axis)`: the indices that are left, None where all are. `constant(at)`: the value
    that an input had. `replace(at, value)` gives it another one, `patch(at, values)` other elements; `rescale(at, old, new)`
    multiplies a vector of sizes, which may be computed, by new / old; `restore_output(old, new)` does the opposite to what the
    node makes.
    """

    node: onnx.NodeProto
    old: OpView
    new: OpView
    kept_input: Callable[[int, int], Indices | None]
    kept_output: Callable[[int, int], Indices | None]
    constant: Callable[[int], Value | None]
    replace: Callable[[int, Value], None]
    patch: Callable[[int, Mapping[int, int]], None]
    rescale: "Rescale"
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
    target, source = r.constant(1), r.new.input(0)
    copies = target is not None and not r.old.number("allowzero", 0)
    zeros = [i for i, v in enumerate(target.reshape(-1).tolist()) if v == 0] if copies and target is not None else []
    fill = {i: after[i] for i in zeros if source[i] != after[i]}
    if before != after or fill:
        r.rescale(1, before, after, fill)


def positions(kept: Indices, wanted: Value) -> Value:
    """Where indices are among those that are kept."""
    found: Value = np.searchsorted(kept, wanted).astype(wanted.dtype)
    return found


def total(size: Size) -> int:
    return int(np.prod(size, dtype=np.int64))
