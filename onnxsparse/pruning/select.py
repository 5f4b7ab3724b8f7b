"""Selection of the least important items until a gain is reached: as exact as a full sort, without one.

Items are elements of a tensor, or blocks of elements. Bit patterns of nonnegative float32 values order like the values.

1. Count the items of each tensor in a histogram over the high bits of their magnitudes (`histogram`).
2. Bound the common score threshold from below and above by the scores at the bins' edges, and find the bins of each tensor
   between these bounds: its bracket (`find_brackets`). All items below the bracket are chosen.
3. Read the items inside the brackets again (about one in a hundred) and sort them by score (`gather`).
4. Choose in that order until the gain is reached, and state the result per tensor as a threshold on magnitudes and a number of
   items at the threshold (`conclude`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint32]
Counts = NDArray[np.int64]

LOW_BITS = 15
"""Bits of a magnitude that the histogram ignores; 8 bits of the mantissa remain, so a bin is at most 1/256 of its magnitude."""

BINS = 1 << 31 - LOW_BITS
"""One for every value of the upper 16 of a magnitude's 31 bits."""

FIRST_NOT_FINITE = 0x7F800000 >> LOW_BITS
"""The bin of infinity; NaNs are in it and in the bins above."""


class Items(Protocol):
    """The items of one tensor, in a fixed order."""

    @property
    def size(self) -> int:
        """Nonzero elements in all items together."""

    def chunks(self) -> Iterator[tuple[int, Bits, Counts | None]]:
        """Parts of the items: index of the first, magnitude bits, and nonzero elements of each item.

        None for the latter: an item has 1 nonzero element if its bits are above 0, else none.
        """


@dataclass(frozen=True)
class Choice:
    """The items of one tensor to zero: those whose magnitude bits are below `bits`, and the first `ties` that equal `bits`.

    `gain`: elements that become zero.
    """

    bits: int
    ties: int
    gain: int

    def mask(self, part: Bits, seen: int) -> NDArray[np.bool_]:
        """Whether to zero each item of a chunk, given its magnitude bits; `seen` items of earlier chunks equal `bits`."""
        mask = part < self.bits
        if seen < self.ties:
            at = np.flatnonzero(part == self.bits)[: self.ties - seen]
            mask[at] = True
        return mask


Score = Callable[[NDArray[np.float64], NDArray[np.intp]], NDArray[np.float64]]
"""Importance of magnitudes, given the histogram bin of each; it must not fall with the magnitude."""


@dataclass(frozen=True)
class Histogram:
    """The bins that hold nonzero elements, in ascending order, and the number of nonzero elements in each."""

    bins: NDArray[np.intp]
    counts: Counts


@dataclass(frozen=True)
class Ranked:
    """One tensor's items with their importance. `weight`: gain per element; `limit`: most elements that may become zero."""

    items: Items
    histogram: Histogram
    score: Score
    weight: int
    limit: int


def histogram(items: Items) -> Histogram:
    """Nonzero elements per bin; the bin of a magnitude is the upper 16 of its 31 bits."""
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
    """The smallest magnitude of every finite bin, in ascending order, then infinity."""
    bits = np.arange(FIRST_NOT_FINITE, dtype=np.uint32) << LOW_BITS
    return np.append(bits.view(np.float32).astype(np.float64), np.inf)


@dataclass(frozen=True)
class Bracket:
    """Bins [first, end) of a tensor, among which the threshold lies. `below`: nonzero elements in the bins before `first`."""

    first: int
    end: int
    below: int


def select(ranked: Sequence[Ranked], need: int) -> list[Choice]:
    """The least important items whose gains sum to `need` or, by the last item, more; one choice per tensor, in their order.

    All items within the tensors' limits if those gain less than `need`. Of equal scores, the earlier tensor is chosen first, then
    the earlier item.
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
    """For every tensor, the bins in which the common threshold or the tensor's own limit may lie."""
    edges = bin_edges()
    lows, highs, most, least = [], [], [], []
    for r in ranked:
        bins, total = r.histogram.bins, np.cumsum(r.histogram.counts)
        lows.append(r.score(edges[bins], bins))
        highs.append(r.score(np.nextafter(edges[bins + 1], 0), bins))
        most.append(np.diff(np.minimum(total, r.limit), prepend=0) * r.weight)
        # a block that exceeds the limit is not chosen, so the bin of the limit may yield nothing
        least.append(np.where(total <= r.limit, r.histogram.counts, 0) * r.weight)
    low = threshold_score(lows, most, need)
    high = threshold_score(highs, least, need)
    return [bracket(r, beyond=a > high, reached=b >= low) for r, a, b in zip(ranked, lows, highs, strict=True)]


def bracket(ranked: Ranked, *, beyond: NDArray[np.bool_], reached: NDArray[np.bool_]) -> Bracket:
    """The bins between those that are chosen whole and those that stay whole.

    `reached`, `beyond`: per used bin, whether its scores may reach the threshold, and whether they certainly exceed it.
    """
    bins, total = ranked.histogram.bins, np.cumsum(ranked.histogram.counts)
    limit = int(np.searchsorted(total, ranked.limit, side="right"))
    first = min(first_true(reached), limit)
    end = max(min(first_true(beyond), limit + 1), first)
    places = np.append(bins, FIRST_NOT_FINITE)
    return Bracket(int(places[first]), int(places[min(end, len(bins))]), int(total[first - 1]) if first else 0)


def first_true(condition: NDArray[np.bool_]) -> int:
    """The index of the first true element; the length if none is true."""
    return int(np.argmax(condition)) if condition.any() else len(condition)


def threshold_score(scores: list[NDArray[np.float64]], gains: list[Counts], need: int) -> float:
    """The score at which the gains, summed in ascending order of score, reach `need`; infinity if they never do."""
    every = np.concatenate(scores)
    order = np.argsort(every, kind="stable")
    at = int(np.searchsorted(np.cumsum(np.concatenate(gains)[order]), need))
    return float(every[order[at]]) if at < len(every) else np.inf


@dataclass(frozen=True)
class Part:
    """The items of one tensor inside its bracket, least important first, cut off at the tensor's limit.

    Per item: `bits` of its magnitude, `sizes` in nonzero elements, `scores`.
    """

    bits: Bits
    sizes: Counts
    scores: NDArray[np.float64]


def gather(ranked: Ranked, bracket: Bracket) -> Part:
    """Read a tensor's items again and keep those inside the bracket; zero items are left out."""
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
    """The choice for one tensor; `taken` marks the chosen items of `part`, which are the first ones."""
    count = int(np.count_nonzero(taken))
    gain = bracket.below + int(part.sizes[:count].sum())
    if not count:
        return Choice(bracket.first << LOW_BITS, 0, gain)
    threshold = int(part.bits[count - 1])
    return Choice(threshold, int(np.count_nonzero(part.bits[:count] == threshold)), gain)
