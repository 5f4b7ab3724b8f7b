"""Calibration: what is seen of activations against numpy over all samples at once, and ranges against a full search."""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsparse import ModelError
from onnxsparse.calibration import observe as observing
from onnxsparse.calibration.channels import Channels, channel_magnitudes, channel_means
from onnxsparse.calibration.data import CalibrationData, open_data
from onnxsparse.calibration.histogram import CHUNK, Histogram
from onnxsparse.calibration.images import ImageFormat
from onnxsparse.calibration.methods import Levels, Method, Range, choose_ranges, percentile_range
from onnxsparse.calibration.methods import entropy_range as entropy
from onnxsparse.calibration.methods import mse_range as mse
from onnxsparse.calibration.observe import Observation, observe
from onnxsparse.ir.model import Model
from onnxsparse.runtime.probe import groups_within, prefix
from onnxsparse.runtime.session import Execution, Feeds, runner
from tests.graphs import Array, model, node, weight

UNBOUNDED = 1 << 40


def branching(batch: str = "1") -> Model:
    """x → conv → a → relu → r; both into Add → y. `unused` leads nowhere."""
    nodes = [node("Conv", "x w b", "a"), node("Relu", "a", "r"), node("Exp", "r", "unused"), node("Add", "a r", "y")]
    return model(nodes, {"x": f"{batch}x3x6x6"}, ["y"], {"w": "4x3x3x3", "b": "4"})


def feeds_of(*arrays: object) -> list[Feeds]:
    return [{"x": np.asarray(array, np.float32)} for array in arrays]


def samples(count: int, batch: int = 1) -> list[Feeds]:
    return feeds_of(*(weight(f"{batch}x3x6x6", 50 + seed) * (seed + 1) for seed in range(count)))


def data(given: Sequence[Feeds] | Iterator[Feeds], built: Model) -> CalibrationData:
    return open_data(given, built, ImageFormat())


def values(built: Model, feeds: Sequence[Feeds], name: str) -> list[Array]:
    """An activation of every sample, as onnxruntime makes it without changing the model."""
    running = runner(built, also=[name], execution=Execution.NODE_BY_NODE)
    return [feed[name] if name in feed else running.run(feed)[name] for feed in feeds]


def seen(built: Model, feeds: Sequence[Feeds], names: Sequence[str], bins: int = 64, budget: int = UNBOUNDED) -> Observation:
    return observe(built, names, data(feeds, built), bins=bins, budget_bytes=budget)


