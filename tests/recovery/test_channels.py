"""`prune-channels --data`: channels that others replace go first, the outputs come back, and the cut stays as proven."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxsparse import Model, ParamError, PassError, PruneChannels, layers
from onnxsparse.channels.groups import Solution, solve
from onnxsparse.recovery.channel_curves import Curves, Measuring
from onnxsparse.recovery.channels import Refit
from onnxsparse.runtime.samples import Samples
from tests.commands import Run
from tests.graphs import Values, model, node, weight
from tests.recovery.samples import level

Floats = NDArray[np.float32]


def noise(count: int, shape: str, seed: int = 0) -> Floats:
    size = tuple(map(int, shape.split("x")))
    return np.random.default_rng(seed).standard_normal((count, *size[1:])).astype(np.float32)


def measured(built: Model, shape: str) -> tuple[Solution, Curves]:
    (name,) = (value.name for value in built.proto.graph.input)
    solution = solve(built)
    samples = Samples([{name: x[None]} for x in noise(30, shape)])
    return solution, Measuring(built, solution, solution.groups, samples, 10**9).run()


def first_removed(built: Model, shape: str) -> int:
    """The channel of the first group that goes first."""
    _, found = measured(built, shape)
    curve = found.curves[0]
    return int(np.flatnonzero(curve.group.classes == curve.order[0])[0])


def redundant(*more: onnx.NodeProto, weights: Values | None = None) -> Model:
    """Channel 2 of a, the largest of its six, is the sum of channels 0 and 1; `more` makes r of a's outputs h, for b to read."""
    first = weight("6x8x1x1")
    first[2] = first[0] + first[1]
    nodes = [node("Conv", "x a", "h"), *(more or [node("Identity", "h", "r")]), node("Conv", "r b", "y")]
    return model(nodes, {"x": "1x8x5x5"}, ["y"], {"a": first, "b": "4x6x3x3", **(weights or {})})


class TestChoice:
    def test_a_channel_that_others_replace_goes_first_and_nothing_is_lost(self, data: Callable[[str], Path]) -> None:
        built, original = redundant(), redundant()
        assert first_removed(built, "1x8x5x5") in (0, 1, 2)
        PruneChannels(ratio=0.17, round_to=1, data=data("1x8x5x5")).run(built)
        assert built.weights.shape("a") == (5, 8, 1, 1)
        assert level(original, built, noise(8, "1x8x5x5", 9)) > 50

    def test_channels_are_seen_behind_a_depthwise_layer(self, data: Callable[[str], Path]) -> None:
        depthwise = node("Conv", "h d", "r", group=6)
        filters = {"d": np.ones((6, 1, 1, 1), np.float32)}
        built, original = redundant(depthwise, weights=filters), redundant(depthwise, weights=filters)
        PruneChannels(ratio=0.17, round_to=1, data=data("1x8x5x5")).run(built)
        assert built.weights.shape("d") == (5, 1, 1, 1)
        assert level(original, built, noise(8, "1x8x5x5", 9)) > 50

    @pytest.mark.parametrize("small", ["b", "c"])
    def test_all_layers_that_read_a_channel_count(self, small: str) -> None:
        """Channel 0 hardly matters to one of two layers; channel 1 hardly matters to both."""
        weights = {"a": weight("4x4x1x1", 1), "b": weight("3x4x1x1", 2), "c": weight("3x4x1x1", 3)}
        weights[small][:, 0] *= 1e-3
        for name in "bc":
            weights[name][:, 1] *= 1e-2
        nodes = [node("Conv", "x a", "h"), node("Conv", "h b", "y"), node("Conv", "h c", "z")]
        built = model(nodes, {"x": "1x4x5x5"}, ["y", "z"], weights)
        assert first_removed(built, "1x4x5x5") == 1

    def test_a_residual_stream_loses_a_channel_that_no_layer_reads(self) -> None:
        weights = {name: weight("6x6x1x1", seed) for seed, name in enumerate("abc")}
        weights["b"][:, 3] = weights["c"][:, 3] = 0
        nodes = [
            node("Conv", "x a", "s"),
            node("Conv", "s b", "i"),
            node("Relu", "i", "r"),
            node("Conv", "r d", "o"),
            node("Add", "s o", "t"),
            node("Conv", "t c", "y"),
        ]
        built = model(nodes, {"x": "1x6x5x5"}, ["y"], weights | {"d": weight("6x6x1x1", 5)})
        assert first_removed(built, "1x6x5x5") == 3

    def test_what_no_layer_reads_is_chosen_by_weights_and_named(self, data: Callable[[str], Path]) -> None:
        built = attention()
        solution, found = measured(built, "1x5x8")
        heads = [group for group in solution.groups if {m.tensor for m in group.members} == {"q", "k"}]
        assert list(found.unmeasured) == heads
        curve = next(curve for curve in found.curves if curve.group is heads[0])
        assert (np.diff(curve.loss) >= 0).all()
        assert curve.loss[-1] > 0
        report = PruneChannels(macs=0.7, round_to=1, data=data("1x5x8")).run(built)
        assert any("1 groups are read by no layer that can be measured" in note for note in report.notes)

    def test_the_same_seed_gives_the_same_bytes(
        self, run: Run, source: Path, tmp_path: Path, data: Callable[[str], Path]
    ) -> None:
        for name in ("a.onnx", "b.onnx"):
            options = ("--data", data("1x3x8x8"), "--macs", "0.5", "--round-to", "1", "--seed", "3")
            assert run("prune-channels", source, tmp_path / name, *options) == 0, run.err
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()

    def test_the_share_holds_in_every_group_if_asked(self, data: Callable[[str], Path]) -> None:
        for options in ({"ratio": 0.5}, {"macs": 0.5, "scope": "group"}):
            built = convolutions()
            PruneChannels(**options, round_to=1, data=data("1x4x9x9")).run(built)
            assert {built.weights.shape(name)[0] / convolutions().weights.shape(name)[0] for name in "ab"} <= {0.5, 0.625, 0.75}


