"""Selection of what to zero: the least important items first, until a gain is reached, exactly and without a sort.

Magnitudes of float32 values order like their bits, so one histogram over the high bits of every tensor brackets the
threshold, and only the items inside the bracket (about one in a hundred) are looked at again and put in order. Items
are elements, or blocks of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint32]
Counts = NDArray[np.int64]

LOW_BITS = 15
BINS = 1 << 31 - LOW_BITS
FIRST_NOT_FINITE = 0x7F800000 >> LOW_BITS
"""The bin of infinity; NaNs are at and above it."""


class Items(Protocol):
    """What can be zeroed in one tensor, in a fixed order."""

    @property
    def size(self) -> int:
        """Nonzero elements in all items together."""

    def chunks(self) -> Iterator[tuple[int, Bits, Counts | None]]:
        """Parts of the items: number of the first, magnitude bits, and nonzero elements in each (None: 1 where bits > 0)."""


@dataclass(frozen=True)
class Choice:
    """The items of one tensor to zero: all below a magnitude, and the first few at it. `gain`: elements that become zero."""

    bits: int
    ties: int
    gain: int

    def mask(self, part: Bits, seen: int) -> NDArray[np.bool_]:
        """Which of the items in a chunk to zero, if `seen` items at the threshold were in chunks before."""
        mask = part < self.bits
        if seen < self.ties:
            at = np.flatnonzero(part == self.bits)[: self.ties - seen]
            mask[at] = True
        return mask


Score = Callable[[NDArray[np.float64], NDArray[np.intp]], NDArray[np.float64]]
"""Importance of magnitudes, given the histogram bin each is in; rises with the magnitude."""


@dataclass(frozen=True)
class Histogram:
    """Nonzero elements in each bin that has any; the bins rise."""

    bins: NDArray[np.intp]
    counts: Counts


@dataclass(frozen=True)
class Ranked:
    """One tensor's items with their importance. `weight`: gain per element; `limit`: elements that may become zero."""

    items: Items
    histogram: Histogram
    score: Score
    weight: int
    limit: int


def histogram(items: Items) -> Histogram:
    """Nonzero elements per bin of magnitudes, over the upper 16 bits of the 31 that a magnitude has."""
    counts = np.zeros(BINS, np.int64)
    for _, bits, sizes in items.chunks():
        bins = bits >> LOW_BITS
        if sizes is not None:
            counts += np.bincount(bins, weights=sizes, minlength=BINS).astype(np.int64)
        else:
            counts += np.bincount(bins, minlength=BINS)
            counts[0] -= bits.size - np.count_nonzero(bits)
    used = np.flatnonzero(counts)
    return Histogram(used, counts[used])


def bin_edges() -> NDArray[np.float64]:
    """The smallest magnitude of every bin and, last, infinity."""
    bits = np.arange(FIRST_NOT_FINITE, dtype=np.uint32) << LOW_BITS
    return np.append(bits.view(np.float32).astype(np.float64), np.inf)


@dataclass(frozen=True)
class Bracket:
    """Bins [first, end) of a tensor in which the threshold lies; `below`: elements in the bins before."""

    first: int
    end: int
    below: int


def select(ranked: Sequence[Ranked], need: int) -> list[Choice]:
    """The least important items whose gains sum to `need`, at most one item beyond; everything allowed if that is less.

    Ties go to the earlier tensor, then to the earlier item.
    """
    if not ranked:
        return []
    brackets = find_brackets(ranked, need)
    base = sum(b.below * r.weight for r, b in zip(ranked, brackets, strict=True))
    parts = [gather(r, b) for r, b in zip(ranked, brackets, strict=True)]
    tensor = np.repeat(np.arange(len(parts)), [p.bits.size for p in parts])
    scores = np.concatenate([p.scores for p in parts])
    sizes = np.concatenate([p.sizes for p in parts])
    weights = np.array([r.weight for r in ranked], np.int64)
    order = np.argsort(scores, kind="stable")
    gains = base + np.cumsum(sizes[order] * weights[tensor[order]])
    taken = np.zeros(len(scores), bool)
    if base < need:
        taken[order[: int(np.searchsorted(gains, need)) + 1]] = True
    starts = np.cumsum([0, *(p.bits.size for p in parts)])
    return [conclude(p, b, taken[starts[i] : starts[i + 1]]) for i, (p, b) in enumerate(zip(parts, brackets, strict=True))]


