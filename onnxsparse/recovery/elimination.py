"""The order in which channels can be removed, and what that costs: optimal brain surgeon with the columns of a channel at once.

A layer that reads channels is a matrix W of rows × columns, and H the second moments of its inputs. If the columns S of W become
zero and all others take their best values, the error tr(D H Dᵀ) of the outputs is tr(W_S B W_Sᵀ) with B = ([H⁻¹]_SS)⁻¹.

1. The cost of each channel is summed over all layers that read it, relative to the power of their outputs.
2. The cheapest channel is removed: W −= W_S B [H⁻¹]_S: and H⁻¹ −= [H⁻¹]_:S B [H⁻¹]_S:. The costs of the others follow from
   these, so that the sum of the costs so far is the error of the best refit without all removed channels.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ir.array_types import Floats, Indices
from onnxsparse.recovery.alps import RIDGE, alive, error

AT_ONCE = 64
"""One of this many channels that are left is removed at once, so that a group of 1152 takes 281 steps."""

NONE = -1
"""The channel of a column or row that belongs to none."""


@dataclass(frozen=True)
class Block:
    """Channels with equally many columns in one group of a layer. `columns`: channels × columns of each."""

    group: int
    channels: Indices
    columns: Indices


@dataclass
class Reader:
    """A layer that reads the channels. Its weights and H⁻¹ change while channels are removed.

    `weight`: groups × rows × columns. `inverse`: groups × columns × columns. `columns`: groups × columns, the channel of each.
    `rows`: groups × rows, the channel that a row produces, so that it goes with it. `power`: of the outputs.
    """

    weight: Floats
    inverse: Floats
    columns: Indices
    rows: Indices
    blocks: tuple[Block, ...]
    power: float

    @classmethod
    def of(cls, weight: Floats, h: Floats, columns: Indices, rows: Indices, ridge: float = RIDGE) -> "Reader":
        """From weights and second moments. `columns`: groups × columns, `rows`: groups × rows; their channels or NONE.

        `ridge`: as a share of the mean of H's diagonal.
        """
        h = alive(h)
        mean = np.diagonal(h, axis1=1, axis2=2).mean(1)
        inverse = np.linalg.inv(h + ridge * mean[:, None, None] * np.eye(h.shape[1]))
        return cls(weight.copy(), inverse, columns, rows, tuple(blocks(columns)), error(weight, h) or 1.0)

    @property
    def matters(self) -> bool:
        """Whether a channel is read by rows that stay without it. Depthwise layers have none: each row is its channel's own."""
        return any((self.rows[b.group] != b.channels[:, None]).any() for b in self.blocks)

    def add_costs(self, costs: Floats, left: NDArray[np.bool_]) -> None:
        """Add the cost of removing each channel that is `left`."""
        for block in self.blocks:
            there = left[block.channels]
            channels, at = block.channels[there], block.columns[there]
            inner = self.inverse[block.group][at[:, :, None], at[:, None, :]]
            parts = np.moveaxis(self.weight[block.group][:, at], 0, 2)
            each = (np.linalg.solve(inner, parts) * parts).sum(1)
            costs[channels] += (each * (self.rows[block.group] != channels[:, None])).sum(1) / self.power

    def remove(self, channels: Indices) -> float:
        """Remove channels, and give all other columns their best values; the error that this adds."""
        self.weight[np.isin(self.rows, channels)] = 0
        added = 0.0
        for weight, inverse, own in zip(self.weight, self.inverse, self.columns, strict=True):
            at = np.flatnonzero(np.isin(own, channels))
            if at.size:
                solved = np.linalg.solve(inverse[np.ix_(at, at)], np.hstack([inverse[at], weight[:, at].T]))
                update, parts = solved[:, : own.size], solved[:, own.size :]
                added += float((parts.T * weight[:, at]).sum())
                weight -= weight[:, at] @ update
                inverse -= inverse[:, at] @ update
                weight[:, at] = 0
        return added / self.power


def blocks(columns: Indices) -> Iterator[Block]:
    """The blocks of a layer. `columns`: groups × columns, their channels or NONE."""
    for group, own in enumerate(columns):
        held = np.flatnonzero(own != NONE)
        channels, counts = np.unique(own[held], return_counts=True)
        ordered = held[np.argsort(own[held], kind="stable")]
        parts = np.split(ordered, np.cumsum(counts)[:-1])
        for size in np.unique(counts).tolist():
            chosen = np.flatnonzero(counts == size)
            yield Block(group, channels[chosen], np.stack([parts[i] for i in chosen]))


@dataclass(frozen=True)
class Elimination:
    """`order`: channels, the first to remove first. `errors`: error i of i removed channels, up to all but one.

    `refitted`: number of removed channels → the weights of each reader after their best refit.
    """

    order: Indices
    errors: Floats
    refitted: dict[int, list[Floats]]


def eliminate(readers: Sequence[Reader], count: int, marks: Collection[int] = ()) -> Elimination:
    """Remove all of `count` channels but one; the readers are changed.

    Wide groups lose several at once: their errors are exact together, and shared equally among them. `marks`: numbers of removed
    channels after which to keep the weights.
    """
    left = np.ones(count, bool)
    order: list[int] = []
    errors = [0.0]
    refitted: dict[int, list[Floats]] = {}
    while len(order) < count - 1:
        costs = np.zeros(count)
        for reader in readers:
            reader.add_costs(costs, left)
        now = len(order)
        ends = (now + max(1, (count - now) // AT_ONCE), count - 1, *(mark for mark in marks if mark > now))
        chosen = np.argsort(np.where(left, costs, np.inf), kind="stable")[: min(ends) - now]
        added = max(sum(reader.remove(chosen) for reader in readers), 0.0)
        left[chosen] = False
        order += chosen.tolist()
        errors += (errors[-1] + added * np.arange(1, chosen.size + 1) / chosen.size).tolist()
        if len(order) in marks:
            refitted[len(order)] = [reader.weight.copy() for reader in readers]
    return Elimination(np.array([*order, *np.flatnonzero(left)], np.int64), np.array(errors), refitted)