def attention() -> Model:
    """q and k meet in a product of activations."""
    nodes = [
        node("MatMul", "x q", "Q"),
        node("MatMul", "x k", "K"),
        node("Transpose", "K", "T", perm=[0, 2, 1]),
        node("MatMul", "Q T", "s"),
        node("MatMul", "x v", "V"),
        node("MatMul", "s V", "m"),
        node("MatMul", "m o", "y"),
    ]
    return model(nodes, {"x": "1x5x8"}, ["y"], {"q": "8x6", "k": "8x6", "v": "8x10", "o": "10x7"})


def convolutions() -> Model:
    """Plain, grouped, depthwise, transposed, a weight that two nodes use; with and without bias."""
    nodes = [
        node("Conv", "x a ab", "h1", pads=[1, 1, 1, 1]),
        node("Relu", "h1", "r1"),
        node("Conv", "r1 b", "h2", group=4),
        node("Relu", "h2", "r2"),
        node("Conv", "r2 c cb", "h3", group=8, pads=[1, 1, 1, 1]),
        node("ConvTranspose", "h3 d", "h4", strides=[2, 2]),
        node("Conv", "h4 s", "h5"),
        node("Relu", "h5", "r5"),
        node("Conv", "r5 s", "h6"),
        node("Conv", "h6 e", "y"),
    ]
    weights = {"a": "16x4x3x3", "ab": "16", "b": "8x4x1x1", "c": "8x1x3x3", "cb": "8", "d": "8x6x2x2", "s": "6x6x1x1"}
    return model(nodes, {"x": "1x4x9x9"}, ["y"], weights | {"e": "4x6x3x3"})


