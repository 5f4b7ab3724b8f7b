"""Samples: which are held out, which are picked, and iterators that are read once."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from onnxsparse import Model, ModelError
from onnxsparse.calibration.data import check_first, open_data
from onnxsparse.runtime.samples import Picked, Samples, hold_out
from onnxsparse.runtime.session import Feeds
from tests.graphs import model, node


class Named(list[Feeds]):
    """Feeds with the names of files."""

    @property
    def names(self) -> list[str]:
        return [f"{at}.png" for at in range(len(self))]


def numbered(count: int) -> Samples:
    return Samples(Named({"x": np.full((1, 1), at, np.float32)} for at in range(count)), source="d.npz")


def values(samples: Samples) -> list[float]:
    return [float(feeds["x"][0, 0]) for feeds in samples]


def taking() -> Model:
    return model([node("Identity", "x", "y")], {"x": "1x1"})


class TestHoldOut:
    @pytest.mark.parametrize(("count", "learned", "judged"), [(512, 461, 51), (20, 18, 2), (11, 10, 1), (2, 1, 1), (1, 1, 0)])
    def test_how_many(self, count: int, learned: int, judged: int) -> None:
        kept, held = hold_out(numbered(count))
        assert (len(kept), len(held)) == (learned, judged)
        assert sorted([*values(kept), *values(held)]) == list(range(count))

    def test_which(self) -> None:
        """The middles of both halves of 20."""
        kept, held = hold_out(numbered(20))
        assert values(held) == [5, 15]
        assert values(kept) == [at for at in range(20) if at not in (5, 15)]
        assert values(hold_out(numbered(2))[1]) == [1]

    def test_they_are_spread_evenly(self) -> None:
        places = hold_out(numbered(512))[1].places
        assert {b - a for a, b in pairwise(places)} == {10, 11}
        assert (places[0], places[-1]) == (512 // 102, 101 * 512 // 102)

    def test_places_and_names_follow(self) -> None:
        kept, held = hold_out(numbered(20))
        assert (list(held.places), held.names) == ([5, 15], ("5.png", "15.png"))
        assert (kept.places[5], kept.names[5]) == (6, "6.png")

    def test_the_note_says_what_was_judged_on(self) -> None:
        assert hold_out(numbered(20))[1].notes == ("judged on 2 of the 20 samples of d.npz, which nothing was learned from",)


class TestPicking:
    def test_a_pick_of_a_pick(self) -> None:
        picked = numbered(10).pick([9, 7, 5, 3]).pick([2, 0])
        assert (values(picked), list(picked.places), picked.names) == ([5, 9], [5, 9], ("5.png", "9.png"))
        assert isinstance(picked.feeds, Picked)
        assert not isinstance(picked.feeds.source, Picked)
        assert len(picked.whole) == 10

    def test_every_so_many(self) -> None:
        assert values(numbered(7).every(3)) == [0, 3, 6]
        assert values(numbered(7).every(3).every(2)) == [0, 6]

    def test_samples_without_files_are_numbered(self) -> None:
        assert open_data([{"x": np.zeros((1, 1), np.float32)}] * 3, taking()).pick([2]).names == ("2",)

    def test_no_samples(self) -> None:
        with pytest.raises(ModelError, match=r"^d\.npz: there are no samples$"):
            check_first(numbered(0))


class TestIterators:
    def stream(self, count: int, given: list[int]) -> Iterator[Feeds]:
        """One array that is overwritten for each sample; `given` notes which were asked for."""
        array = np.zeros((1, 1), np.float32)
        for at in range(count):
            given.append(at)
            array[:] = at
            yield {"x": array}

    def test_they_are_read_once_and_kept_as_they_were(self) -> None:
        given: list[int] = []
        samples = open_data(self.stream(4, given), taking())
        assert (values(samples), values(samples), len(samples)) == ([0, 1, 2, 3], [0, 1, 2, 3], 4)
        assert given == [0, 1, 2, 3]

    def test_no_more_is_read_than_is_asked_for(self) -> None:
        given: list[int] = []
        samples = open_data(self.stream(4, given), taking())
        assert samples.feeds[1]["x"][0, 0] == 1
        assert given == [0, 1]
        assert samples.feeds[0]["x"][0, 0] == 0
        assert values(samples) == [0, 1, 2, 3]

    def test_two_readers_at_once(self) -> None:
        samples = open_data(self.stream(3, []), taking())
        pairs = [(float(a["x"][0, 0]), float(b["x"][0, 0])) for a, b in zip(samples, samples, strict=True)]
        assert pairs == [(0, 0), (1, 1), (2, 2)]

    def test_the_end(self) -> None:
        with pytest.raises(IndexError):
            open_data(self.stream(3, []), taking()).feeds[3]

    def test_held_out_of_a_stream(self) -> None:
        assert values(hold_out(open_data(self.stream(20, []), taking()))[1]) == [5, 15]
