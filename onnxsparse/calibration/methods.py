"""Range selection: from the statistics of an activation to the range that its integers cover.

All methods but minmax and moving-average work on a histogram:

percentile: the range that holds the given share of the elements.
mse, cube: the range with the least mean square, or cube, of the error of rounding and clipping together. Both ends are tried at
the same share of the extremes first, then each end on its own. The cube clips less, and so less of what unseen samples activate.
entropy: the symmetric range whose quantized distribution is closest to the original by Kullback-Leibler divergence, as in
TensorRT (8-bit Inference with TensorRT, GTC 2017).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from onnxsparse.calibration.histogram import BINS, Histogram
from onnxsparse.calibration.observe import Observation, Observed

Floats = NDArray[np.float64]

DEFAULT_PERCENTILE = 99.99
"""Share of the elements in per cent that the percentile method keeps."""

SHARES = np.concatenate([np.geomspace(1 / 16, 0.25, 12, endpoint=False), np.linspace(0.25, 1.0, 64)])
"""Shares of the extremes that the mse and cube methods try.

Shares below a quarter matter for activations with single elements far out. At a sixteenth, a level is as narrow as a bin.
"""

ENTROPY_CANDIDATES = 120
"""Number of ranges that the entropy method tries."""

SMALLEST_PROBABILITY = 1e-12
"""Stands for a probability of 0 in the quantized distribution, for which the divergence would be infinite."""

DIGITS = 9
"""Significant digits of a range, in memory as in files, so that a range read from a file gives the same scale.

Nine digits identify a float32.
"""


@dataclass(frozen=True)
class Range:
    """The real values, from `low` to `high`, that the integers of an activation cover."""

    low: float
    high: float

    def times(self, factor: float) -> "Range":
        """The range of the values times a positive number."""
        return self if factor == 1 else Range(self.low * factor, self.high * factor).rounded()

    def rounded(self) -> "Range":
        """The range with both ends rounded to DIGITS significant digits."""
        return Range(*(float(f"{end:.{DIGITS}g}") for end in (self.low, self.high)))


@dataclass(frozen=True)
class Levels:
    """The integer grid that a range is chosen for.

    `count`: number of levels. `symmetric`: whether zero is in the middle. `power_of_two`: whether scales are powers of two.
    """

    count: int = 256
    symmetric: bool = True
    power_of_two: bool = False


@dataclass(frozen=True)
class Seen:
    """What a method chooses a range from.

    `histogram`: None for a constant activation, or a method that needs none. `percentile`: share of the elements, in per cent,
    that the range has to hold.
    """

    observed: Observed
    histogram: Histogram | None
    levels: Levels
    percentile: float = DEFAULT_PERCENTILE


@dataclass(frozen=True)
class RangeMethod:
    """`choose`: returns the range of one activation. `bins`: histogram bins that it needs; 0: it needs the extremes alone."""

    choose: Callable[[Seen], Range]
    bins: int = BINS


def choose_ranges(
    seen: Observation, method: str | RangeMethod, levels: Levels, percentile: float = DEFAULT_PERCENTILE
) -> dict[str, Range]:
    """Activation → range, for every activation with finite extremes. `method`: a method, or the name of one.

    `percentile`: in per cent.
    """
    chosen = range_method(method) if isinstance(method, str) else method
    return {
        name: chosen.choose(Seen(observed, seen.histograms.get(name), levels, percentile)).rounded()
        for name, observed in seen.ranges.items()
        if observed.is_finite
    }


def extremes(seen: Seen) -> Range:
    """From the lowest to the highest value over all samples."""
    return Range(seen.observed.low, seen.observed.high)


def mean_extremes(seen: Seen) -> Range:
    """From the mean of the samples' lowest values to the mean of their highest values."""
    return Range(seen.observed.mean_low, seen.observed.mean_high)


def by_histogram(choose: Callable[[Histogram, Seen], Range]) -> Callable[[Seen], Range]:
    """A method that works on a histogram, and takes the extremes if there is none."""
    return lambda seen: extremes(seen) if seen.histogram is None else choose(seen.histogram, seen)