class TestRefit:
    @pytest.mark.parametrize(("build", "shape"), [(convolutions, "1x4x9x9"), (attention, "1x5x8")])
    def test_outputs_come_back(self, build: Callable[[], Model], shape: str, data: Callable[[str], Path]) -> None:
        original, plain, built = build(), build(), build()
        report = PruneChannels(macs=0.7, round_to=1, data=data(shape)).run(built)
        PruneChannels(macs=0.7, round_to=1, data=data(shape), importance="output", repair=False).run(plain)
        assert [built.weights.shape(n) for n in original.weights] == [plain.weights.shape(n) for n in original.weights]
        assert level(original, built, noise(8, shape, 9)) > level(original, plain, noise(8, shape, 9)) + 1
        assert layers(built).totals.macs <= 0.7 * layers(original).totals.macs  # type: ignore[operator]
        assert any("without the refit" in note for note in report.notes)
        assert not report.skipped or all("not refitted" not in skip.reason for skip in report.skipped)

    def test_fewer_columns_are_sampled_at_the_same_positions(
        self, data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So many bytes that the original's columns fit fewer positions than the cut's."""
        monkeypatch.setattr("onnxsparse.calibration.positions.MOST_BYTES", 4 * 6 * 9 * 1000)
        original, built = convolutions(), convolutions()
        PruneChannels(macs=0.7, round_to=1, data=data("1x4x9x9")).run(built)
        assert level(original, built, noise(8, "1x4x9x9", 9)) > 0

    def test_zeros_stay_zeros(self, data: Callable[[str], Path]) -> None:
        built = convolutions()
        array = built.weights["e"].copy()
        array[:, :, 1] = 0
        built.weights["e"] = array
        PruneChannels(ratio=0.5, round_to=1, data=data("1x4x9x9")).run(built)
        assert built.weights["e"].shape[1] == 3
        assert not built.weights["e"][:, :, 1].any()
        assert np.count_nonzero(built.weights["e"]) == 4 * 3 * 6

    def test_layers_before_the_first_cut_stay_as_they_are(self, data: Callable[[str], Path]) -> None:
        built, original = convolutions(), convolutions()
        PruneChannels(ratio=0.5, round_to=1, data=data("1x4x9x9"), only=(layers(built)[4].node,)).run(built)
        for name in ("a", "ab", "b", "c", "cb"):
            assert np.array_equal(built.weights[name], original.weights[name])
        kept = {part.tobytes() for part in np.moveaxis(built.weights["d"], 1, 0)}
        assert len(kept) == 3
        assert kept < {part.tobytes() for part in np.moveaxis(original.weights["d"], 1, 0)}
        assert built.weights["e"].tobytes() not in {
            original.weights["e"][:, list(c)].tobytes() for c in combinations(range(6), 3)
        }

    def test_a_plan_is_refitted_too(self, run: Run, source: Path, tmp_path: Path, data: Callable[[str], Path]) -> None:
        plan = tmp_path / "plan.json"
        assert run("prune-channels", source, tmp_path / "a.onnx", "--round-to", "1", "--json", plan) == 0, run.err
        options = ("--from-plan", plan, "--data", data("1x3x8x8"))
        assert run("prune-channels", source, tmp_path / "b.onnx", *options) == 0, run.err
        assert "layers were refitted to what the original computes" in run.out

    def test_a_refit_that_changes_more_is_refused(self, data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
        def overdone(self: Refit, _: Samples) -> None:
            self.model.weights["e"] = np.array(self.model.weights["e"]) * 2

        monkeypatch.setattr(Refit, "run", overdone)
        with pytest.raises(PassError, match="the refit changed more than weights and biases"):
            PruneChannels(ratio=0.5, round_to=1, data=data("1x4x9x9")).run(convolutions())

    def test_a_refit_that_harms_is_left_out(self, data: Callable[[str], Path], tmp_path: Path) -> None:
        """Learned from inputs that are nothing like those that are judged on."""
        np.save(tmp_path / "learn.npy", np.repeat(noise(1, "1x4x9x9"), 6, axis=0) * 1e-3)
        np.save(tmp_path / "judge.npy", noise(6, "1x4x9x9", 8))
        built, plain = convolutions(), convolutions()
        files = {"data": tmp_path / "learn.npy", "test": tmp_path / "judge.npy"}
        report = PruneChannels(ratio=0.5, round_to=1, **files).run(built)  # type: ignore[arg-type]
        PruneChannels(ratio=0.5, round_to=1, importance="output", repair=False, **files).run(plain)  # type: ignore[arg-type]
        assert any("the refit was left out" in note for note in report.notes)
        assert built.to_bytes() == plain.to_bytes()


class TestBadInput:
    def test_one_sample_is_not_judged(self, run: Run, source: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "one.npy", noise(1, "1x3x8x8"))
        options = ("--data", tmp_path / "one.npy", "--round-to", "1")
        assert run("prune-channels", source, tmp_path / "o.onnx", *options) == 0, run.err
        assert "the refit was not judged: there is no sample that it did not learn from; give --test" in run.out

    def test_importance_of_outputs_needs_data(self) -> None:
        with pytest.raises(ParamError, match="--importance output needs --data"):
            PruneChannels(importance="output").run(convolutions())

    def test_a_target_out_of_reach(self, data: Callable[[str], Path]) -> None:
        with pytest.raises(ParamError, match=r"at most \d\d\.\d% of the operations"):
            PruneChannels(macs=0.01, data=data("1x4x9x9")).run(convolutions())

    def test_nan(self, run: Run, source: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "c.npy", np.full((4, 3, 8, 8), np.nan, np.float32))
        line = run.fails(1, "prune-channels", source, tmp_path / "o.onnx", "--data", tmp_path / "c.npy")
        assert "has NaN or infinite values" in line
