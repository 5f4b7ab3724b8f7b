"""The cheapest set of wide tensors that reaches an SQNR: predicted noise orders the sets, quantized models are judged.

Noise adds up only approximately, so that what is allowed in prediction is moved until the judged SQNR lands at the wanted one:
by as many dB as it missed, within the bounds of what was judged before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxsparse.progress import tell
from onnxsparse.quantization.accuracy.mixed_precision import Candidate, count_ops, left, wide_set

MOST_JUDGED = 8
"""Quantized models that are judged, at most, beside the one with everything wide."""

CLOSE_DB = 1.0
"""How far above the wanted SQNR the search ends."""

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
        low, high = predicted_db(self.candidates, ()), DEEPEST_DB
        at, reached = low, self.plain_db
        for _ in range(MOST_JUDGED):
            at = self._next(at, reached, low, high)
            tell(f"probing {at:.1f} dB")
            before = len(self.judged)
            found = self._found(wide_set(self.candidates, 10 ** (-at / 10)))
            reached = found.sqnr_db
            if found.reaches(self.wanted_db):
                high = at
            else:
                low = at
            close = reached is not None and 0 <= reached - self.wanted_db <= CLOSE_DB
            if close or (len(self.judged) == before and high < DEEPEST_DB):
                break
        enough = [found for found in self.judged.values() if found.reaches(self.wanted_db)]
        return min(enough, key=lambda found: found.price) if enough else self._found(self.candidates)

    def _next(self, at: float, reached: float | None, low: float, high: float) -> float:
        """The next predicted SQNR: as far on as the wanted one was missed, or the middle if that was judged already."""
        step = at + self.wanted_db - reached + CLOSE_DB / 2 if reached is not None and np.isfinite(reached) else low
        return step if low < step < high else (low + high) / 2

    def _found(self, wide: Sequence[Candidate]) -> Found:
        """A set, judged if it was not before."""
        key = tuple(sorted(map(self.candidates.index, wide)))
        if key not in self.judged:
            self.judged[key] = Found(tuple(wide), self.judge(wide))
        return self.judged[key]


def predicted_db(choices: Sequence[Candidate], wide: Sequence[Candidate]) -> float:
    """The SQNR in dB of the worst output or slice, if noise adds up."""
    return float(-10 * np.log10(max(left(choices, wide), 10 ** (-DEEPEST_DB / 10))))
