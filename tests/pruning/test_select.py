"""Selection against a sort: the histogram must choose exactly what putting everything in order would."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsparse.pruning.scores import Scored, l1, lamp
from onnxsparse.pruning.select import Bits, Choice, Counts, Ranked, histogram, select


@dataclass(frozen=True)
class ArrayItems:
    """Magnitudes in memory, in chunks of five; `sizes` None: single elements."""

    magnitudes: np.ndarray
    sizes: np.ndarray | None = None

    @property
    def size(self) -> int:
        return int(np.count_nonzero(self.magnitudes) if self.sizes is None else self.sizes.sum())

    def chunks(self) -> Iterator[tuple[int, Bits, Counts | None]]:
        bits = self.magnitudes.astype(np.float32).view(np.uint32)
        for start in range(0, bits.size, 5):
            yield start, bits[start : start + 5], None if self.sizes is None else self.sizes[start : start + 5]


def zeroed(items: ArrayItems, choice: Choice) -> np.ndarray:
    """Which items the choice takes, already zero ones left out."""
    seen, masks = 0, []
    for _, bits, _ in items.chunks():
        masks.append(choice.mask(bits, seen))
        seen += int((bits == choice.bits).sum())
    return np.concatenate(masks) & (items.magnitudes > 0)


def by_sorting(ranked: list[Ranked], need: int) -> list[np.ndarray]:
    """Every item in order of importance, tensor and position, until the gain is there."""
    rows: list[tuple[float, int, int, int, int]] = []
    for tensor, r in enumerate(ranked):
        items = r.items
        assert isinstance(items, ArrayItems)
        sizes = np.ones(items.magnitudes.size, np.int64) if items.sizes is None else items.sizes
        bins = (items.magnitudes.astype(np.float32).view(np.uint32) >> 15).astype(np.intp)
        nonzero = items.magnitudes > 0
        scores = np.zeros(nonzero.size)
        scores[nonzero] = r.score(items.magnitudes[nonzero].astype(np.float64), bins[nonzero])
        left = r.limit
        for i in np.argsort(items.magnitudes, kind="stable"):
            if items.magnitudes[i] == 0:
                continue
            left -= int(sizes[i])
            if left < 0:
                break
            rows.append((scores[i], tensor, len(rows), int(i), int(sizes[i]) * r.weight))
    masks = [np.zeros(r.items.magnitudes.size, bool) for r in ranked if isinstance(r.items, ArrayItems)]
    gained = 0
    for _, tensor, _, index, gain in sorted(rows):
        if gained >= need:
            break
        masks[tensor][index] = True
        gained += gain
    return masks


magnitudes = st.lists(
    st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.floats(2**-10, 8, width=32)), min_size=1, max_size=40
).map(lambda values: np.array(values, np.float32))


@st.composite
def tensors(draw: st.DrawFn) -> list[Ranked]:
    found = []
    for _ in range(draw(st.integers(1, 4))):
        values = draw(magnitudes)
        items = ArrayItems(values)
        if draw(st.booleans()):
            sizes = draw(st.lists(st.integers(1, 9), min_size=values.size, max_size=values.size))
            items = ArrayItems(values, np.where(values > 0, sizes, 0).astype(np.int64))
        counts = histogram(items)
        score = draw(st.sampled_from([l1, lamp]))(Scored(counts, draw(st.sampled_from([1.0, 3.0, 400.0]))))
        limit = draw(st.integers(0, items.size))
        found.append(Ranked(items, counts, score, draw(st.sampled_from([1, 7, 1000])), limit))
    return found


@settings(max_examples=400, deadline=None)
@given(tensors(), st.floats(0, 1.2))
def test_selection_is_what_sorting_would_choose(ranked: list[Ranked], share: float) -> None:
    need = int(share * sum(r.items.size * r.weight for r in ranked))
    choices = select(ranked, need)
    for r, choice, expected in zip(ranked, choices, by_sorting(ranked, need), strict=True):
        assert isinstance(r.items, ArrayItems)
        got = zeroed(r.items, choice)
        assert np.array_equal(got, expected), (r.items.magnitudes, got, expected)
        sizes = np.ones(got.size, np.int64) if r.items.sizes is None else r.items.sizes
        assert choice.gain == int(sizes[got].sum())


def test_ties_go_to_the_earlier_tensor_and_the_earlier_element() -> None:
    twice = [ArrayItems(np.ones(4)), ArrayItems(np.ones(4))]
    ranked = [Ranked(items, histogram(items), l1(Scored(histogram(items), 1.0)), 1, 10) for items in twice]
    masks = [zeroed(r.items, c) for r, c in zip(ranked, select(ranked, 6), strict=True) if isinstance(r.items, ArrayItems)]
    assert masks[0].tolist() == [True] * 4
    assert masks[1].tolist() == [True, True, False, False]
