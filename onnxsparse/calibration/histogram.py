"""Histograms of activations, filled sample by sample."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ir.weights import Array

CHUNK = 1 << 16
"""Elements that are put into bins at a time. Their bin numbers, half a megabyte, stay in the processor's cache."""

BINS = 2048
"""Default number of bins: eight for each level of an 8-bit grid."""


@dataclass
class Histogram:
    """Counts in `bins` equal bins from `low` to `high`, the extremes of the values that are added. `low` is below `high`."""

    low: float
    high: float
    bins: int = BINS
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.bins, np.int64)

    def add(self, values: Array) -> None:
        """Count all elements of an array of floats."""
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
            # `high` belongs to the last bin; another run may exceed the extremes by a rounding error
            np.clip(place, 0, self.bins - 1, out=place)
            np.copyto(number, place, casting="unsafe")
            self.counts += np.bincount(number, minlength=self.bins)

    @property
    def width(self) -> float:
        """The width of a bin, in units of the activation."""
        return (self.high - self.low) / self.bins

    @property
    def centres(self) -> NDArray[np.float64]:
        """The centres of the bins, shape [bins]."""
        found: NDArray[np.float64] = self.low + (np.arange(self.bins, dtype=np.float64) + 0.5) * self.width
        return found
