"""What an op's rule about channels sees and says: labels of its inputs' axes in, labels of its outputs' axes out.

A rule unites what its op makes live or die together, says which axes it contracts (there a removed channel is a zero that is
added to a sum, so nothing else notices), and freezes what cannot be cut. Axes are labelled per index; see `labels`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ops.labels import Axes, Labels, LabelSpace
from onnxsparse.ops.sizes import Listed, UnknownFact, counted, paired
from onnxsparse.ops.view import OpView

Value = NDArray[np.generic]
Size = tuple[int, ...]


class Role(Enum):
    """What an axis of a constant does for its op."""

    PRODUCES = "produces"
    CONSUMES = "consumes"
    PER_CHANNEL = "per_channel"


@dataclass
class Coupling:
    """One node during discovery. `cut_norms`: whether axes that a normalisation looks over may be cut.

    `constant(at)`: the value of an input where it is known; `contracted`: (input, axis) pairs that are summed over; `roles`:
    of (input, axis) where they are not `PER_CHANNEL`.
    """

    op: OpView
    name: str
    space: LabelSpace
    inputs: list[Axes | None]
    constant: Callable[[int], Value | None]
    cut_norms: bool
    outputs: list[Axes | None] = field(default_factory=list)
    contracted: list[tuple[int, int]] = field(default_factory=list)
    roles: dict[tuple[int, int], Role] = field(default_factory=dict)

    def axes(self, at: int) -> Axes:
        """Of an input, none of them followed if it is not there. Raises UnknownFact where its rank is unknown."""
        if not self.op.has_input(at):
            return Listed(())
        found = self.inputs[at]
        if found is None:
            raise UnknownFact(f"the rank of its input {at} is not known")
        return Listed(found)

    def vector(self, at: int) -> tuple[int, ...]:
        """The integers of an input. Raises UnknownFact where they are computed from more than sizes."""
        values = self.constant(at)
        if values is None:
            raise UnknownFact(f"the values of its input {at} are computed from more than sizes")
        return tuple(values.reshape(-1).tolist())

    def emit(self, axes: Sequence[Labels | None], at: int = 0) -> None:
        """Say what an output's axes are; those of size 1 are not followed, and stay: nothing would be left of them."""
        while len(self.outputs) <= at:
            self.outputs.append(None)
        shape = self.op.outputs[at] if at < len(self.op.outputs) else None
        known = shape if shape is not None and len(shape) == len(axes) else (None,) * len(axes)
        for labels, size in zip(axes, known, strict=True):
            if size == 1:
                self.freeze(labels, "is taken by itself")
        self.outputs[at] = tuple(None if size == 1 else labels for labels, size in zip(axes, known, strict=True))

    def freeze(self, labels: Labels | None, reason: str) -> None:
        if labels is not None:
            self.space.freeze(labels, reason, self.name)

    def freeze_all(self, at: int, reason: str) -> None:
        for labels in (self.inputs[at] if at < len(self.inputs) else None) or ():
            self.freeze(labels, reason)

    def unite(self, *many: Labels | None) -> Labels | None:
        """Tie axes of the same size index by index; where one is not followed, the others must stay."""
        followed = [labels for labels in many if labels is not None]
        if not followed:
            return None
        first = followed[0]
        if len(followed) < len(many) or any(labels.size != first.size for labels in followed):
            alike = all(labels.size == first.size for labels in followed)
            why = "meets an axis that cannot be cut" if alike else "meets an axis of another size"
            for labels in followed:
                self.freeze(labels, why)
            return first
        for labels in followed[1:]:
            self.space.unite(first, labels)
        return first

    def broadcast(self, ats: Sequence[int]) -> list[Labels | None]:
        """The axes of several inputs aligned at their right ends, as numpy broadcasts them."""
        shapes = [self.op.input(at) for at in ats]
        axes = [self.axes(at) for at in ats]
        rank = max(map(len, shapes), default=0)
        found: list[Labels | None] = []
        for back in range(rank, 0, -1):
            there = [(s[-back], a[-back]) for s, a in paired(shapes, axes) if len(s) >= back]
            found.append(self.unite(*(labels for size, labels in there if size != 1)))
        return found

    def factor(self, labels: Labels | None, sizes: tuple[int, ...]) -> tuple[Labels | None, ...]:
        """The factors of an axis, which is itself one of them where the others are 1."""
        if labels is None:
            return (None,) * len(sizes)
        if sum(size > 1 for size in sizes) <= 1:
            return tuple(labels if size > 1 else None for size in sizes)
        return self.space.split(labels, sizes, self.name)

    def contract(self, a: tuple[int, int], b: tuple[int, int]) -> None:
        """Two inputs' axes are multiplied index by index and summed."""
        self.unite(self.axes(a[0])[a[1]], self.axes(b[0])[b[1]])
        for at, axis in (a, b):
            place = at, counted(axis, len(self.axes(at)))
            self.contracted.append(place)
            self.roles[place] = Role.CONSUMES

    def produce(self, at: int, axis: int) -> Labels | None:
        """The axis of a weight that makes outputs."""
        self.roles[at, counted(axis, len(self.axes(at)))] = Role.PRODUCES
        return self.axes(at)[axis]

    def follow(self, at: int, axis: int, labels: Labels | None) -> None:
        """A parameter that has one element per channel, or one for all."""
        axes = self.axes(at)
        if axes and self.op.input(at)[axis] != 1:
            self.unite(axes[axis], labels)

    def crosses(self, labels: Labels | None, what: str) -> None:
        """An op that looks over an axis: each of its outputs depends on every channel."""
        if not self.cut_norms:
            self.freeze(labels, f"{what} looks over it")


Couple = Callable[[Coupling], None]


def couple_broadcast(c: Coupling) -> None:
    """Element by element over all inputs, numpy's broadcasting."""
    c.emit(c.broadcast([at for at in range(len(c.op.node.input)) if c.op.has_input(at)]))


def couple_same(c: Coupling) -> None:
    """The outputs have the first input's axes; the other inputs have nothing to do with channels."""
    for at in range(len(c.op.node.output)):
        shape = c.op.outputs[at] if at < len(c.op.outputs) else None
        same = shape is None or len(shape) == len(c.axes(0))
        c.emit(c.axes(0) if same else (None,) * len(shape or ()), at)


def couple_prelu(c: Coupling) -> None:
    """The slope broadcasts to the input, from the right."""
    c.emit(c.broadcast([0, 1]))


def normalized_axis(c: Coupling, default: int, rank: int) -> int:
    return c.op.axis(default, rank) if rank else 0


def couple_over_axis(c: Coupling, what: str) -> None:
    """Softmax and its like: over one axis, before version 13 over all from it on (the spec says which by its default)."""
    axes = c.axes(0)
    axis = normalized_axis(c, -1, len(axes))
    c.crosses(axes[axis] if axes else None, what)
    c.emit(axes)


def couple_over_rest(c: Coupling, what: str) -> None:
    """From the axis on, flattened."""
    axes = c.axes(0)
    for labels in axes[normalized_axis(c, 1, len(axes)) :]:
        c.crosses(labels, what)
    c.emit(axes)
