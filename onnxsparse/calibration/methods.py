"""From what an activation did to the range that its integers are to cover."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from onnxsparse.calibration.histogram import BINS, Histogram
from onnxsparse.calibration.observe import Observation, Observed

Floats = NDArray[np.float64]

DEFAULT_PERCENTILE = 99.99

MSE_SHARES = np.concatenate([np.geomspace(1 / 16, 0.25, 12, endpoint=False), np.linspace(0.25, 1.0, 64)])
"""Ranges tried, of the extremes. Below a fourth is where single elements lie far out; at a sixteenth, a level is a bin."""

ENTROPY_CANDIDATES = 120
"""Ranges tried, of a whole number of bins each, as in TensorRT's calibration (8-bit Inference with TensorRT, GTC 2017)."""

SMALLEST_PROBABILITY = 1e-12

DIGITS = 9
"""Of a range, in memory as in files, so that one that is read again gives the same scale; enough for a float32."""


@dataclass(frozen=True)
class Range:
    """Of the real values that an activation's integers cover."""

    low: float
    high: float

    def rounded(self) -> "Range":
        return Range(*(float(f"{end:.{DIGITS}g}") for end in (self.low, self.high)))


@dataclass(frozen=True)
class Levels:
    """The integers of the grid that a range is chosen for: how many, and whether their zero is in the middle."""

    count: int = 256
    symmetric: bool = True
    power_of_two: bool = False


@dataclass(frozen=True)
class Seen:
    """What a method chooses a range from.

    `histogram` None: of an activation that is constant, or for a method that needs none. `percentile`: share of the elements, in
    per cent, that the range is to hold.
    """

    observed: Observed
    histogram: Histogram | None
    levels: Levels
    percentile: float = DEFAULT_PERCENTILE


@dataclass(frozen=True)
class RangeMethod:
    """`choose`: the range of one activation. `bins`: how many bins of a histogram it needs; 0 for extremes alone."""

    choose: Callable[[Seen], Range]
    bins: int = BINS


def choose_ranges(seen: Observation, method: str, levels: Levels, percentile: float = DEFAULT_PERCENTILE) -> dict[str, Range]:
    """The range of every activation that has finite extremes; `method` is a key of METHODS."""
    choose = METHODS[method].choose
    return {
        name: choose(Seen(observed, seen.histograms.get(name), levels, percentile)).rounded()
        for name, observed in seen.ranges.items()
        if observed.is_finite
    }


def extremes(seen: Seen) -> Range:
    return Range(seen.observed.low, seen.observed.high)


def mean_extremes(seen: Seen) -> Range:
    return Range(seen.observed.mean_low, seen.observed.mean_high)


def by_histogram(choose: Callable[[Histogram, Seen], Range]) -> Callable[[Seen], Range]:
    """A method that looks at a histogram, and takes the extremes where there is none."""
    return lambda seen: extremes(seen) if seen.histogram is None else choose(seen.histogram, seen)


def percentile_range(histogram: Histogram, percentile: float, *, symmetric: bool) -> Range:
    """What holds this per cent of the elements: of magnitudes, or cut equally at both ends."""
    outside = 1 - percentile / 100
    if symmetric:
        order = np.argsort(np.abs(histogram.centres))
        held = np.cumsum(histogram.counts[order]) / histogram.counts.sum()
        last = min(int(np.searchsorted(held, 1 - outside)), histogram.bins - 1)
        reach = abs(histogram.centres[order[last]]) + histogram.width / 2
        return Range(max(histogram.low, -reach), min(histogram.high, reach))
    held = np.cumsum(histogram.counts) / histogram.counts.sum()
    first = int(np.searchsorted(held, outside / 2, side="right"))
    last = min(int(np.searchsorted(held, 1 - outside / 2)), histogram.bins - 1)
    return Range(histogram.low + first * histogram.width, histogram.low + (last + 1) * histogram.width)


