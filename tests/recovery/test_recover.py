"""`prune --data`: targets to the element, zeros that stay, and outputs that come back; one line for what cannot be."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxsparse import Model, ParamError, Prune, compare, layers, load
from onnxsparse.recovery.repair import Repair
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import Feeds
from tests.commands import Run
from tests.graphs import FLOAT16, chain, model, node, weight
from tests.recovery.samples import inputs, level

DIGITS = Path(__file__).parents[2] / "sample_models" / "digits.onnx"
PICTURES = DIGITS.with_name("digits_test.npz")


def convolutions() -> Model:
    """Plain, grouped, depthwise, transposed, with and without bias."""
    nodes = [
        node("Conv", "x a ab", "h1", pads=[1, 1, 1, 1]),
        node("Relu", "h1", "r1"),
        node("Conv", "r1 b", "h2", group=4),
        node("Conv", "h2 c cb", "h3", group=8, pads=[1, 1, 1, 1]),
        node("ConvTranspose", "h3 d", "h4", strides=[2, 2]),
        node("Conv", "h4 e", "y"),
    ]
    weights = {"a": "16x4x3x3", "ab": "16", "b": "8x4x1x1", "c": "8x1x3x3", "cb": "8", "d": "8x6x2x2", "e": "4x6x3x3"}
    return model(nodes, {"x": "1x4x9x9"}, ["y"], weights)


def products() -> Model:
    """Gemm, MatMul from both sides, and a weight that two nodes use."""
    nodes = [
        node("MatMul", "x a", "h1"),
        node("Tanh", "h1", "t1"),
        node("MatMul", "t1 s", "h2"),
        node("Tanh", "h2", "t2"),
        node("MatMul", "t2 s", "h3"),
        node("MatMul", "l h3", "h4"),
        node("Flatten", "h4", "f"),
        node("Gemm", "f g gb", "y", transB=1),
    ]
    weights = {"a": "8x12", "s": "12x12", "l": "10x5", "g": "6x120", "gb": "6"}
    return model(nodes, {"x": "1x5x8"}, ["y"], weights)


@pytest.mark.parametrize(("build", "shape"), [(convolutions, "1x4x9x9"), (products, "1x5x8")])
def test_the_target_is_met_and_outputs_come_back(build: Callable[[], Model], shape: str, data: Callable[[str], Path]) -> None:
    original, plain, repaired = build(), build(), build()
    Prune(sparsity_op=0.5).run(plain)
    report = Prune(sparsity_op=0.5, data=data(shape)).run(repaired)
    totals = layers(repaired).totals
    heaviest = max(w.uses or 0 for layer in layers(original) for w in layer.weights)
    assert totals.zero_macs is not None
    assert 0 <= totals.zero_macs - 0.5 * totals.weight_macs <= heaviest
    assert level(original, repaired, inputs(8, shape, 9)) > level(original, plain, inputs(8, shape, 9)) + 2
    assert any("without the repair" in note for note in report.notes)
    assert {change.tensor for change in report.changes} <= set(original.weights)


def test_digits_at_nine_tenths(run: Run, tmp_path: Path) -> None:
    """In one shot, 80.75 % of the digits are recognised after plain pruning to 90 %."""
    options = ("--sparsity-op", "0.9", "--data", PICTURES)
    assert run("prune", DIGITS, tmp_path / "o.onnx", *options) == 0, run.err
    assert layers(load(tmp_path / "o.onnx")).totals.sparsity_op == pytest.approx(0.9, abs=1e-3)
    labels = ("--metric", "top1", "--labels", f"{PICTURES}:y", "--max-drop", "2")
    assert run("compare", DIGITS, tmp_path / "o.onnx", "--test", f"{PICTURES}:x", *labels) == 0, run.err


def test_the_same_bytes_twice(run: Run, tmp_path: Path, data: Callable[[str], Path]) -> None:
    onnx.save(chain(3, 8, 16, 4), tmp_path / "in.onnx")
    for name in ("a.onnx", "b.onnx"):
        assert run("prune", tmp_path / "in.onnx", tmp_path / name, "--data", data("1x3x8x8")) == 0, run.err
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_zeros_stay_and_excluded_layers_are_untouched(data: Callable[[str], Path]) -> None:
    built = convolutions()
    array = built.weights["a"].copy()
    array[:, ::2] = 0
    built.weights["a"] = array
    held = built.weights["e"].copy()
    Prune(sparsity_op=0.35, data=data("1x4x9x9"), exclude=(layers(built)[4].node,)).run(built)
    assert not built.weights["a"][:, ::2].any()
    assert np.array_equal(built.weights["e"], held)


def test_layers_keep_what_the_caller_says(data: Callable[[str], Path]) -> None:
    built = convolutions()
    first, second = layers(built)[0].node, layers(built)[1].node
    Prune(sparsity_op=0.5, data=data("1x4x9x9"), layer_sparsity=(f"{first}=0.25", f"{second}=0"), max_layer_sparsity=0.9).run(
        built
    )
    found = {layer.node: layer.sparsity for layer in layers(built)}
    assert found[first] == 0.25
    assert found[second] == 0
    assert max(value or 0 for value in found.values()) <= 0.9


def test_two_of_four(data: Callable[[str], Path]) -> None:
    original, plain, built = convolutions(), convolutions(), convolutions()
    Prune(pattern="2:4", protect="none").run(plain)
    report = Prune(pattern="2:4", data=data("1x4x9x9")).run(built)
    assert (np.count_nonzero(built.weights["a"].reshape(16, 1, 4, 9), axis=2) == 2).all()
    assert any("not a multiple of 4" in skip.reason for skip in report.skipped)
    assert level(original, built, inputs(8, "1x4x9x9", 9)) > level(original, plain, inputs(8, "1x4x9x9", 9))


def test_halves_are_pruned_in_floats_and_stay_halves(data: Callable[[str], Path], tmp_path: Path) -> None:
    nodes = [node("Conv", "x a", "h"), node("Relu", "h", "r"), node("Conv", "r b", "y")]
    weights = {"a": weight("8x4x3x3").astype(np.float16), "b": weight("4x8x3x3").astype(np.float16)}
    built = model(nodes, {"x": ("1x4x9x9", FLOAT16)}, ["y"], weights)
    np.save(tmp_path / "half.npy", inputs(20, "1x4x9x9").astype(np.float16))
    Prune(sparsity_op=0.5, data=tmp_path / "half.npy").run(built)
    assert built.weights["a"].dtype == np.float16
    assert layers(built).totals.sparsity_op == pytest.approx(0.5, abs=0.01)


def test_a_new_bias_goes_where_there_was_none(data: Callable[[str], Path]) -> None:
    """Inputs with a mean: what removed weights contributed on average goes into biases."""
    built = model([node("Conv", "x a", "y")], {"x": "1x4x9x9"}, ["y"], {"a": "8x4x3x3"})
    np.save(path := data("1x4x9x9"), inputs(40, "1x4x9x9") * 0.1 + 3)
    original = built.copy()
    Prune(sparsity_op=0.6, data=path).run(built)
    assert len(built.proto.graph.node[0].input) == 3
    feeds: list[Feeds] = [{"x": inputs(1, "1x4x9x9", 5) * np.float32(0.1) + np.float32(3)}]
    found = compare(original, built, Samples(feeds)).outputs[0].sqnr_db
    assert found is not None
    assert found > 20


def test_no_repair_only_compares(run: Run, source: Path, tmp_path: Path, data: Callable[[str], Path]) -> None:
    assert run("prune", source, tmp_path / "a.onnx", "--no-compare") == 0
    assert run("prune", source, tmp_path / "b.onnx", "--data", data("1x3x8x8"), "--no-repair") == 0, run.err
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert "judged on 100 samples" in run.out


class TestBadInput:
    def test_one_sample_is_not_judged(self, run: Run, source: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "one.npy", inputs(1, "1x3x8x8"))
        assert run("prune", source, tmp_path / "o.onnx", "--data", tmp_path / "one.npy") == 0, run.err
        assert "the repair was not judged: there is no sample that it did not learn from; give --test" in run.out

    def test_data_of_another_size(self, run: Run, source: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "c.npy", inputs(4, "1x3x9x9"))
        assert "takes 1x3x8x8, the array is 4x3x9x9" in run.fails(
            1, "prune", source, tmp_path / "o.onnx", "--data", tmp_path / "c.npy"
        )

    def test_nan(self, run: Run, source: Path, tmp_path: Path) -> None:
        values = inputs(4, "1x3x8x8")
        values[0, 0, 0, 0] = np.nan
        np.save(tmp_path / "c.npy", values)
        line = run.fails(1, "prune", source, tmp_path / "o.onnx", "--data", tmp_path / "c.npy")
        assert "has NaN or infinite values" in line

    def test_a_target_out_of_reach(self, data: Callable[[str], Path]) -> None:
        with pytest.raises(ParamError, match=r"sparsity_op 0\.99 cannot be reached: 9[34]\.\d % is the most"):
            Prune(sparsity_op=0.99, data=data("1x4x9x9")).run(convolutions())

    def test_nothing_to_prune(self, tmp_path: Path) -> None:
        built = model([node("Relu", "x", "y")], {"x": "1x4"})
        np.save(tmp_path / "c.npy", np.ones((3, 4), np.float32))
        assert "nothing was pruned" in Prune(data=tmp_path / "c.npy", sparsity=0.5).run(built).notes[0]


def test_what_cannot_be_repaired_is_pruned_by_magnitude_and_named(
    data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxsparse.recovery.units.MOST_WORK", 16 * 36 * 36 - 1)
    built = convolutions()
    first = layers(built)[0].node
    report = Prune(sparsity_op=0.5, data=data("1x4x9x9")).run(built)
    assert [(s.node, s.reason) for s in report.skipped if "too large" in s.reason] == [
        (first, "pruned by magnitude, not repaired: its matrix of 16 × 36 is too large")
    ]
    held, dense = built.weights["a"], convolutions().weights["a"]
    assert np.array_equal(held, np.where(np.abs(dense) > np.median(np.abs(dense)), dense, 0))
    assert layers(built).totals.sparsity_op == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("whole", [False, True])
def test_a_repair_that_harms_is_left_out_and_the_target_stays(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learned from inputs that are nothing like those that are judged on; layer by layer, or as a `whole`."""
    if whole:
        monkeypatch.setattr(Repair, "_worse", lambda *_: False)
    np.save(tmp_path / "learn.npy", np.repeat(inputs(1, "1x4x9x9"), 6, axis=0) * 1e-3)
    np.save(tmp_path / "judge.npy", np.random.default_rng(8).standard_normal((6, 4, 9, 9)).astype(np.float32))
    built, dense = convolutions(), convolutions()
    report = Prune(sparsity_op=0.5, data=tmp_path / "learn.npy", test=tmp_path / "judge.npy").run(built)
    expected = "the repair was left out" if whole else "5 × no repair"
    assert any(expected in note for note in report.notes)
    assert layers(built).totals.sparsity_op == pytest.approx(0.5, abs=0.01)
    for name in "abcde":
        held = built.weights[name]
        assert np.array_equal(held, np.where(held != 0, dense.weights[name], 0))
    assert [len(n.input) for n in built.proto.graph.node] == [len(n.input) for n in dense.proto.graph.node]


