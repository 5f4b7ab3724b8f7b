"""Groups: channels that can be cut independently of one another.

1. `solve` discovers labels and settles their ties into classes.
2. Grids are resolved with each strategy (`grids`). If any choice had to be made, the resolution that leaves the fewest
   multiply-accumulates after cutting half of every group is taken.
3. `make_groups` collects the classes that run along the same axes.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxsparse.channels.discovery import discover
from onnxsparse.channels.grids import STRATEGIES, Resolution, resolve
from onnxsparse.channels.labelled_graph import Discovery, Operand, Use
from onnxsparse.channels.reasons import Reasons
from onnxsparse.ir.model import Model
from onnxsparse.ops import UnknownFact
from onnxsparse.ops.coupling import Role
from onnxsparse.ops.labels import Axes, Classes, Labels
from onnxsparse.ops.view import OpView

Kept = NDArray[np.intp]
"""Indices kept along an axis, ascending."""
Removed = NDArray[np.bool_]
"""Label → whether its class is cut."""

Item = TypeVar("Item")

HALF = 0.5
"""Share of every group that is cut to compare resolutions."""


@dataclass(frozen=True)
class Member:
    """A constant's axis that a group runs along."""

    node: str
    """Name of the node that reads the constant."""
    tensor: str
    """The constant's name."""
    axis: int
    """The axis."""
    role: Role
    """What the axis does for the node."""


@dataclass(frozen=True)
class Group:
    """Channels that can be cut one by one."""

    name: str
    """Name of the first node that produces it, else of the first that consumes it."""
    classes: Labels
    """One class per channel, ascending."""
    width: int
    """Indices per channel along the axis of the node that names the group."""
    members: tuple[Member, ...]
    """The constants' axes that it runs along."""


@dataclass(frozen=True)
class Frozen:
    """Output channels of a linear op that stay for one reason."""

    node: str
    """The op's name."""
    channels: int
    """Number of channels that stay for the reason."""
    of: int
    """Number of output channels."""
    reason: str
    """A clause about the axis, with the node where it was found."""


@dataclass(frozen=True)
class Solution:
    """A model's groups, and the classes of its labels."""

    found: Discovery
    """The labelled graph."""
    classes: Classes
    """Classes after the resolution."""
    groups: tuple[Group, ...]
    """Groups, in order of their first class."""
    resolution: Resolution
    """How grids were decided."""

    @cached_property
    def uses(self) -> dict[tuple[int, int], Use]:
        """(node, input) → the use of a constant there."""
        return {(use.node, use.at): use for use in self.found.uses}

    def removal(self, classes: Labels) -> Removed:
        """Which labels are cut when `classes` are."""
        gone = np.zeros(self.classes.root.size, np.bool_)
        gone[classes] = True
        removed: Removed = gone[self.classes.root]
        return removed

    def kept(self, labels: Labels | None, removed: Removed) -> Kept | None:
        """Indices kept along an axis. None: all."""
        if labels is None or not removed[labels].any():
            return None
        return np.flatnonzero(~removed[labels])

    def axes_at(self, index: int, at: int) -> Axes | None:
        """Labels of an input of a node. None: not followed."""
        use = self.uses.get((index, at))
        return use.axes if use is not None else self.found.axes.get(self.found.input_key(index, at))

    def new_view(self, index: int, removed: Removed) -> OpView:
        """The node with the shapes that it has after a cut."""
        old = self.found.view(index)
        inputs = tuple(self._new_shape(shape, self.axes_at(index, at), removed) for at, shape in enumerate(old.inputs))
        keys = (self.found.output_key(index, at) for at in range(len(old.outputs)))
        outputs = tuple(self._new_shape(s, self.found.axes.get(k), removed) for s, k in zip(old.outputs, keys, strict=True))
        return OpView(old.node, inputs, outputs)

    def _new_shape(
        self, shape: tuple[int | None, ...] | None, axes: Axes | None, removed: Removed
    ) -> tuple[int | None, ...] | None:
        if shape is None or axes is None or len(axes) != len(shape):
            return shape
        return tuple(
            s if (kept := self.kept(labels, removed)) is None else kept.size for s, labels in zip(shape, axes, strict=True)
        )

    def macs(self, removed: Removed) -> int:
        """Multiply-accumulates after a cut, over all ops whose count is known."""
        return sum(self.macs_of(index, removed) for index in range(len(self.found.places)))

    def macs_of(self, index: int, removed: Removed) -> int:
        """Multiply-accumulates of a node after a cut; 0 if they are unknown, before as after."""
        spec = self.found.spec(index)
        try:
            return 0 if spec is None or spec.macs is None else spec.macs(self.new_view(index, removed))
        except UnknownFact:
            return 0

    def frozen(self) -> Iterator[Frozen]:
        """Output channels of linear ops that stay, one entry per op and reason."""
        reasons = Reasons(self.found, self.resolution.freezes, self.classes, [group.classes for group in self.groups])
        for operand in self.found.operands:
            stays = self.classes.is_frozen(operand.labels)
            if operand.role is Role.PRODUCES and stays.any():
                counts = reasons.of_outputs(operand.node, operand.labels[stays])
                name = self.found.places[operand.node].name
                yield from (Frozen(name, count, operand.labels.size, reason) for reason, count in counts.items())