class TestObservation:
    @pytest.mark.parametrize(("batch", "size"), [("1", 1), ("N", 1), ("N", 5)])
    def test_ranges_and_histograms_are_those_of_all_samples_at_once(self, batch: str, size: int) -> None:
        built, feeds = branching(batch), samples(3, size)
        found = seen(built, feeds, ["x", "a", "r", "y"])
        assert found.samples == 3
        for name, observed in found.ranges.items():
            each = values(built, feeds, name)
            whole = np.concatenate([v.ravel() for v in each])
            assert (observed.low, observed.high) == pytest.approx((whole.min(), whole.max()), rel=1e-6), name
            assert observed.mean_low == pytest.approx(np.mean([v.min() for v in each]), rel=1e-5), name
            assert observed.mean_high == pytest.approx(np.mean([v.max() for v in each]), rel=1e-5), name
            counts = found.histograms[name].counts
            assert counts.sum() == whole.size
            expected = np.histogram(whole, 64, (observed.low, observed.high))[0]
            # onnxruntime sums in another order where it fuses, which moves an element on a border
            assert np.abs(counts - expected).sum() <= 2, name

    def test_other_sizes_from_sample_to_sample(self) -> None:
        built = model([node("Relu", "x", "y")], {"x": "NxL"})
        feeds = feeds_of(np.full((1, 7), 5), np.full((1, 3), 2))
        found = observe(built, ["y"], CalibrationData(feeds, "lists"), bins=8, budget_bytes=0)
        assert (found.ranges["y"].low, found.ranges["y"].high, found.ranges["y"].elements) == (2, 5, 7)
        assert found.histograms["y"].counts.tolist() == [3, 0, 0, 0, 0, 0, 0, 7]

    @pytest.mark.parametrize("budget", [0, 600, 4 * 4 * 16 * 2, 2000])
    def test_any_budget_gives_the_same_histograms(self, budget: int) -> None:
        built, feeds, names = branching(), samples(2), ["a", "r", "y"]
        whole, parts = seen(built, feeds, names), seen(built, feeds, names, budget=budget)
        for name in names:
            assert np.array_equal(whole.histograms[name].counts, parts.histograms[name].counts), name

    def test_groups_hold_what_the_budget_lets_them(self) -> None:
        sizes = {"a": 4, "b": 4, "c": 9, "d": 1, "e": 2, "f": 8}
        assert list(groups_within(sizes, 8)) == [["a", "b"], ["c"], ["d", "e"], ["f"]]
        assert list(groups_within(sizes, 0)) == [[name] for name in sizes]

    def test_a_group_runs_what_leads_to_it_and_no_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        built = branching()
        assert [n.name for n in prefix(built, ["r"]).proto.graph.node] == ["a", "r"]
        assert [n.name for n in built.proto.graph.node] == ["a", "r", "unused", "y"]
        ran: list[list[str]] = []

        def watched(part: Model) -> object:
            ran.append([o.name for o in part.proto.graph.output])
            return runner(part)

        monkeypatch.setattr(observing, "runner", watched)
        seen(built, samples(1), ["a", "r", "y"], budget=2 * 4 * 64)  # two activations of 64 floats
        assert ran[1:] == [["a", "r"], ["y"]]

    def test_a_generator_is_gone_through_once_and_seen_twice(self) -> None:
        built, feeds = branching(), samples(3)
        drawn: list[Feeds] = []

        def once() -> Iterator[Feeds]:
            for feed in feeds:
                drawn.append(feed)
                yield feed

        calibration = data(once(), built)
        found = observe(built, ["y"], calibration, bins=64, budget_bytes=UNBOUNDED)
        assert np.array_equal(found.histograms["y"].counts, seen(built, feeds, ["y"]).histograms["y"].counts)
        assert len(drawn) == 3
        first, second = iter(calibration), iter(calibration)  # side by side, each has all
        assert [next(first)["x"][0, 0, 0, 0] for _ in feeds] == [next(second)["x"][0, 0, 0, 0] for _ in feeds]

    def test_constant_and_zero_activations_have_ranges_and_no_histogram(self) -> None:
        nodes = [node("Mul", "x zero", "none"), node("Add", "none three", "three_times")]
        built = model(nodes, {"x": "1x4"}, ["three_times"], {"zero": np.float32(0), "three": np.float32(3)})
        found = seen(built, feeds_of(weight("1x4")), ["none", "three_times"])
        assert not found.histograms
        assert choose_ranges(found, "mse", Levels()) == {"none": Range(0, 0), "three_times": Range(3, 3)}

    @pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e30])
    def test_ranges_at_the_ends_of_float32(self, scale: float) -> None:
        built = model([node("Mul", "x c", "y")], {"x": "1x64"}, ["y"], {"c": np.float32(scale)})
        feeds = feeds_of([np.linspace(-1, 1, 64)])
        for method in ("mse", "percentile", "entropy"):
            found = choose_ranges(seen(built, feeds, ["y"], bins=2048), method, Levels())["y"]
            assert -1.001 * scale <= found.low < found.high <= 1.001 * scale, method

    def test_infinite_activations_have_no_range(self) -> None:
        nodes = [node("Exp", "x", "e"), node("Neg", "e", "n"), node("Add", "e n", "y"), node("Tanh", "e", "t")]
        built = model(nodes, {"x": "1x2"}, ["y", "t"])
        found = seen(built, feeds_of([[1, 200]]), ["e", "n", "t"])
        assert choose_ranges(found, "minmax", Levels()).keys() == {"t"}
        assert found.histograms.keys() == {"t"}

    @pytest.mark.parametrize("given", [[1, -1], [-1, -2]])
    def test_nan_is_one_clear_line(self, given: list[float]) -> None:
        built = model([node("Log", "x", "l"), node("Relu", "l", "y")], {"x": "1x2"})
        feeds = feeds_of([[1, 1]], [given])
        with pytest.raises(ModelError, match="the given samples: sample 2 makes activation 'l' of the model NaN"):
            seen(built, feeds, ["l"])

    def test_no_samples_is_one_clear_line(self) -> None:
        nothing: list[Feeds] = []
        for source in (nothing, iter(nothing)):
            with pytest.raises(ModelError, match="the given samples: there are no samples"):
                observe(branching(), ["y"], data(source, branching()), budget_bytes=UNBOUNDED)

    @pytest.mark.parametrize("opset", [13, 17, 21])
    def test_channels(self, opset: int) -> None:
        built = model([node("Conv", "x w", "y")], {"x": "2x3x4x4"}, ["y"], {"w": "5x3x3x3"}, opset=opset)
        feeds = feeds_of(*(weight("2x3x4x4", seed) for seed in range(3)))
        whole = np.concatenate(values(built, feeds, "y"))
        for reduce, expected in ((channel_means, whole.mean((0, 2, 3))), (channel_magnitudes, np.abs(whole).max((0, 2, 3)))):
            found = reduce(built.copy(), [Channels("y", 4)], CalibrationData(feeds, "lists"))
            assert found["y"] == pytest.approx(expected, rel=1e-5), reduce