def test_inputs_of_a_recurrent_layer_are_repaired_and_its_states_are_named(tmp_path: Path) -> None:
    """Inputs that follow from four numbers: half of ten weights a row are enough to give the same products."""
    patterns = np.random.default_rng(1).standard_normal((4, 10))

    def steps(count: int, seed: int) -> NDArray[np.float32]:
        found: NDArray[np.float32] = (np.random.default_rng(seed).standard_normal((count, 7, 4)) @ patterns).astype(np.float32)
        return found

    def build() -> Model:
        nodes = [node("Transpose", "x", "t", perm=[1, 0, 2]), node("LSTM", "t w r", "y", hidden_size=12)]
        return model(nodes, {"x": "1x7x10"}, ["y"], {"w": "1x48x10", "r": "1x48x12"})

    np.save(tmp_path / "calib.npy", steps(60, 0))
    original, plain, built = build(), build(), build()
    Prune(sparsity=0.5, scope="layer", score="l1").run(plain)
    report = Prune(sparsity=0.5, scope="layer", data=tmp_path / "calib.npy").run(built)
    assert any("how LSTM multiplies is not known as a matrix" in skip.reason for skip in report.skipped)
    judged, dense = steps(8, 9).reshape(-1, 10).T.astype(np.float64), original.weights["w"][0]
    off, off_plain = (float(np.square((found.weights["w"][0] - dense) @ judged).sum()) for found in (built, plain))
    assert off < 0.3 * off_plain


@pytest.mark.parametrize(("build", "shape"), [(convolutions, "1x4x9x9"), (products, "1x5x8")])
def test_weights_in_constant_nodes_are_pruned_as_others(
    build: Callable[[], Model], shape: str, data: Callable[[str], Path], tmp_path: Path
) -> None:
    """Constant nodes run once when a walk passes them; a probe with other weights has to see those all the same."""
    plain, moved = build(), build()
    moved.save(tmp_path / "plain.onnx")
    proto = onnx.load(tmp_path / "plain.onnx")
    held = [onnx.helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in proto.graph.initializer]
    nodes = [*held, *proto.graph.node]
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend(nodes)
    onnx.save(proto, tmp_path / "moved.onnx")
    moved = load(tmp_path / "moved.onnx")
    reports = [Prune(sparsity_op=0.5, data=data(shape)).run(each) for each in (plain, moved)]
    zeros = [{c.tensor: c.zeros_after for c in report.changes} for report in reports]
    assert zeros[1] == pytest.approx(zeros[0], abs=3)  # positions are sampled by the number of the node