def mse_range(histogram: Histogram, levels: Levels) -> Range:
    """Where rounding and clipping together cost least: both ends drawn in alike, then each on its own."""
    centres, counts, within = histogram.centres, histogram.counts, histogram.width**2 / 12

    def error(lows: Floats, highs: Floats) -> Floats:
        """Mean square error of each range, elements spread evenly over a bin."""
        low: Floats = np.minimum(lows, 0.0)[:, None]
        high: Floats = np.maximum(highs, 0.0)[:, None]
        if levels.symmetric:
            reach = np.maximum(-low, high)
            step: Floats = reach / (levels.count / 2 - 1)
            step = np.exp2(np.ceil(np.log2(step))) if levels.power_of_two else step
            lowest: Floats = np.full_like(step, -(levels.count / 2))
        else:
            step = (high - low) / (levels.count - 1)
            lowest = np.rint(low / step)
        integers: Floats = np.clip(np.rint(centres / step), lowest, lowest + levels.count - 1)
        # a bin wider than a step has elements on several of its steps
        rounding = np.minimum(step**2 / 12, within)
        found: Floats = ((centres - integers * step) ** 2 + rounding) @ counts
        return found

    lows, highs = histogram.low * MSE_SHARES, histogram.high * MSE_SHARES
    best = int(np.argmin(error(lows, highs)))
    found = Range(float(lows[best]), float(highs[best]))
    if levels.symmetric:
        return found
    upper = float(highs[int(np.argmin(error(np.full_like(highs, found.low), highs)))])
    return Range(float(lows[int(np.argmin(error(lows, np.full_like(lows, upper))))]), upper)


def entropy_range(histogram: Histogram, levels: Levels) -> Range:
    """Where the distribution on the integers is nearest to the original's, by Kullback-Leibler divergence.

    What is clipped counts for the outermost bins of the original, not of the quantized one. Zero is exact on every grid, so that
    the many zeros behind a ReLU say nothing: their bin is made like its neighbours.
    """
    counts = without_zeros(histogram)
    reach = max(-histogram.low, histogram.high)
    best, best_divergence = reach, np.inf
    for share in np.linspace(levels.count / 2 / histogram.bins, 1.0, ENTROPY_CANDIDATES):
        divergence = divergence_at(histogram, counts, share * reach, levels)
        if divergence < best_divergence:
            best, best_divergence = share * reach, divergence
    return Range(max(histogram.low, -best), min(histogram.high, best))


def without_zeros(histogram: Histogram) -> Floats:
    """The counts, that of zero's bin like its neighbours'."""
    counts = histogram.counts.astype(np.float64)
    place = int(-histogram.low // histogram.width)
    if 0 <= place < histogram.bins:
        around = [counts[i] for i in (place - 1, place + 1) if 0 <= i < histogram.bins]
        counts[place] = min(counts[place], sum(around) / len(around))
    return counts


def divergence_at(histogram: Histogram, counts: Floats, reach: float, levels: Levels) -> float:
    """KL(original ‖ quantized) with everything beyond ±`reach` clipped; infinite where a level is finer than a bin."""
    first = max(0, round((-reach - histogram.low) / histogram.width))
    last = min(histogram.bins, max(0, round((reach - histogram.low) / histogram.width)))
    inner = counts[first:last]
    covered = inner.size * histogram.width / (2 * reach) if levels.symmetric else 1.0
    count = max(2, round(levels.count * covered))
    if inner.size < count or not inner.sum():
        return np.inf
    original = inner.copy()
    original[0] += counts[:first].sum()
    original[-1] += counts[last:].sum()
    starts = np.linspace(0, inner.size, count, endpoint=False).astype(np.intp)
    filled = (original > 0).astype(np.float64)
    sums, there = np.add.reduceat(inner, starts), np.add.reduceat(filled, starts)
    means = np.divide(sums, there, out=np.zeros_like(sums), where=there > 0)
    quantized = np.repeat(means, np.diff([*starts, inner.size])) * filled
    p, q = original / original.sum(), quantized / quantized.sum()
    kept = p > 0
    return float(np.sum(p[kept] * np.log(p[kept] / np.maximum(q[kept], SMALLEST_PROBABILITY))))


METHODS = {
    "minmax": RangeMethod(extremes, bins=0),
    "moving-average": RangeMethod(mean_extremes, bins=0),
    "percentile": RangeMethod(
        by_histogram(lambda histogram, seen: percentile_range(histogram, seen.percentile, symmetric=seen.levels.symmetric))
    ),
    "entropy": RangeMethod(by_histogram(lambda histogram, seen: entropy_range(histogram, seen.levels))),
    "mse": RangeMethod(by_histogram(lambda histogram, seen: mse_range(histogram, seen.levels))),
}

if TYPE_CHECKING:
    Method = str
else:
    Method = Literal[tuple(METHODS)]
    """A key of METHODS, so that a new method is one function and one row."""
