"""Corrections of a node after a cut: attributes, target sizes and index inputs that still describe the uncut shapes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnxsparse.ops.view import OpView

Value = NDArray[np.generic]
Indices = NDArray[np.intp]


class Rescale(Protocol):
    """Replaces sizes in an integer vector input.

    Where the input equals `old`, it becomes `new`; positions in `fill` become the given size.
    """

    def __call__(self, at: int, old: Sequence[int], new: Sequence[int], fill: Mapping[int, int] = {}, /) -> None: ...


@dataclass
class Refit:
    """One node after a cut, and how to change it. A `refit` rule raises UnknownFact if it lacks a fact."""

    node: onnx.NodeProto
    """The node, changed in place."""
    old: OpView
    """The node with the shapes before the cut."""
    new: OpView
    """The node with the shapes after the cut."""
    kept_input: Callable[[int, int], Indices | None]
    """(input, axis) → indices kept along it. None: all."""
    kept_output: Callable[[int, int], Indices | None]
    """(output, axis) → indices kept along it. None: all."""
    constant: Callable[[int], Value | None]
    """Value that an input had before the cut. None: it is computed."""
    replace: Callable[[int, Value], None]
    """Gives an input another constant value."""
    patch: Callable[[int, Mapping[int, int]], None]
    """Gives an integer vector input other elements, by position; it may be computed at run time."""
    rescale: Rescale
    """Multiplies a vector of sizes, which may be computed at run time, by new / old."""
    restore_output: Callable[[Sequence[int], Sequence[int]], None]
    """Multiplies the node's output, a vector of sizes, by old / new, so that users downstream see the sizes before the cut."""

    def set(self, name: str, value: int | float | Sequence[int]) -> None:
        """Set an attribute, keeping its position among the node's attributes if it exists."""
        kept = [a for a in self.node.attribute if a.name != name]
        made = helper.make_attribute(name, value)
        if len(kept) == len(self.node.attribute):
            self.node.attribute.append(made)
        else:
            next(a for a in self.node.attribute if a.name == name).CopyFrom(made)

    def unset(self, name: str) -> None:
        """Remove an attribute, if it exists."""
        for i in reversed(range(len(self.node.attribute))):
            if self.node.attribute[i].name == name:
                del self.node.attribute[i]


def refit_sizes(at: int) -> Callable[[Refit], None]:
    """A rule for an op whose input `at` holds the sizes of its output."""

    def refit(r: Refit) -> None:
        """Rescale input `at` if the output's shape changed."""
        before, after = r.old.output(), r.new.output()
        if before != after:
            r.rescale(at, before, after)

    return refit


def refit_reshape(r: Refit) -> None:
    """As `refit_sizes(1)`. A −1 remains; a 0, which copies the input's size, is written out if that size no longer matches."""
    before, after = r.old.output(), r.new.output()
    target, source = r.constant(1), r.new.input(0)
    copies = target is not None and not r.old.number("allowzero", 0)
    zeros = [i for i, v in enumerate(target.reshape(-1).tolist()) if v == 0] if copies and target is not None else []
    fill = {i: after[i] for i in zeros if source[i] != after[i]}
    if before != after or fill:
        r.rescale(1, before, after, fill)


def positions(kept: Indices, wanted: Value) -> Value:
    """The position of each of `wanted` within the sorted indices `kept`."""
    found: Value = np.searchsorted(kept, wanted).astype(wanted.dtype)
    return found
