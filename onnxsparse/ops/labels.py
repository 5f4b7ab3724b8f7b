"""Which indices of which axes live or die together: integer labels, united where an op ties two of them.

Every index of a prunable axis has a label. Uniting is deferred: ties are collected as arrays and settled at once. A *grid* says
that an axis is the product of factors (a Reshape's split or merge, the groups of a convolution, heads), of which at most one can
be cut: removing one index of a factor then removes all that it meets of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ops.sizes import UnknownFact

Labels = NDArray[np.int64]
"""One label per index of an axis."""

Axes = tuple[Labels | None, ...]
"""Per axis of a value; None for an axis that is not followed: of size 1, or one that cannot be cut."""


LONGEST_AXIS = 1 << 26


@dataclass(frozen=True)
class Grid:
    """An axis as a product of factors, row-major. A factor that is None is not cut."""

    merged: Labels
    factors: tuple[Labels | None, ...]
    sizes: tuple[int, ...]
    node: str


@dataclass(frozen=True)
class Freeze:
    """Labels that must stay, and why: `reason`, as it was found at `node`.

    `output`: the output of the model that they are an axis of. `because`: labels that stayed before, which is why these do.
    `instead`: a factor of the same axis that was chosen to be cut in the place of these.
    """

    labels: Labels
    reason: str
    node: str
    output: str | None = None
    because: Labels | None = None
    instead: Labels | None = None


@dataclass
class LabelSpace:
    """Labels and what ties them, as it is found along a graph."""

    size: int = 0
    ties: list[tuple[Labels, Labels]] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)

    def fresh(self, count: int) -> Labels:
        """New labels for an axis. Raises UnknownFact for one that is too long to have them."""
        if count > LONGEST_AXIS:
            raise UnknownFact(f"an axis of {count:.1e} is too long to follow")
        made = np.arange(self.size, self.size + count)
        self.size += count
        return made

    def unite(self, a: Labels, b: Labels) -> None:
        if a is not b:
            self.ties.append((a, b))

    def freeze(self, labels: Labels, reason: str, node: str, output: str | None = None) -> None:
        self.freezes.append(Freeze(labels, reason, node, output))

    def split(self, labels: Labels, sizes: Sequence[int], node: str) -> tuple[Labels | None, ...]:
        """The factors of an axis; those of size 1 are not followed. Raises UnknownFact where they do not make the axis."""
        if np.prod(sizes) != labels.size:
            raise UnknownFact(f"{labels.size} channels are not {' × '.join(map(str, sizes))}")
        factors = tuple(self.fresh(size) if size > 1 else None for size in sizes)
        self.grids.append(Grid(labels, factors, tuple(sizes), node))
        return factors

    def merge(self, factors: Sequence[Labels | None], sizes: Sequence[int], node: str) -> Labels | None:
        """The axis that these factors make."""
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
        """The classes that the ties make of the labels."""
        classes = Classes(np.arange(self.size), np.zeros(self.size, np.bool_))
        classes.unite(self.ties)
        for freeze in self.freezes:
            classes.freeze(freeze.labels)
        return classes


@dataclass
class Classes:
    """`root`: label → its class, named by one of its labels; `frozen`: by class."""

    root: Labels
    frozen: NDArray[np.bool_]

    def copy(self) -> "Classes":
        return Classes(self.root.copy(), self.frozen.copy())

    def unite(self, ties: Sequence[tuple[Labels, Labels]]) -> None:
        """Classes that any tie connects become one; it is frozen if one of them was."""
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
        self.frozen[self.root[labels]] = True

    def is_frozen(self, labels: Labels) -> NDArray[np.bool_]:
        return self.frozen[self.root[labels]]
