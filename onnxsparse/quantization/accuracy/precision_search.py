"""The cheapest set of wide tensors that reaches an SQNR: predicted noise orders the sets, quantized models are judged.

Noise adds up only approximately, so that what is allowed in prediction is moved until the judged SQNR lands at the wanted one:
by as many dB as it missed, between the sets that were judged before. At last, a small set gives up every op without which it is
still enough.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxsparse.progress import tell
from onnxsparse.quantization.accuracy.mixed_precision import Candidate, count_ops, left, wide_set

MOST_JUDGED = 8
"""Quantized models that are judged, at most, beside the one with everything wide."""

MOST_AFTERWARDS = 4
"""Cheaper sets that are judged at last, since a set may do better than predicted."""

MOST_THINNED = 16
"""Largest number of wide ops each of which is left out to see whether the others are enough."""

CLOSE_DB = 1.0
"""How far above the wanted SQNR the search ends."""

STEP_DB = 0.5
"""Distance in predicted SQNR of the sets that are considered."""

WIDEST_DB = 60.0
"""How far above the predicted SQNR with nothing wide they go."""

DEEPEST_DB = 120.0
"""Predicted SQNR at which everything is wide."""


@dataclass(frozen=True)
class Found:
    """A set of wide candidates and the SQNR in dB that was judged; None if no output can be compared."""

    wide: tuple[Candidate, ...]
    sqnr_db: float | None

    @property
    def price(self) -> tuple[float, int, int]:
        """Added latency in ms, wide ops, and wide tensors."""
        return round(sum(each.added_ms for each in self.wide), 6), count_ops(self.wide), len(self.wide)

    def reaches(self, wanted_db: float) -> bool:
        """Whether it has the wanted SQNR."""
        return self.sqnr_db is not None and self.sqnr_db >= wanted_db


@dataclass
class Search:
    """A search for `wanted_db`. `plain_db`: the SQNR with nothing wide, which is too low. `judge`: the SQNR with a set wide."""

    wanted_db: float
    plain_db: float | None
    candidates: Sequence[Candidate]
    judge: Callable[[Sequence[Candidate]], float | None]
    judged: dict[tuple[int, ...], Found] = field(default_factory=dict)

    def run(self) -> Found:
        """The cheapest judged set that reaches the wanted SQNR; if none does, everything."""
        if not self.candidates:
            return Found((), self.plain_db)
        sets = self._sets()
        predicted = [predicted_db(self.candidates, wide) for wide in sets]
        low, high, at, reached = -1, len(sets), predicted_db(self.candidates, ()), self.plain_db
        for probe in range(MOST_JUDGED):
            if high - low <= 1:
                break
            missed = self.wanted_db - reached + CLOSE_DB / 2 if reached is not None and np.isfinite(reached) else np.nan
            # steps by what was missed may be too small, so that every third one goes to the middle
            nearest = int(np.searchsorted(predicted, at + missed)) if np.isfinite(missed) and probe % 3 < 2 else (low + high) // 2
            place = min(max(nearest, low + 1), high - 1)
            at = predicted[place]
            tell(f"probing {at:.1f} dB")
            found = self._found(sets[place])
            reached = found.sqnr_db
            low, high = (low, place) if found.reaches(self.wanted_db) else (place, high)
            if reached is not None and 0 <= reached - self.wanted_db <= CLOSE_DB:
                break
        for _ in range(MOST_AFTERWARDS):
            cheaper = [
                wide
                for wide in sets
                if self._key(wide) not in self.judged and Found(tuple(wide), None).price < self._best().price
            ]
            if not cheaper:
                break
            self._found(cheaper[len(cheaper) // 2])
        return self._thinned(self._best())

    def _best(self) -> Found:
        """The cheapest judged set that is enough; everything if none is."""
        enough = [found for found in self.judged.values() if found.reaches(self.wanted_db)]
        return min(enough, key=lambda found: found.price) if enough else self._found(self.candidates)

    def _thinned(self, found: Found) -> Found:
        """A set without the ops that it can do without, those first that are predicted to take least noise.

        What an op takes depends on what else is wide, which predictions leave out.
        """
        if count_ops(found.wide) > MOST_THINNED or not found.reaches(self.wanted_db):
            return found
        worth = {op: sum(float(each.noise.sum()) for each in own) for op, own in by_op(found.wide).items()}
        for number, op in enumerate(sorted(worth, key=lambda op: worth[op])):
            tell("leaving out ops", number, len(worth))
            fewer = self._found([each for each in found.wide if each.op != op])
            found = fewer if fewer.reaches(self.wanted_db) else found
        return found

    def _key(self, wide: Sequence[Candidate]) -> tuple[int, ...]:
        return tuple(sorted(map(self.candidates.index, wide)))

    def _sets(self) -> list[list[Candidate]]:
        """All sets that follow from what noise is allowed, from the smallest; without the empty one and everything."""
        found: list[list[Candidate]] = []
        start = predicted_db(self.candidates, ())
        for level in np.arange(start, min(start + WIDEST_DB, DEEPEST_DB), STEP_DB):
            wide = wide_set(self.candidates, 10 ** (-level / 10))
            if wide and len(wide) < len(self.candidates) and (not found or {*map(id, wide)} != {*map(id, found[-1])}):
                found.append(wide)
        return sorted(found, key=lambda wide: predicted_db(self.candidates, wide))

    def _found(self, wide: Sequence[Candidate]) -> Found:
        """A set, judged if it was not before."""
        key = self._key(wide)
        if key not in self.judged:
            self.judged[key] = Found(tuple(wide), self.judge(wide))
        return self.judged[key]


def by_op(wide: Sequence[Candidate]) -> dict[object, list[Candidate]]:
    """Candidates by the op that they belong to."""
    found: dict[object, list[Candidate]] = {}
    for each in wide:
        found.setdefault(each.op, []).append(each)
    return found


def predicted_db(choices: Sequence[Candidate], wide: Sequence[Candidate]) -> float:
    """The SQNR in dB of the worst output or slice, if noise adds up."""
    return float(-10 * np.log10(max(left(choices, wide), 10 ** (-DEEPEST_DB / 10))))
