"""Groups: the channels that can be cut independently of one another, as one list of choices."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxsparse.channels.discovery import Discovery, Operand, Use, discover
from onnxsparse.channels.grids import STRATEGIES, Resolution, resolve
from onnxsparse.channels.reasons import Reasons
from onnxsparse.ir.model import Model
from onnxsparse.ops import UnknownFact
from onnxsparse.ops.coupling import Role
from onnxsparse.ops.labels import Axes, Classes, Labels
from onnxsparse.ops.view import OpView

Kept = NDArray[np.intp]
Removed = NDArray[np.bool_]
"""Label → whether its class is cut."""

HALF = 0.5
"""Of every group, to see which resolution of ambiguous axes lets most be cut."""


@dataclass(frozen=True)
class Member:
    """A constant's axis that a group runs along."""

    node: str
    tensor: str
    axis: int
    role: Role


@dataclass(frozen=True)
class Group:
    """Channels that are cut one by one. `classes`: what each is called; `width`: indices of the first member's axis per
    channel.
    """

    name: str
    classes: Labels
    width: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Frozen:
    """Outputs of a linear op that cannot be cut for one reason: how many of how many."""

    node: str
    channels: int
    of: int
    reason: str


@dataclass(frozen=True)
class Solution:
    """A model's groups, and how labels map to the channels in them."""

    found: Discovery
    classes: Classes
    groups: tuple[Group, ...]
    resolution: Resolution

    @cached_property
    def uses(self) -> dict[tuple[int, int], Use]:
        return {(use.node, use.at): use for use in self.found.uses}

    def removal(self, classes: Labels) -> Removed:
        """Per label, of the removal of these classes."""
        gone = np.zeros(self.classes.root.size, np.bool_)
        gone[classes] = True
        removed: Removed = gone[self.classes.root]
        return removed

    def kept(self, labels: Labels | None, removed: Removed) -> Kept | None:
        """The indices of an axis that are left, None where all are."""
        if labels is None or not removed[labels].any():
            return None
        return np.flatnonzero(~removed[labels])

    def axes_at(self, index: int, at: int) -> Axes | None:
        """Of an input of a node."""
        use = self.uses.get((index, at))
        return use.axes if use is not None else self.found.axes.get(self.found.input_key(index, at))

    def new_view(self, index: int, removed: Removed) -> OpView:
        """A node with the shapes that it has after a cut."""
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
        """Of the linear ops whose MACs are known, after a cut."""
        total = 0
        for index in range(len(self.found.places)):
            spec = self.found.spec(index)
            if spec is not None and spec.macs is not None:
                try:
                    total += spec.macs(self.new_view(index, removed))
                except UnknownFact:
                    continue  # unknown before and after
        return total

    def frozen(self) -> Iterator[Frozen]:
        """The weights' output axes that stay, whole or in part, once for every reason."""
        reasons = Reasons(self.found, self.resolution.freezes, self.classes, [group.classes for group in self.groups])
        for operand in self.found.operands:
            stays = self.classes.is_frozen(operand.labels)
            if operand.role is Role.PRODUCES and stays.any():
                counts = reasons.of_outputs(operand.node, operand.labels[stays])
                name = self.found.places[operand.node].name
                yield from (Frozen(name, count, operand.labels.size, reason) for reason, count in counts.items())


def solve(model: Model, *, cut_norms: bool = False) -> Solution:
    """The groups of a model. Where an axis could be cut along one factor or another, the way that saves most is taken."""
    found = discover(model, cut_norms=cut_norms)
    settled = found.space.settled()
    first = resolve(found.space, settled, STRATEGIES[0])
    resolutions = [first] if not first.chosen else [first, *(resolve(found.space, settled, s) for s in STRATEGIES[1:])]
    solutions = [Solution(found, r.classes, tuple(make_groups(found, r.classes)), r) for r in resolutions]
    return solutions[0] if len(solutions) == 1 else min(solutions, key=half_macs)


