"""Targets of `prune --data` besides sparsity: a stored database, latency, MACs, limits, blocks; one line for what cannot be."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxsparse import Model, ParamError, PassError, Prune, Sensitivity, layers, load
from onnxsparse.cost.estimate import deploy_on
from onnxsparse.cost.registry import find_backend
from onnxsparse.pipeline.learning import Judging
from tests.commands import Run
from tests.graphs import chain, model, node, weight
from tests.recovery.samples import inputs
from tests.recovery.test_recover import DIGITS, PICTURES

SHAPE = "1x3x8x8"


@pytest.fixture
def calib(tmp_path: Path) -> Path:
    np.save(tmp_path / "calib.npy", inputs(60, SHAPE))
    return tmp_path / "calib.npy"


@pytest.fixture
def given(tmp_path: Path) -> Path:
    onnx.save(chain(3, 16, 24, 8), tmp_path / "given.onnx")
    return tmp_path / "given.onnx"


class TestDatabase:
    def test_a_stored_database_gives_the_same_model(self, run: Run, given: Path, calib: Path, tmp_path: Path) -> None:
        assert run("sensitivity", given, "--data", calib, "--json", tmp_path / "db.json") == 0, run.err
        assert "sensitivity was measured in" in run.out
        found = json.loads((tmp_path / "db.json").read_text())
        assert found["schema"] == 1
        assert found["samples"] == 54
        assert [layer["nodes"] for layer in found["layers"]] == [["conv0"], ["conv1"], ["conv2"]]
        for layer in found["layers"]:
            assert layer["errors"] == sorted(layer["errors"], reverse=True)
            assert layer["sensitivity"] > 0
        assert run("prune", given, tmp_path / "a.onnx", "--data", calib, "--sparsity-op", "0.6") == 0, run.err
        options = ("--sparsity-op", "0.6", "--database", tmp_path / "db.json")
        assert run("prune", given, tmp_path / "b.onnx", "--data", calib, *options) == 0, run.err
        assert "sensitivity was measured" not in run.out
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()

    def test_the_page_opens_offline(self, run: Run, given: Path, calib: Path, tmp_path: Path) -> None:
        assert run("sensitivity", given, "--data", calib, "--html", tmp_path / "p.html", "--target", "cv22") == 0, run.err
        page = (tmp_path / "p.html").read_text()
        assert "conv2" in page
        assert not re.search(r'src="https?:', page)
        assert "latency, ms" in run.out

    def test_of_another_model(self, run: Run, given: Path, calib: Path, tmp_path: Path) -> None:
        """The same graph with other weights is another model."""
        assert run("sensitivity", given, "--data", calib, "--json", tmp_path / "db.json") == 0, run.err
        other = load(given)
        other.weights["conv1.weight"] = other.weights["conv1.weight"].astype(np.float32) * 2
        other.save(tmp_path / "other.onnx")
        options = ("--data", calib, "--database", tmp_path / "db.json")
        line = run.fails(1, "prune", tmp_path / "other.onnx", tmp_path / "o.onnx", *options)
        assert "it was made of another model, given.onnx, not of other.onnx" in line

    def test_without_a_layer_or_for_another_pattern(self, run: Run, given: Path, calib: Path, tmp_path: Path) -> None:
        measured = ("sensitivity", given, "--data", calib, "--exclude", "conv1", "--json", tmp_path / "db.json")
        assert run(*measured) == 0, run.err
        options = ("--data", calib, "--database", tmp_path / "db.json")
        assert "it lacks conv1" in run.fails(2, "prune", given, tmp_path / "o.onnx", *options)
        assert run("prune", given, tmp_path / "o.onnx", *options, "--exclude", "conv1", "--sparsity-op", "0.3") == 0, run.err
        assert "is for --pattern element" in run.fails(2, "prune", given, tmp_path / "o2.onnx", *options, "--pattern", "2x1")

    @pytest.mark.parametrize(
        ("content", "said"),
        [("{", "it is not JSON"), ("{}", "it is no database of schema 1"), ('{"schema": 1}', "model: Field required")],
    )
    def test_no_database(self, content: str, said: str, run: Run, given: Path, calib: Path, tmp_path: Path) -> None:
        (tmp_path / "db.json").write_text(content)
        line = run.fails(1, "prune", given, tmp_path / "o.onnx", "--data", calib, "--database", tmp_path / "db.json")
        assert said in line

    def test_what_is_not_measured_is_named(self, given: Path, calib: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("onnxsparse.recovery.units.MOST_WORK", 16 * 27 * 27)
        report = Sensitivity(data=calib).run(load(given))
        assert ("conv1", "not measured: its matrix of 24 × 144 is too large") in [(s.node, s.reason) for s in report.skipped]

    def test_nothing_to_measure(self, run: Run, calib: Path, given: Path, tmp_path: Path) -> None:
        model([node("Relu", "x", "y")], {"x": SHAPE}).save(tmp_path / "relu.onnx")
        assert "no layer of relu.onnx can be measured" in run.fails(2, "sensitivity", tmp_path / "relu.onnx", "--data", calib)
        assert "give --data" in run.fails(2, "sensitivity", given)
        assert "leaves nothing to allocate" in run.fails(2, "sensitivity", given, "--data", calib, "--pattern", "2:4")


class TestLatency:
    def wide(self) -> Model:
        """A 1x1 convolution of few positions, which its weights bound, behind one that computing bounds."""
        nodes = [
            node("Conv", "x a", "h", pads=[1, 1, 1, 1], name="computes"),
            node("Relu", "h", "r"),
            node("GlobalAveragePool", "r", "g"),
            node("Conv", "g b", "y", name="small"),
        ]
        return model(nodes, {"x": "1x16x64x64"}, ["y"], {"a": weight("64x16x3x3"), "b": weight("8x64x1x1", 1)})

    def test_the_latency_is_reached_and_what_costs_nothing_stays(self, tmp_path: Path) -> None:
        np.save(tmp_path / "c.npy", inputs(20, "1x16x64x64"))
        built = self.wide()
        backend = find_backend("cv22")
        dense = deploy_on(built, backend).latency_ms
        fixed = 2 * 0.02  # ms, the overhead of cv22's file for each of both convolutions
        report = Prune(latency_ms=fixed + 0.6 * (dense - fixed), data=tmp_path / "c.npy").run(built)
        reached = deploy_on(built, backend).latency_ms
        assert reached <= fixed + 0.6 * (dense - fixed)
        assert reached > fixed + 0.55 * (dense - fixed)
        found = {layer.node: layer.sparsity for layer in layers(built)}
        assert (found["computes"] or 0) > 0.3
        assert found["small"] == 0
        assert any(note == f"predicted latency on cv22: {reached:.3f} ms" for note in report.notes)
        assert any("allocated by operations, the same latency has" in note for note in report.notes)

    def test_out_of_reach(self, tmp_path: Path) -> None:
        np.save(tmp_path / "c.npy", inputs(4, "1x16x64x64"))
        with pytest.raises(ParamError, match=r"--latency-ms 0\.01 cannot be reached on cv22: 0\.\d+ ms is the least"):
            Prune(latency_ms=0.01, data=tmp_path / "c.npy").run(self.wide())

    def test_what_a_host_runs_has_no_known_cost(self, run: Run, calib: Path, tmp_path: Path) -> None:
        """A limit on a total of which a part is unknown is refused, unless --partial; layers without weights are named too."""
        nodes = [node("Conv", "x a", "c"), node("NonZero", "c", "y", name="host")]
        model(nodes, {"x": SHAPE}, ["y"], {"a": "8x3x3x3"}).save(tmp_path / "in.onnx")
        options = ("--data", calib, "--latency-ms", "9", "--no-compare")
        line = run.fails(2, "prune", tmp_path / "in.onnx", tmp_path / "o.onnx", *options)
        assert "--latency-ms 9: layers have no known cost on cv22 (1 of in.onnx, host first); --partial counts the others" in line
        assert run("prune", tmp_path / "in.onnx", tmp_path / "o.onnx", *options, "--partial") == 0, run.err
        assert "predicted latency on cv22: at least, since the cost of host is unknown: 0.0" in run.out

    def test_what_cannot_be_repaired_stays_dense(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("onnxsparse.recovery.units.MOST_WORK", 8 * 64 * 64)
        np.save(tmp_path / "c.npy", inputs(8, "1x16x64x64"))
        built = self.wide()
        report = Prune(latency_ms=100, data=tmp_path / "c.npy").run(built)
        assert [(s.node, s.reason) for s in report.skipped] == [("computes", "left dense: its matrix of 64 × 144 is too large")]
        assert layers(built).totals.zero_weights == 0

    def test_a_pattern_that_fixes_all_has_a_latency_too(self, given: Path, calib: Path) -> None:
        built = load(given)
        report = Prune(pattern="2:4", data=calib, target="cv22").run(built)
        reached = deploy_on(built, find_backend("cv22")).latency_ms
        assert f"predicted latency on cv22: {reached:.3f} ms" in report.notes

    def test_multiply_accumulates(self, given: Path, calib: Path) -> None:
        for data in (None, calib):
            built = load(given)
            Prune(macs=0.3, data=data).run(built)
            totals = layers(built).totals
            assert totals.nonzero_macs is not None
            assert totals.macs is not None
            assert 0.29 < totals.nonzero_macs / totals.macs <= 0.3
        with pytest.raises(ParamError, match=r"macs 0\.01 cannot be reached: \d\.?\d* % is the least"):
            Prune(macs=0.01, data=calib).run(load(given))


class TestLimits:
    def test_the_highest_sparsity_that_keeps_a_level(self, given: Path, calib: Path, run: Run, tmp_path: Path) -> None:
        assert run("prune", given, tmp_path / "o.onnx", "--data", calib, "--min-sqnr", "12") == 0, run.err
        said = re.search(r"sparsity_op (\d+) % is the most that keeps the limits", run.out)
        assert said is not None
        most = int(said[1])
        assert layers(load(tmp_path / "o.onnx")).totals.sparsity_op == pytest.approx(most / 100, abs=0.002)
        levels = []
        for percent in (most, most + 1):
            run("prune", given, tmp_path / "p.onnx", "--data", calib, "--sparsity-op", percent / 100)
            found = re.search(r"held-out samples has (-?\d+\.\d+) dB", run.out)
            assert found is not None
            levels.append(float(found[1]))
        assert levels[0] >= 12 > levels[1]

    def test_the_highest_sparsity_that_keeps_a_metric(self, run: Run, tmp_path: Path) -> None:
        with np.load(PICTURES) as held:
            np.savez(tmp_path / "learn.npz", x=held["x"][:40])
            np.savez(tmp_path / "test.npz", x=held["x"][40:200], y=held["y"][40:200])
        data = ("--data", f"{tmp_path / 'learn.npz'}:x", "--test", f"{tmp_path / 'test.npz'}:x")
        metric = ("--metric", "top1", "--labels", f"{tmp_path / 'test.npz'}:y", "--max-drop", "2")
        assert run("prune", DIGITS, tmp_path / "o.onnx", *data, *metric) == 0, run.err
        assert (layers(load(tmp_path / "o.onnx")).totals.sparsity_op or 0) > 0.6
        assert run("compare", DIGITS, tmp_path / "o.onnx", *data[2:], *metric) == 0, run.err

    def test_the_latency_of_what_was_found(self, given: Path, calib: Path) -> None:
        built = load(given)
        report = Prune(min_sqnr=12, data=calib, target="cv22").run(built)
        reached = deploy_on(built, find_backend("cv22")).latency_ms
        assert f"predicted latency on cv22: {reached:.3f} ms" in report.notes

    def test_nothing_left_to_probe(self, given: Path, calib: Path) -> None:
        with pytest.raises(ParamError, match=r"sparsity_op 0 % is the most that these layers allow, and is reached already"):
            Prune(min_sqnr=12, data=calib, max_layer_sparsity=0.001).run(load(given))

    def test_no_sparsity_keeps_the_limit(self, given: Path, calib: Path) -> None:
        with pytest.raises(PassError, match=r"no sparsity_op keeps the limits; at 1 %: .* does not reach|not every output"):
            Prune(min_sqnr=300, data=calib).run(load(given))


def test_whole_blocks_are_gone_and_outputs_come_back(given: Path, calib: Path) -> None:
    built, plain = load(given), load(given)
    report = Prune(sparsity_op=0.5, pattern="4x2", data=calib).run(built)
    Prune(sparsity_op=0.5, pattern="4x2").run(plain)
    assert layers(built).totals.sparsity_op == pytest.approx(0.5, abs=0.02)
    held = np.asarray(built.weights["conv1.weight"]).reshape(6, 4, 8, 2, 9)
    zeros = (held == 0).sum((1, 3))
    assert set(np.unique(zeros)) <= {0, 8}
    assert (zeros == 8).any()
    repaired = next(note for note in report.notes if "held-out samples has" in note)
    with_repair, without = map(float, re.findall(r"(-?\d+\.\d+) dB", repaired))
    assert with_repair > without + 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--latency-ms", "3"), "--latency-ms needs --data"),
        (("--min-sqnr", "10"), "a limit needs --data"),
        (("--target", "cv22"), "--target needs --data"),
        (("--sparsity-op", "0.5", "--macs", "0.5"), "give --sparsity-op or --macs, not both"),
        (("--sparsity-op", "0.5", "--min-sqnr", "9"), "leave --sparsity-op out"),
        (("--pattern", "2:4", "--min-sqnr", "9"), "sets the sparsity of every layer"),
        (("--metric", "top1"), "metric and max_drop belong together"),
        (("--latency-ms", "3", "--no-repair"), "leave --no-repair out"),
        (("--target", "onnxruntime-cpu"), "measures models"),
    ],
)
def test_options_that_do_not_go_together(
    options: tuple[str, ...], said: str, run: Run, given: Path, tmp_path: Path, calib: Callable[..., Path]
) -> None:
    assert said in run.fails(2, "prune", given, tmp_path / "o.onnx", *options)


def test_one_sample_cannot_be_learned_from_and_judged_on(run: Run, given: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", inputs(1, SHAPE))
    line = run.fails(2, "prune", given, tmp_path / "o.onnx", "--data", tmp_path / "one.npy", "--min-sqnr", "10")
    assert "holds one sample, which is learned from; give --test" in line


def test_a_recipe_gives_labels_to_prune() -> None:
    labels = Path(f"{PICTURES}:y")
    with_metric, without = Judging(labels=labels).fill([Prune(metric="top1", max_drop=3), Prune(min_sqnr=9)])
    assert isinstance(with_metric, Prune)
    assert isinstance(without, Prune)
    assert (with_metric.labels, without.labels) == (labels, None)