def solve(model: Model, *, cut_norms: bool = False) -> Solution:
    """The groups of a model at the sizes it is bound to; the steps are in the module's docstring.

    `cut_norms`: whether axes that a normalisation, mean or extreme reduces over may be cut.
    """
    found = discover(model, cut_norms=cut_norms)
    settled = found.space.settled()
    first = resolve(found.space, settled, STRATEGIES[0])
    resolutions = [first] if not first.chosen else [first, *(resolve(found.space, settled, s) for s in STRATEGIES[1:])]
    solutions = [Solution(found, r.classes, tuple(make_groups(found, r.classes)), r) for r in resolutions]
    return solutions[0] if len(solutions) == 1 else min(solutions, key=half_macs)


def half_macs(solution: Solution) -> int:
    """Multiply-accumulates that remain when half of every group is cut."""
    gone = [group.classes[: int(group.classes.size * HALF)] for group in solution.groups]
    return solution.macs(solution.removal(np.concatenate(gone) if gone else np.zeros(0, np.int64)))


def make_groups(found: Discovery, classes: Classes) -> Iterator[Group]:
    """Groups of classes that run along the same axes.

    1. Every axis draws a random 64-bit number. A class's signature is the XOR of the numbers of all axes that it occurs on, so
       classes on the same axes have the same signature, and others differ up to chance (2⁻⁶³ per pair).
    2. Classes that are frozen, or that no operand of a linear op has, are left out.
    3. The remaining classes are grouped by signature, and each group is described by its first class.
    """
    signature = np.zeros(classes.root.size, np.uint64)
    weighted = np.zeros(classes.root.size, np.bool_)
    rng = np.random.default_rng(0)
    seen: set[int] = set()
    every = [axes for axes in found.axes.values() if axes is not None] + [use.axes for use in found.uses]
    for axes in every:
        for labels in axes:
            if labels is not None and id(labels) not in seen:
                seen.add(id(labels))
                # plain indexing: a class that occurs twice on an axis must be toggled once, not twice
                roots = classes.root[labels]
                signature[roots] = signature[roots] ^ rng.integers(1, 2**63, dtype=np.uint64)
    for operand in found.operands:
        weighted[classes.root[operand.labels]] = True
    alive = np.unique(classes.root)
    alive = alive[weighted[alive] & ~classes.frozen[alive]]
    marks, first, which = np.unique(signature[alive], return_index=True, return_inverse=True)
    axes_of_uses = ((use, axis, labels) for use in found.uses for axis, labels in enumerate(use.axes))
    members = by_class(classes, alive[first], (((use, axis), labels) for use, axis, labels in axes_of_uses if labels is not None))
    makers = by_class(classes, alive[first], ((operand, operand.labels) for operand in found.operands))
    ordered = alive[np.argsort(which, kind="stable")]
    parts = np.split(ordered, np.cumsum(np.bincount(which, minlength=marks.size))[:-1]) if marks.size else []
    for own in sorted(parts, key=lambda part: int(part[0])):
        yield describe(found, classes, own, members[int(own[0])], makers[int(own[0])])


def by_class(classes: Classes, chosen: Labels, labelled: Iterable[tuple[Item, Labels]]) -> dict[int, list[Item]]:
    """Class → the items that it occurs on, for the classes `chosen`. `labelled`: (item, labels of its axis)."""
    found: dict[int, list[Item]] = {int(c): [] for c in chosen}
    wanted = np.zeros(classes.root.size, np.bool_)
    wanted[chosen] = True
    for item, labels in labelled:
        roots = classes.root[labels]
        for root in np.unique(roots[wanted[roots]]).tolist():
            found[root].append(item)
    return found


def describe(found: Discovery, classes: Classes, own: Labels, places: list[tuple[Use, int]], operands: list[Operand]) -> Group:
    """The group of the classes `own`, named after the first node that produces it, else the first that consumes it."""
    order = (Role.PRODUCES, Role.CONSUMES, Role.PER_CHANNEL)
    first = min(operands, key=lambda operand: order.index(operand.role))
    width = int(np.count_nonzero(classes.root[first.labels] == own[0]))
    members = tuple(Member(found.places[u.node].name, u.tensor, a, u.roles.get(a, Role.PER_CHANNEL)) for u, a in places)
    return Group(found.places[first.node].name, own, width, members)


def kept_channels(count: int, ratio: float, round_to: int, width: int) -> int:
    """Number of a group's channels that stay at this ratio, at least one.

    Rounded up so that the size of the axis, channels × `width`, is a multiple of `round_to`.
    """
    unit = round_to // math.gcd(round_to, width)
    wanted = count - math.floor(count * ratio + 1e-9)
    return min(count, max(1, -(-wanted // unit)) * unit)