def percentile_range(histogram: Histogram, percentile: float, *, symmetric: bool) -> Range:
    """The range that holds `percentile` per cent of the elements.

    `symmetric`: by magnitude, so that the range is symmetric around zero as far as the extremes allow. Otherwise the same share
    is cut off at each end.
    """
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


def error_range(histogram: Histogram, levels: Levels, power: float) -> Range:
    """The range with the least mean of a `power` of the error of rounding and clipping.

    1. For each share of the extremes, scale both ends by it, and compute the error of the quantized bin centres. Rounding within
       a step, or within a bin if that is narrower, adds (width / 2)^power / (power + 1), as evenly spread errors do.
    2. Take the best share. For a symmetric grid, this is the result.
    3. Otherwise vary the upper end with the lower end fixed, then the lower end with the new upper end fixed.
    """
    centres, counts = histogram.centres, histogram.counts

    def error(lows: Floats, highs: Floats) -> Floats:
        """Sum of the powers of the errors for each range, with the elements of a bin spread evenly over it."""
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
        # the error within a bin is limited by the bin or by the step, whichever is narrower
        rounding = (np.minimum(step, histogram.width) / 2) ** power / (power + 1)
        found: Floats = (np.abs(centres - integers * step) ** power + rounding) @ counts
        return found

    lows, highs = histogram.low * SHARES, histogram.high * SHARES
    best = int(np.argmin(error(lows, highs)))
    found = Range(float(lows[best]), float(highs[best]))
    if levels.symmetric:
        return found
    upper = float(highs[int(np.argmin(error(np.full_like(highs, found.low), highs)))])
    return Range(float(lows[int(np.argmin(error(lows, np.full_like(lows, upper))))]), upper)


def least_error(power: float) -> RangeMethod:
    """The method whose range has the least mean of that power of the error."""
    return RangeMethod(by_histogram(lambda histogram, seen: error_range(histogram, seen.levels, power)))


def entropy_range(histogram: Histogram, levels: Levels) -> Range:
    """The range with the least Kullback-Leibler divergence of the quantized distribution. It is symmetric, within the extremes.

    1. Limit the count of zero's bin to the mean of its neighbours: zero is exact on every grid, so the many zeros after a ReLU
       say nothing about a range.
    2. Try ENTROPY_CANDIDATES ranges, from one bin for each level up to the extremes (`divergence_at`).
    3. Take the one with the least divergence; the extremes if none is finite.
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
    """The counts of a histogram, with that of the bin of zero limited to the mean of its neighbours."""
    counts = histogram.counts.astype(np.float64)
    place = int(-histogram.low // histogram.width)
    if 0 <= place < histogram.bins:
        around = [counts[i] for i in (place - 1, place + 1) if 0 <= i < histogram.bins]
        counts[place] = min(counts[place], sum(around) / len(around))
    return counts


def divergence_at(histogram: Histogram, counts: Floats, reach: float, levels: Levels) -> float:
    """KL(original ‖ quantized) for the range ±`reach`; infinite if a level would be narrower than a bin.

    1. The original distribution is the bins within the range. Clipped elements are added to its outermost bins.
    2. For the quantized one, the bins are divided evenly among the levels, without the clipped elements.
    3. Each level's count is spread evenly over those of its bins that are not empty in the original.
    """
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
    "mse": least_error(2),
    "cube": least_error(3),
}

RULES = {"mse": METHODS["mse"], "cube": METHODS["cube"], "fourth power": least_error(4), "minmax": METHODS["minmax"]}
"""Rules, from much clipping to none, of which the outputs choose one for all activations."""

if TYPE_CHECKING:
    Method = str
    RangeRule = str
else:
    Method = Literal[tuple({**METHODS, **RULES})]
    """A key of METHODS or RULES."""
    RangeRule = Literal[(*METHODS, "output")]
    """A key of METHODS, or `output`: of several ranges, the one that the outputs feel least."""


def range_method(name: Method) -> RangeMethod:
    """The method of that name."""
    return METHODS[name] if name in METHODS else RULES[name]