def find_brackets(ranked: Sequence[Ranked], need: int) -> list[Bracket]:
    """For every tensor the bins that may be cut by the common threshold, or by the tensor's own limit."""
    edges = bin_edges()
    lows, highs, most, least = [], [], [], []
    for r in ranked:
        bins, total = r.histogram.bins, np.cumsum(r.histogram.counts)
        lows.append(r.score(edges[bins], bins))
        highs.append(r.score(np.nextafter(edges[bins + 1], 0), bins))
        most.append(np.diff(np.minimum(total, r.limit), prepend=0) * r.weight)
        # a block that the limit cuts through cannot go, so the bin of the limit may give nothing
        least.append(np.where(total <= r.limit, r.histogram.counts, 0) * r.weight)
    low = threshold_score(lows, most, need)
    high = threshold_score(highs, least, need)
    return [bracket(r, beyond=a > high, reached=b >= low) for r, a, b in zip(ranked, lows, highs, strict=True)]


def bracket(ranked: Ranked, *, beyond: NDArray[np.bool_], reached: NDArray[np.bool_]) -> Bracket:
    """From the first bin whose scores reach the threshold's range, or that the tensor's limit cuts, to the last one."""
    bins, total = ranked.histogram.bins, np.cumsum(ranked.histogram.counts)
    limit = int(np.searchsorted(total, ranked.limit, side="right"))
    first = min(first_true(reached), limit)
    end = max(min(first_true(beyond), limit + 1), first)
    places = np.append(bins, FIRST_NOT_FINITE)
    return Bracket(int(places[first]), int(places[min(end, len(bins))]), int(total[first - 1]) if first else 0)


def first_true(condition: NDArray[np.bool_]) -> int:
    """The first place at which a condition, false then true, is true; its length if nowhere."""
    return int(np.argmax(condition)) if condition.any() else len(condition)


def threshold_score(scores: list[NDArray[np.float64]], gains: list[Counts], need: int) -> float:
    """The score at which the gains, taken in order of score, sum to `need`; infinity if they never do."""
    every = np.concatenate(scores)
    order = np.argsort(every, kind="stable")
    at = int(np.searchsorted(np.cumsum(np.concatenate(gains)[order]), need))
    return float(every[order[at]]) if at < len(every) else np.inf


@dataclass(frozen=True)
class Part:
    """The items of one tensor inside its bracket, least important first, cut off at the tensor's limit."""

    bits: Bits
    sizes: Counts
    scores: NDArray[np.float64]


def gather(ranked: Ranked, bracket: Bracket) -> Part:
    found: list[Bits] = []
    found_sizes: list[Counts] = []
    low, high = bracket.first << LOW_BITS, bracket.end << LOW_BITS
    if bracket.end > bracket.first:
        for _, bits, sizes in ranked.items.chunks():
            inside = (bits >= max(low, 1)) & (bits < high)
            found.append(bits[inside])
            found_sizes.append(np.ones(found[-1].size, np.int64) if sizes is None else sizes[inside])
    bits = np.concatenate(found) if found else np.zeros(0, np.uint32)
    sizes = np.concatenate(found_sizes) if found else np.zeros(0, np.int64)
    order = np.argsort(bits, kind="stable")
    bits, sizes = bits[order], sizes[order]
    room = int(np.searchsorted(np.cumsum(sizes), ranked.limit - bracket.below, side="right"))
    bits, sizes = bits[:room], sizes[:room]
    scores = ranked.score(bits.view(np.float32).astype(np.float64), (bits >> LOW_BITS).astype(np.intp))
    return Part(bits, sizes, scores)


def conclude(part: Part, bracket: Bracket, taken: NDArray[np.bool_]) -> Choice:
    count = int(np.count_nonzero(taken))
    gain = bracket.below + int(part.sizes[:count].sum())
    if not count:
        return Choice(bracket.first << LOW_BITS, 0, gain)
    threshold = int(part.bits[count - 1])
    return Choice(threshold, int(np.count_nonzero(part.bits[:count] == threshold)), gain)
