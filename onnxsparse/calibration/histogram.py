"""A histogram of an activation that grows sample by sample."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ir.weights import Array

CHUNK = 1 << 16
"""Elements at a time: their bin numbers stay in the cache."""

BINS = 2048


@dataclass
class Histogram:
    """Counts in `bins` equal bins from `low` to `high`, which are the extremes of what is added."""

    low: float
    high: float
    bins: int = BINS
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.bins, np.int64)

    def add(self, values: Array) -> None:
        flat = values.reshape(-1)
        scale = np.float32(self.bins / (self.high - self.low))
        offset = np.float32(-self.low) * scale
        places = np.empty(CHUNK, np.float32)
        numbers = np.empty(CHUNK, np.intp)
        for start in range(0, flat.size, CHUNK):
            part = flat[start : start + CHUNK]
            place, number = places[: part.size], numbers[: part.size]
            np.multiply(part, scale, out=place, casting="unsafe")
            place += offset
            # the extremes themselves, and what another order of summing moved beyond them
            np.clip(place, 0, self.bins - 1, out=place)
            np.copyto(number, place, casting="unsafe")
            self.counts += np.bincount(number, minlength=self.bins)

    @property
    def width(self) -> float:
        return (self.high - self.low) / self.bins

    @property
    def centres(self) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.low + (np.arange(self.bins, dtype=np.float64) + 0.5) * self.width
        return found
