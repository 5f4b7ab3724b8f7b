"""Labels: which indices of which axes live or die together.

1. Every index of every axis that may be cut gets a label, an integer (`LabelSpace.fresh`).
2. Ops tie labels index by index (`unite`). Ties are collected as arrays and settled at once (`settled`), which gives classes; a
   class is what is cut or kept as one channel.
3. A *grid* declares that an axis is the product of factors: a Reshape's split or merge, the groups of a convolution, attention
   heads. At most one factor of a grid can be cut; removing one of its indices removes all positions of the axis that have this
   index.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ops.sizes import UnknownFact

Labels = NDArray[np.int64]
"""One label per index of an axis."""

Axes = tuple[Labels | None, ...]
"""Labels of each axis of a value. None for an axis that is not followed: its size is 1, or it cannot be cut."""


LONGEST_AXIS = 1 << 26
"""Longest axis that gets labels: 2²⁶ indices take half a gigabyte of labels; no channel axis is near that."""


@dataclass(frozen=True)
class Grid:
    """An axis as the product of factors, row-major."""

    merged: Labels
    """Labels of the axis."""
    factors: tuple[Labels | None, ...]
    """Labels of each factor; None for one that is not followed."""
    sizes: tuple[int, ...]
    """Size of each factor."""
    node: str
    """The node that declares it."""


@dataclass(frozen=True)
class Freeze:
    """Labels that must stay, and why."""

    labels: Labels
    """At least one index of the axis; the others may be cut."""
    reason: str
    """A clause about the axis, for users."""
    node: str
    """The node at which it was found."""
    output: str | None = None
    """Model output that the labels are an axis of. None: of none."""
    because: Labels | None = None
    """Labels frozen earlier that cause this freeze. None: `node` alone causes it."""
    instead: Labels | None = None
    """Factor of the same axis that was chosen to be cut instead of these. None: no choice was made."""


@dataclass
class LabelSpace:
    """All labels of a graph, and what ties them."""

    size: int = 0
    """Number of labels so far."""
    ties: list[tuple[Labels, Labels]] = field(default_factory=list)
    """Pairs of label arrays of equal size, tied index by index."""
    freezes: list[Freeze] = field(default_factory=list)
    """Labels that must stay, in the order in which they were found."""
    grids: list[Grid] = field(default_factory=list)
    """Axes that are products of factors."""

    def fresh(self, count: int) -> Labels:
        """New labels for an axis of `count` indices. Raises UnknownFact above LONGEST_AXIS."""
        if count > LONGEST_AXIS:
            raise UnknownFact(f"an axis of {count:.1e} is too long to follow")
        made = np.arange(self.size, self.size + count)
        self.size += count
        return made

    def unite(self, a: Labels, b: Labels) -> None:
        """Tie two label arrays of equal size index by index."""
        if a is not b:
            self.ties.append((a, b))

    def freeze(self, labels: Labels, reason: str, node: str, output: str | None = None) -> None:
        """Record that labels must stay, found at `node`; `output` as in Freeze."""
        self.freezes.append(Freeze(labels, reason, node, output))

    def split(self, labels: Labels, sizes: Sequence[int], node: str) -> tuple[Labels | None, ...]:
        """New labels for the factors of an axis; None for a factor of size 1. Raises UnknownFact unless their product is the
        axis's size.
        """
        if np.prod(sizes) != labels.size:
            raise UnknownFact(f"{labels.size} channels are not {' × '.join(map(str, sizes))}")
        factors = tuple(self.fresh(size) if size > 1 else None for size in sizes)
        self.grids.append(Grid(labels, factors, tuple(sizes), node))
        return factors

    def merge(self, factors: Sequence[Labels | None], sizes: Sequence[int], node: str) -> Labels | None:
        """The labels of the axis that is the product of these factors, row-major. None if no factor is followed.

        With a single followed factor its labels are repeated along the axis; with several a grid is declared.
        """
        followed = [i for i, factor in enumerate(factors) if factor is not None]
        if not followed:
            return None
        if len(followed) == 1:
            only = followed[0]
            shape = [1] * len(sizes)
            shape[only] = sizes[only]
            factor = factors[only]
            assert factor is not None
            return np.broadcast_to(factor.reshape(shape), tuple(sizes)).reshape(-1)
        merged = self.fresh(int(np.prod(sizes)))
        self.grids.append(Grid(merged, tuple(factors), tuple(sizes), node))
        return merged

    def settled(self) -> "Classes":
        """The classes of labels that the ties connect, frozen where a freeze reaches them."""
        classes = Classes(np.arange(self.size), np.zeros(self.size, np.bool_))
        classes.unite(self.ties)
        for freeze in self.freezes:
            classes.freeze(freeze.labels)
        return classes


@dataclass
class Classes:
    """Labels grouped by ties."""

    root: Labels
    """Label → its class, named by the smallest of its labels."""
    frozen: NDArray[np.bool_]
    """Label of a class → whether the class must stay. Meaningful at roots only."""

    def copy(self) -> "Classes":
        """An independent copy."""
        return Classes(self.root.copy(), self.frozen.copy())

    def unite(self, ties: Sequence[tuple[Labels, Labels]]) -> None:
        """Merge classes that any tie connects; the result is frozen if one of them was. A tie may repeat labels."""
        if not ties:
            return
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        a = self.root[np.concatenate([first.reshape(-1) for first, _ in ties])]
        b = self.root[np.concatenate([second.reshape(-1) for _, second in ties])]
        if 4 * a.size > self.root.size:
            touched = np.arange(self.root.size)
        else:
            touched, inverse = np.unique(np.concatenate([a, b]), return_inverse=True)
            a, b = inverse[: a.size], inverse[a.size :]
        edges = coo_array((np.ones(a.size, np.int8), (a, b)), shape=(touched.size, touched.size))
        _, component = connected_components(edges, directed=False)
        # a class is called by its smallest label
        first = np.full(component.max() + 1, np.iinfo(np.int64).max)
        np.minimum.at(first, component, touched)
        frozen = np.zeros(first.size, np.bool_)
        np.logical_or.at(frozen, component, self.frozen[touched])
        renamed = np.arange(self.root.size)
        renamed[touched] = first[component]
        self.root = renamed[self.root]
        self.frozen[first[frozen]] = True

    def freeze(self, labels: Labels) -> None:
        """Freeze the classes of these labels."""
        self.frozen[self.root[labels]] = True

    def is_frozen(self, labels: Labels) -> NDArray[np.bool_]:
        """Whether the class of each label is frozen; same shape as `labels`."""
        return self.frozen[self.root[labels]]
