"""What a channel rule (`ChannelRules.couple`) reads and declares: labels of the inputs' axes in, labels of the outputs' axes out.

- A rule unites the labels of channels that its op makes live or die together.
- It contracts axes that the op multiplies and sums: there a removed channel is a zero term, so nothing else changes.
- It freezes axes that cannot be cut.
- It raises UnknownFact if it lacks a fact; then no cut passes through the node.

Every index of an axis has a label; see `labels`.
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


class Role(Enum):
    """What an axis of a constant does for its op."""

    PRODUCES = "produces"
    """One index per output channel."""
    CONSUMES = "consumes"
    """The op sums over it."""
    PER_CHANNEL = "per_channel"
    """A parameter with one element per channel (bias, scale, slope)."""


@dataclass
class Coupling:
    """One node during discovery."""

    op: OpView
    """The node with its shapes."""
    name: str
    """The node's name, for reasons."""
    space: LabelSpace
    """Where labels are created and tied."""
    inputs: list[Axes | None]
    """Labels of each input's axes. None: the rank is unknown."""
    constant: Callable[[int], Value | None]
    """Value of an input by position. None: unknown."""
    cut_norms: bool
    """Whether axes that a normalisation, mean or extreme reduces over may be cut."""
    outputs: list[Axes | None] = field(default_factory=list)
    """Labels of each output's axes, set by `emit`. None: not followed."""
    contracted: list[tuple[int, int]] = field(default_factory=list)
    """(input, axis) pairs that the op sums over."""
    roles: dict[tuple[int, int], Role] = field(default_factory=dict)
    """Roles of (input, axis) pairs other than PER_CHANNEL."""

    def axes(self, at: int) -> Axes:
        """Labels of an input's axes; empty for a missing input. Raises UnknownFact if its rank is unknown."""
        if not self.op.has_input(at):
            return Listed(())
        found = self.inputs[at]
        if found is None:
            raise UnknownFact(f"the rank of its input {at} is unknown")
        return Listed(found)

    def vector(self, at: int) -> tuple[int, ...]:
        """The integers of an input, flattened. Raises UnknownFact if they depend on more than sizes and constants."""
        values = self.constant(at)
        if values is None:
            raise UnknownFact(f"the values of its input {at} are computed from more than sizes")
        return tuple(values.reshape(-1).tolist())

    def emit(self, axes: Sequence[Labels | None], at: int = 0) -> None:
        """Declare the axes of output `at`. Axes of size 1 are not followed and stay: a cut would leave them empty."""
        while len(self.outputs) <= at:
            self.outputs.append(None)
        shape = self.op.outputs[at] if at < len(self.op.outputs) else None
        known = shape if shape is not None and len(shape) == len(axes) else (None,) * len(axes)
        for labels, size in zip(axes, known, strict=True):
            if size == 1:
                self.freeze(labels, "becomes an axis of size 1")
        self.outputs[at] = tuple(None if size == 1 else labels for labels, size in zip(axes, known, strict=True))

    def freeze(self, labels: Labels | None, reason: str) -> None:
        """Keep an axis whole, for this reason. Does nothing for an axis that is not followed (None)."""
        if labels is not None:
            self.space.freeze(labels, reason, self.name)

    def freeze_all(self, at: int, reason: str) -> None:
        """Keep every axis of input `at` whole, for this reason."""
        for labels in (self.inputs[at] if at < len(self.inputs) else None) or ():
            self.freeze(labels, reason)

    def unite(self, *many: Labels | None) -> Labels | None:
        """Tie axes of equal size index by index, and return their common labels (None: no axis is followed).

        If one is not followed, or the sizes differ, the others stay whole.
        """
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
        """The labels of several inputs' axes, aligned at their right ends as numpy broadcasts them. Raises UnknownFact for
        unknown sizes.
        """
        shapes = [self.op.input(at) for at in ats]
        axes = [self.axes(at) for at in ats]
        rank = max(map(len, shapes), default=0)
        found: list[Labels | None] = []
        for back in range(rank, 0, -1):
            there = [(s[-back], a[-back]) for s, a in paired(shapes, axes) if len(s) >= back]
            found.append(self.unite(*(labels for size, labels in there if size != 1)))
        return found

    def factor(self, labels: Labels | None, sizes: tuple[int, ...]) -> tuple[Labels | None, ...]:
        """The factors of an axis whose size is the product of `sizes`; None for a factor of size 1, or if the axis is not
        followed.

        If only one factor exceeds 1, it is the axis itself.
        """
        if labels is None:
            return (None,) * len(sizes)
        if sum(size > 1 for size in sizes) <= 1:
            return tuple(labels if size > 1 else None for size in sizes)
        return self.space.split(labels, sizes, self.name)

    def contract(self, a: tuple[int, int], b: tuple[int, int]) -> None:
        """Declare that the op multiplies two axes, each an (input, axis) pair, index by index and sums over them."""
        self.unite(self.axes(a[0])[a[1]], self.axes(b[0])[b[1]])
        for at, axis in (a, b):
            place = at, counted(axis, len(self.axes(at)))
            self.contracted.append(place)
            self.roles[place] = Role.CONSUMES

    def produce(self, at: int, axis: int) -> Labels | None:
        """The labels of a weight's axis that counts outputs; records its role."""
        self.roles[at, counted(axis, len(self.axes(at)))] = Role.PRODUCES
        return self.axes(at)[axis]

    def follow(self, at: int, axis: int, labels: Labels | None) -> None:
        """Tie axis `axis` of a parameter to `labels`; an axis of size 1, shared by all channels, is not tied."""
        axes = self.axes(at)
        if axes and self.op.input(at)[axis] != 1:
            self.unite(axes[axis], labels)

    def crosses(self, labels: Labels | None, what: str) -> None:
        """Declare that the op reduces over an axis, so that each of its outputs depends on every channel. `what` names the op
        in the reason.
        """
        if not self.cut_norms:
            self.freeze(labels, f"{what} reduces over it")


Couple = Callable[[Coupling], None]


def couple_broadcast(c: Coupling) -> None:
    """Elementwise over all inputs, with numpy's broadcasting."""
    c.emit(c.broadcast([at for at in range(len(c.op.node.input)) if c.op.has_input(at)]))


def couple_same(c: Coupling) -> None:
    """Every output has the axes of input 0; the other inputs carry no channels."""
    for at in range(len(c.op.node.output)):
        shape = c.op.outputs[at] if at < len(c.op.outputs) else None
        same = shape is None or len(shape) == len(c.axes(0))
        c.emit(c.axes(0) if same else (None,) * len(shape or ()), at)


def normalized_axis(c: Coupling, default: int, rank: int) -> int:
    """The attribute `axis` counted from the front; 0 for a scalar. Raises UnknownFact if there is no such axis."""
    return c.op.axis(default, rank) if rank else 0


def couple_over_axis(c: Coupling, what: str) -> None:
    """Softmax and similar ops since version 13: a reduction over one axis, by default the last."""
    axes = c.axes(0)
    axis = normalized_axis(c, -1, len(axes))
    c.crosses(axes[axis] if axes else None, what)
    c.emit(axes)


def couple_over_rest(c: Coupling, what: str) -> None:
    """Softmax and similar ops before version 13: a reduction over all axes from `axis` on, by default 1."""
    axes = c.axes(0)
    for labels in axes[normalized_axis(c, 1, len(axes)) :]:
        c.crosses(labels, what)
    c.emit(axes)
