"""Observing activations: ranges, histograms, memory, and bad values."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsparse import ModelError
from onnxsparse.calibration import observe as observing
from onnxsparse.calibration.channels import Channels, channel_magnitudes, channel_means
from onnxsparse.calibration.histogram import CHUNK, Histogram
from onnxsparse.calibration.methods import Levels, Range, choose_ranges
from onnxsparse.calibration.observe import observe
from onnxsparse.ir.model import Model
from onnxsparse.runtime.probe import groups_within, prefix
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import Execution, Feeds, runner
from tests.calibration.observed import UNBOUNDED, branching, data, feeds_of, samples, seen
from tests.graphs import Array, model, node, weight


def values(built: Model, feeds: Sequence[Feeds], name: str) -> list[Array]:
    """An activation of every sample, as onnxruntime makes it without changing the model."""
    running = runner(built, also=[name], execution=Execution.NODE_BY_NODE)
    return [feed[name] if name in feed else running.run(feed)[name] for feed in feeds]


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
        found = observe(built, ["y"], Samples(feeds, source="lists"), bins=8, budget_bytes=0)
        assert (found.ranges["y"].low, found.ranges["y"].high, found.ranges["y"].elements) == (2, 5, 7)
        assert found.histograms["y"].counts.tolist() == [3, 0, 0, 0, 0, 0, 0, 7]

    @pytest.mark.parametrize("budget", [0, 600, 4 * 4 * 16 * 2, 2000])
    def test_any_budget_gives_the_same_histograms(self, budget: int) -> None:
        built, feeds, names = branching(), feeds_of(*(np.rint(feed["x"]) for feed in samples(2))), ["a", "r", "y"]
        for weights in ("w", "b"):  # integers have one sum, whatever onnxruntime fuses
            built.weights[weights] = np.rint(4 * built.weights[weights])
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
        with pytest.raises(ModelError, match="the given samples: sample 2 turns activation 'l' of the model into NaN"):
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
            found = reduce(built.copy(), [Channels("y", 4)], Samples(feeds, source="lists"))
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