def half_macs(solution: Solution) -> int:
    """What is left when of every group half is cut."""
    gone = [group.classes[: int(group.classes.size * HALF)] for group in solution.groups]
    return solution.macs(solution.removal(np.concatenate(gone) if gone else np.zeros(0, np.int64)))


def make_groups(found: Discovery, classes: Classes) -> Iterator[Group]:
    """Classes that run along the same axes make a group; those that no weight has are no choice of their own."""
    signature = np.zeros(classes.root.size, np.uint64)
    weighted = np.zeros(classes.root.size, np.bool_)
    rng = np.random.default_rng(0)
    seen: set[int] = set()
    every = [axes for axes in found.axes.values() if axes is not None] + [use.axes for use in found.uses]
    for axes in every:
        for labels in axes:
            if labels is not None and id(labels) not in seen:
                seen.add(id(labels))
                # an index that is there twice is assigned the same twice
                roots = classes.root[labels]
                signature[roots] = signature[roots] ^ rng.integers(1, 2**63, dtype=np.uint64)
    for operand in found.operands:
        weighted[classes.root[operand.labels]] = True
    alive = np.unique(classes.root)
    alive = alive[weighted[alive] & ~classes.frozen[alive]]
    marks, first, which = np.unique(signature[alive], return_index=True, return_inverse=True)
    members, makers = memberships(found, classes, alive[first]), operands_of(found, classes, alive[first])
    ordered = alive[np.argsort(which, kind="stable")]
    parts = np.split(ordered, np.cumsum(np.bincount(which, minlength=marks.size))[:-1]) if marks.size else []
    for own in sorted(parts, key=lambda part: int(part[0])):
        yield describe(found, classes, own, members[int(own[0])], makers[int(own[0])])


def memberships(found: Discovery, classes: Classes, chosen: Labels) -> dict[int, list[tuple[Use, int]]]:
    """Class → the constants' axes that it is on."""
    members: dict[int, list[tuple[Use, int]]] = {int(c): [] for c in chosen}
    wanted = np.zeros(classes.root.size, np.bool_)
    wanted[chosen] = True
    for use in found.uses:
        for axis, labels in enumerate(use.axes):
            if labels is not None:
                roots = classes.root[labels]
                for root in np.unique(roots[wanted[roots]]).tolist():
                    members[root].append((use, axis))
    return members


def operands_of(found: Discovery, classes: Classes, chosen: Labels) -> dict[int, list[Operand]]:
    """Class → the operands' axes that it is on."""
    operands: dict[int, list[Operand]] = {int(c): [] for c in chosen}
    wanted = np.zeros(classes.root.size, np.bool_)
    wanted[chosen] = True
    for operand in found.operands:
        roots = classes.root[operand.labels]
        for root in np.unique(roots[wanted[roots]]).tolist():
            operands[root].append(operand)
    return operands


def describe(found: Discovery, classes: Classes, own: Labels, places: list[tuple[Use, int]], operands: list[Operand]) -> Group:
    """Named after the first node that makes it, else the first that reads it."""
    order = (Role.PRODUCES, Role.CONSUMES, Role.PER_CHANNEL)
    first = min(operands, key=lambda operand: order.index(operand.role))
    width = int(np.count_nonzero(classes.root[first.labels] == own[0]))
    members = tuple(Member(found.places[u.node].name, u.tensor, a, u.roles.get(a, Role.PER_CHANNEL)) for u, a in places)
    return Group(found.places[first.node].name, own, width, members)


def kept_channels(count: int, ratio: float, round_to: int, width: int) -> int:
    """How many of a group's channels stay: rounded up so that the axis is a multiple of `round_to`; at least one such
    multiple.
    """
    unit = round_to // math.gcd(round_to, width)
    wanted = count - math.floor(count * ratio + 1e-9)
    return min(count, max(1, -(-wanted // unit)) * unit)