class TestHistogram:
    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50), min_size=1, max_size=4),
        st.sampled_from([8, 100]),
    )
    def test_it_counts_as_numpy_does(self, parts: list[list[float]], bins: int) -> None:
        whole = np.concatenate([np.array(part, np.float32) for part in parts])
        low, high = float(whole.min()), float(whole.max())
        if high - low < 1e-3 * max(abs(low), abs(high), 1e-30):
            return  # float32 does not tell such bins apart
        histogram = Histogram(low, high, bins)
        for part in parts:
            histogram.add(np.array(part, np.float32))
        assert histogram.counts.sum() == whole.size
        # borders fall on one side or the other: counted up to each border, give or take what lies on it
        edges = np.linspace(low, high, bins + 1)
        slack = 1e-5 * (high - low) + 1e-6 * max(abs(low), abs(high))
        for at, reached in enumerate(np.cumsum(histogram.counts)[:-1], start=1):
            assert (whole < edges[at] - slack).sum() <= reached <= (whole < edges[at] + slack).sum()

    def test_more_than_a_chunk(self) -> None:
        histogram = Histogram(0, 4, 4)
        histogram.add(np.resize(np.array([0.5, 1.5, 1.5, 3.5], np.float32), (3, CHUNK + 4)))
        assert (histogram.counts * 4 / (3 * (CHUNK + 4))).tolist() == [1, 2, 0, 1]
        assert histogram.centres.tolist() == [0.5, 1.5, 2.5, 3.5]


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


def square_error(given: Array, found: Range, levels: Levels) -> float:
    return float(((given - rounded(given, found, levels)) ** 2).mean())


SHAPES = {
    "normal": normal(),
    "an outlier": normal(outlier=30),
    "behind a ReLU": np.maximum(normal(seed=1), 0),
    "behind a SiLU": normal(seed=2) / (1 + np.exp(-3 * normal(seed=2))),
    "two-sided": np.concatenate([normal(9000, seed=3) - 4, normal(9000, seed=4) * 0.1 + 2]),
    "below zero": -np.abs(normal(seed=5)) - 1,
    "far from zero": normal(seed=6) * 0.1 + 20,
}
METHODS: dict[str, Callable[[Histogram, Levels], Range]] = {
    "mse": mse,
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

    @pytest.mark.parametrize("levels", [Levels(256, True), Levels(256, False), Levels(64, True), Levels(64, False)], ids=str)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_mse_is_as_good_as_a_full_search(self, shape: str, levels: Levels) -> None:
        """Every pair of ends on a grid of 40 × 40, measured on the elements themselves."""
        given = SHAPES[shape]
        found = mse(histogram_of(given), levels)
        shares = np.linspace(0.1, 1, 40)
        lows, highs = (given.min() * shares, given.max() * shares)
        if levels.symmetric:
            pairs = list(zip(lows, highs, strict=True))
        else:
            pairs = [(low, high) for low in lows[::3] for high in highs[::3]]
        best = min(square_error(given, Range(low, high), levels) for low, high in pairs)
        assert square_error(given, found, levels) <= 1.2 * best, (shape, found)

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

    def test_entropy_is_not_moved_by_the_zeros_behind_a_relu(self) -> None:
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
