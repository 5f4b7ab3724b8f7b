"""Methods that choose a range from a histogram."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsparse.calibration.histogram import Histogram
from onnxsparse.calibration.methods import Levels, Method, Range, choose_ranges, error_range, percentile_range
from onnxsparse.calibration.methods import entropy_range as entropy
from onnxsparse.calibration.observe import Observation, Observed
from tests.calibration.observed import branching, feeds_of, samples, seen
from tests.graphs import Array, model, node


def histogram_of(given: Array, bins: int = 2048) -> Histogram:
    histogram = Histogram(float(given.min()), float(given.max()), bins)
    histogram.add(given.astype(np.float32))
    return histogram


def normal(count: int = 20_000, outlier: float = 0.0, seed: int = 0) -> Array:
    found = np.random.default_rng(seed).standard_normal(count)
    found[0] = outlier or found[0]
    return found


def rounded(given: Array, found: Range, levels: Levels) -> Array:
    """Through integers of that range and back, zero included, as a quantizer does."""
    low, high = min(found.low, 0.0), max(found.high, 0.0)
    if levels.symmetric:
        step = max(-low, high) / (levels.count // 2 - 1)
        return np.clip(np.rint(given / step), -(levels.count // 2), levels.count // 2 - 1) * step
    step = (high - low) / (levels.count - 1)
    first = np.rint(low / step)
    return np.clip(np.rint(given / step), first, first + levels.count - 1) * step


def error_of(given: Array, found: Range, levels: Levels, power: int) -> float:
    return float((np.abs(given - rounded(given, found, levels)) ** power).mean())


SHAPES = {
    "normal": normal(),
    "an outlier": normal(outlier=30),
    "behind a ReLU": np.maximum(normal(seed=1), 0),
    "behind a SiLU": normal(seed=2) / (1 + np.exp(-3 * normal(seed=2))),
    "two-sided": np.concatenate([normal(9000, seed=3) - 4, normal(9000, seed=4) * 0.1 + 2]),
    "below zero": -np.abs(normal(seed=5)) - 1,
    "far from zero": normal(seed=6) * 0.1 + 20,
}


def mse(histogram: Histogram, levels: Levels) -> Range:
    return error_range(histogram, levels, power=2)


METHODS: dict[str, Callable[[Histogram, Levels], Range]] = {
    "mse": mse,
    "cube": lambda h, levels: error_range(h, levels, power=3),
    "entropy": entropy,
    "percentile": lambda h, levels: percentile_range(h, 99.9, symmetric=levels.symmetric),
}


class TestMethods:
    def test_minmax_and_moving_average_by_hand(self) -> None:
        built = model([node("Relu", "x", "r"), node("Neg", "r", "y")], {"x": "1x2"})
        feeds = feeds_of([[-1, 4]], [[2, 10]], [[-5, 1]])
        found = seen(built, feeds, ["x", "y"], bins=0)
        assert choose_ranges(found, "minmax", Levels()) == {"x": Range(-5, 10), "y": Range(-10, 0)}
        means = choose_ranges(found, "moving-average", Levels())
        assert (means["x"].low, means["x"].high) == pytest.approx((-4 / 3, 5))  # (−1 + 2 − 5) / 3, (4 + 10 + 1) / 3
        assert (means["y"].low, means["y"].high) == pytest.approx((-5, -2 / 3))  # −4, −10, −1 and 0, −2, 0

    def test_percentile_by_hand(self) -> None:
        """A hundred elements at −0.5, 0.5, 1.5 … in ten bins of 1 from −1 to 9."""
        histogram = Histogram(-1, 9, 10)
        histogram.counts[:] = [2, 50, 40, 3, 1, 1, 1, 1, 0, 1]
        held = functools.partial(percentile_range, histogram)
        assert held(100, symmetric=True) == held(100, symmetric=False) == Range(-1, 9)
        assert held(91.9, symmetric=True) == Range(-1, 2)  # magnitudes up to 1 hold 52, up to 2 hold 92
        assert held(92.1, symmetric=True) == Range(-1, 3)
        assert held(95.9, symmetric=False) == Range(0, 6)  # two may go at either end: all of the first bin, and those above 6
        assert held(89.9, symmetric=False) == Range(0, 3)  # five: the first bin again, and 95 are below 3

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 1000), st.floats(80, 100), st.booleans(), st.floats(-3, 3))
    def test_percentile_holds_what_it_says_and_no_bin_more(
        self, seed: int, percentile: float, symmetric: bool, at: float
    ) -> None:
        given = normal(500, seed=seed) + at
        histogram = histogram_of(given, 128)
        found = percentile_range(histogram, percentile, symmetric=symmetric)
        step = histogram.width * 1.0001
        share = percentile / 100

        def held(low: float, high: float) -> float:
            return float(((given >= low) & (given <= high)).mean())

        assert held(found.low - 1e-5, found.high + 1e-5) >= share - 1e-9
        if symmetric:
            reach = max(-found.low, found.high) - 2 * step
            assert held(-reach, reach) < share
        else:
            assert (given > found.high + 1e-5).mean() <= (1 - share) / 2 + 1e-9
            assert (given < found.low - 1e-5).mean() <= (1 - share) / 2 + 1e-9
            assert (given < found.low + step).mean() > (1 - share) / 2 - 1e-9
            assert (given > found.high - step).mean() > (1 - share) / 2 - 1e-9

    @pytest.mark.parametrize("power", [2, 3, 4])
    @pytest.mark.parametrize("levels", [Levels(256, True), Levels(256, False), Levels(64, True), Levels(64, False)], ids=str)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_an_error_is_as_small_as_in_a_full_search(self, shape: str, levels: Levels, power: int) -> None:
        """Every pair of ends on a grid of 40 × 40, measured on the elements themselves."""
        given = SHAPES[shape]
        found = error_range(histogram_of(given), levels, power)
        shares = np.linspace(0.1, 1, 40)
        lows, highs = (given.min() * shares, given.max() * shares)
        if levels.symmetric:
            pairs = list(zip(lows, highs, strict=True))
        else:
            pairs = [(low, high) for low in lows[::3] for high in highs[::3]]
        best = min(error_of(given, Range(low, high), levels, power) for low, high in pairs)
        assert error_of(given, found, levels, power) <= 1.2 ** (power / 2) * best, (shape, found)

    def test_higher_powers_clip_less(self) -> None:
        histogram = histogram_of(normal(outlier=12))
        highs = [error_range(histogram, Levels(64), power).high for power in (2, 3, 4)]
        assert highs == sorted(highs)
        assert highs[0] < highs[2]
        assert choose_ranges(Observation({"x": Observed(-5, 12)}, {"x": histogram}), "cube", Levels(64))[
            "x"
        ].high == pytest.approx(highs[1])

    def test_mse_clips_what_costs_more_than_it_is_worth(self) -> None:
        assert mse(histogram_of(normal(outlier=10)), Levels(16)).high < 5
        assert mse(histogram_of(normal(outlier=10)), Levels()).high > 8

    @pytest.mark.parametrize("levels", [Levels(), Levels(symmetric=False)], ids=str)
    def test_mse_of_many_elements_and_one_far_out(self, levels: Levels) -> None:
        """A thousand times as many as in the last test, so that one at 100 is not worth the integers of all the others."""
        histogram = histogram_of(normal(outlier=100))
        histogram.counts[:-1] *= 1000
        whole, tenth = (100.0 / 127) ** 2 / 12, (10.0 / 127) ** 2 / 12 + 90**2 / 20e6
        assert tenth < 0.03 * whole
        assert mse(histogram, levels).high < 15
        assert mse(histogram_of(normal(outlier=200)), Levels(1 << 16)).high == pytest.approx(200)

    @pytest.mark.parametrize("levels", [Levels(), Levels(symmetric=False)], ids=str)
    def test_entropy_leaves_out_an_outlier_and_keeps_the_bulk(self, levels: Levels) -> None:
        found = entropy(histogram_of(normal(outlier=30)), levels)
        assert 2.5 < found.high < 8
        assert found.low == pytest.approx(-found.high) or found.low == pytest.approx(normal(outlier=30).min(), abs=1e-4)

    @pytest.mark.parametrize("levels", [Levels(), Levels(symmetric=False)], ids=str)
    def test_entropy_of_an_even_distribution_is_all_of_it(self, levels: Levels) -> None:
        found = entropy(histogram_of(np.linspace(-3, 3, 100_000)), levels)
        assert (found.low, found.high) == pytest.approx((-3, 3), rel=0.01)

    def test_entropy_is_not_moved_by_the_zeros_after_a_relu(self) -> None:
        given = np.abs(normal())
        with_zeros = np.concatenate([given, np.zeros(10 * given.size)])
        assert entropy(histogram_of(with_zeros), Levels()).high == pytest.approx(
            entropy(histogram_of(given), Levels()).high, rel=0.05
        )

    @pytest.mark.parametrize("count", [256, 1 << 16])
    @pytest.mark.parametrize("symmetric", [True, False])
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("method", METHODS)
    def test_a_range_lies_within_the_extremes_and_holds_most(self, method: str, shape: str, symmetric: bool, count: int) -> None:
        given = SHAPES[shape]
        found = METHODS[method](histogram_of(given), Levels(count, symmetric))
        assert min(given.min(), 0) - 1e-4 <= found.low <= found.high <= max(given.max(), 0) + 1e-4
        low, high = min(found.low, 0), max(found.high, 0)
        reach = max(-low, high)
        held = (np.abs(given) <= reach) if symmetric else (given >= low - 1e-4) & (given <= high + 1e-4)
        assert held.mean() > 0.9, found

    @pytest.mark.parametrize("method", ["minmax", "moving-average", "percentile", "entropy", "mse"])
    def test_nine_digits_hold_a_range(self, method: Method) -> None:
        """What a file of ranges gives back is what was written, bit for bit."""
        found = choose_ranges(seen(branching(), samples(3), ["a", "y"], bins=2048), method, Levels())
        for name, own in found.items():
            assert Range(float(f"{own.low:.9g}"), float(f"{own.high:.9g}")) == own, name
