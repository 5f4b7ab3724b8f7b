"""Gates: a check passes or fails on the right side of its limit, for the right reason, with the files that must and may be."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxsparse import Model, ParamError, Pipeline, Prune, Quantize, compare, load, load_samples
from onnxsparse.cost.estimate import deploy
from onnxsparse.pipeline.check import Check, Save, Step
from onnxsparse.pipeline.learning import Judging
from tests.commands import Run, files
from tests.graphs import chain

HALF = "prune: {sparsity_op: 0.5}"


@pytest.fixture
def data(folder: Path) -> Path:
    np.save("eval.npy", np.random.default_rng(3).standard_normal((4, 3, 8, 8)).astype(np.float32))
    return Path("eval.npy")


def recipe(*steps: str) -> Path:
    Path("r.yaml").write_text("passes:\n" + "".join(f"  - {step}\n" for step in steps))
    return Path("r.yaml")


def lowest_db(data: Path, sparsity_op: float = 0.5) -> float:
    """What the pruned model has on the data, by `compare` alone."""
    original = load("in.onnx")
    pruned = original.copy()
    Prune(sparsity_op=sparsity_op).run(pruned)
    found = compare(original, pruned, load_samples(data, original)).worst_sqnr_db
    assert found is not None
    return found


class TestByNoise:
    def test_it_passes_just_below_and_fails_just_above(self, run: Run, folder: Path, data: Path) -> None:
        level = lowest_db(data)
        before = files(folder)
        path = recipe(HALF, f"check: {{min_sqnr: {level - 0.01}}}")
        assert run("run", path, "in.onnx", "o.onnx", "--test", data) == 0, run.err
        assert f"check passed: at least {level - 0.01:g} dB" in run.out
        Path("o.onnx").unlink()
        path = recipe(HALF, f"check: {{min_sqnr: {level + 0.01}}}")
        line = run.fails(1, "run", path, "in.onnx", "o.onnx", "--test", data)
        assert line == f"onnxsparse: run: no model was written: not every output reaches {level + 0.01:g} dB: {said(level)}\n"
        assert files(folder) == before

    def test_a_gate_of_the_command_is_the_last_step(self, run: Run, folder: Path, data: Path) -> None:
        level = lowest_db(data)
        path = recipe(HALF)
        options = (path, "in.onnx", "o.onnx", "--test", data, "--min-sqnr")
        assert run("run", *options, level - 0.01) == 0, run.err
        Path("o.onnx").unlink()
        assert "not every output reaches" in run.fails(1, "run", *options, level + 0.01)
        assert not Path("o.onnx").exists()

    def test_compare_run_and_a_check_agree_on_the_same_samples(self, run: Run, folder: Path, data: Path) -> None:
        level = lowest_db(data)
        assert run("run", recipe(HALF, "check: {min_sqnr: -50}"), "in.onnx", "o.onnx", "--test", data, "--record", "r.json") == 0
        record = json.loads(Path("r.json").read_text())
        assert run("compare", "in.onnx", "o.onnx", "--test", data, "--json", "c.json") == 0
        told = [record["comparison"], record["steps"][1]["verdict"]["comparison"], json.loads(Path("c.json").read_text())]
        assert {worst(found) for found in told} == {level}

    def test_what_is_after_a_failed_check_does_not_run(self) -> None:
        built = Model.from_proto(chain(3, 8, 4))
        steps: list[Step] = [Prune(sparsity_op=0.9), Check(min_sqnr=200.0), Prune(only=("no layer",))]
        report = Pipeline(steps).run(built)
        assert [step.pass_name for step in report.steps] == ["prune", "check"]
        assert report.failures

    def test_a_check_in_the_middle_judges_the_model_there(self) -> None:
        built = Model.from_proto(chain(3, 8, 4))
        steps: list[Step] = [Check(min_sqnr=200.0), Prune(sparsity_op=0.9)]
        report = Pipeline(steps).run(built, Judging())
        assert report.steps[0].verdict is not None
        assert report.steps[0].verdict.passed
        assert report.comparison is not None
        assert report.comparison.shortfall(200) is not None

    def test_after_a_failed_check_no_older_comparison_is_shown(self) -> None:
        steps: list[Step] = [Check(min_sqnr=-50.0), Prune(sparsity_op=0.9), Check(fail_if=("latency_ms>0",))]
        report = Pipeline(steps).run(Model.from_proto(chain(3, 8, 4)))
        assert report.failures
        assert report.comparison is None

    def test_an_output_that_says_nothing_passes_no_gate(self) -> None:
        built = chain(3, 4)
        next(t for t in built.graph.initializer if "weight" in t.name).CopyFrom(zeros(built))
        report = Pipeline([Check(min_sqnr=1.0)]).run(Model.from_proto(built))
        assert "y says nothing about the change: it does not depend on the input" in report.failures[0]


DIGITS = Path(__file__).parents[2] / "sample_models" / "digits.onnx"


class TestByMetric:
    @pytest.mark.parametrize(("most", "code"), [(3.6, 0), (3.4, 1)])
    def test_top1(self, run: Run, folder: Path, most: float, code: int) -> None:
        """In one shot, 70 % cost the digits 3.5 points: 99.75 to 96.25."""
        pictures = DIGITS.with_name("digits_test.npz")
        path = recipe("prune: {sparsity_op: 0.7}", f"check: {{metric: top1, max_drop: {most}}}", "save: mid.onnx")
        options = ("--test", f"{pictures}:x", "--set", f"check.labels={pictures}:y", "--record", "r.json")
        assert run("run", path, DIGITS, "o.onnx", *options) == code
        assert Path("o.onnx").exists() == Path("mid.onnx").exists() == (code == 0)
        metric = json.loads(Path("r.json").read_text())["steps"][1]["verdict"]["metric"]
        assert (metric["before"], metric["after"], metric["drop"]) == (99.75, 96.25, 3.5)
        assert ("top1 drops by 3.5 points, from 99.75 to 96.25; at most 3.4 is allowed" in run.err) == (code == 1)

    def test_a_function_of_ones_own(self, run: Run, folder: Path) -> None:
        """The mean of an output: folding changes it by rounding alone."""
        code = "def mean(session, data):\n    return sum(session.run(None, f)[0].mean() for f in data) / len(data)"
        Path("mine.py").write_text(code)
        options = ("in.onnx", "o.onnx", "--test", "data.npy", "--metric", "mine.py:mean", "--max-drop")
        assert run("run", recipe("fold"), *options, "0.001") == 0, run.err
        assert run("run", recipe("fold"), *options, "-0.5") == 1
        assert "at most -0.5 is allowed" in run.err


class TestByCost:
    @pytest.mark.parametrize(("factor", "code"), [(1.01, 0), (0.99, 1)])
    def test_latency(self, run: Run, folder: Path, factor: float, code: int) -> None:
        limit = deploy(load("in.onnx")).latency_ms * factor
        path = recipe("fold", f"check: {{fail_if: ['latency_ms>{limit:.9f}']}}", "save: mid.onnx")
        assert run("run", path, "in.onnx", "o.onnx", "--record", "r.json") == code
        assert Path("o.onnx").exists() == Path("mid.onnx").exists() == (code == 0)
        record = json.loads(Path("r.json").read_text())
        assert record["passed"] == (code == 0)
        assert [text.startswith("latency_ms is ") for text in record["failures"]] == [True] * code


class TestFiles:
    def test_a_failed_check_keeps_reports_and_record_but_no_model(self, run: Run, folder: Path) -> None:
        steps = (
            "save: first.onnx",
            "report: {json: rep.json}",
            "prune: {sparsity_op: 0.9, masks: m.npz}",
            "check: {min_sqnr: 90}",
        )
        before = files(folder)
        run.fails(1, "run", recipe(*steps), "in.onnx", "o.onnx", "--record", "rec.json")
        assert set(files(folder)) - set(before) == {"rep.json", "m.npz", "rec.json"}

    def test_a_saved_model_is_the_model_at_its_place(self, run: Run, folder: Path) -> None:
        assert run("run", recipe("fold", "save: mid.onnx", "prune: {sparsity_op: 0.9}"), "in.onnx", "o.onnx") == 0, run.err
        assert run("fold", "in.onnx", "folded.onnx") == 0
        assert Path("mid.onnx").read_bytes() == Path("folded.onnx").read_bytes() != Path("o.onnx").read_bytes()

    def test_a_model_on_the_way_is_written_without_one_at_the_end(self, run: Run, folder: Path) -> None:
        assert run("run", recipe("prune", "save: mid.onnx"), "in.onnx") == 0, run.err
        assert Path("mid.onnx").exists()

    @pytest.mark.parametrize("name", ["in.onnx", "o.onnx", "link.onnx"])
    def test_a_saved_model_needs_a_file_of_its_own(self, run: Run, folder: Path, name: str) -> None:
        assert "needs a file of its own" in run.fails(2, "run", recipe("fold", f"save: {name}"), "in.onnx", "o.onnx")


class TestTheWarning:
    def test_a_pipeline_without_a_gate_ends_with_it(self, run: Run, folder: Path, data: Path) -> None:
        assert lowest_db(data, 0.95) < 10
        deep = "prune: {sparsity_op: 0.95}"
        assert run("run", recipe(deep), "in.onnx", "o.onnx", "--test", data) == 0
        assert run.out.splitlines()[-1].startswith("  warning: not every output reaches 10 dB: y")
        assert run("run", recipe(deep, "check: {min_sqnr: -50}"), "in.onnx", "o.onnx", "--test", data) == 0
        assert "warning" not in run.out
        assert run("prune", "in.onnx", "o.onnx", "--sparsity-op", "0.95", "--test", data) == 0
        assert run.out.splitlines()[-1].startswith("  warning: not every output reaches 10 dB: y")

    def test_a_check_of_cost_alone_is_no_gate_for_outputs(self, run: Run, folder: Path, data: Path) -> None:
        path = recipe("prune: {sparsity_op: 0.95}", "check: {fail_if: ['latency_ms>1000']}")
        assert run("run", path, "in.onnx", "o.onnx", "--test", data) == 0
        assert "warning: not every output reaches 10 dB" in run.out

    def test_none_for_a_close_model(self, run: Run, folder: Path, data: Path) -> None:
        assert run("run", recipe("prune: {sparsity_op: 0.02}"), "in.onnx", "o.onnx", "--test", data) == 0
        assert "warning" not in run.out


class TestData:
    """What a pipeline is judged on."""

    def test_a_tenth_of_what_is_learned_from_is_held_out(self, run: Run, folder: Path) -> None:
        np.save("calib.npy", np.random.default_rng(4).standard_normal((20, 3, 8, 8)).astype(np.float32))
        assert run("run", recipe("quantize"), "in.onnx", "o.onnx", "--data", "calib.npy") == 0, run.err
        assert "over 18 samples" in run.out
        assert "judged on 2 of the 20 samples of calib.npy, which nothing was learned from" in run.out

    def test_test_data_leaves_all_to_learn_from(self, run: Run, folder: Path, data: Path) -> None:
        assert run("quantize", "in.onnx", "o.onnx", "--data", "data.npy", "--test", data) == 0, run.err
        assert "over 2 samples" in run.out
        assert "judged on 4 samples of eval.npy" in run.out

    def test_the_files_of_a_recipe(self, run: Run, folder: Path, data: Path) -> None:
        Path("r.yaml").write_text("data: data.npy\ntest: eval.npy\npasses: [quantize]")
        assert run("run", "r.yaml", "in.onnx", "o.onnx") == 0, run.err
        assert "judged on 4 samples of eval.npy" in run.out
        assert run("run", "r.yaml", "in.onnx", "o.onnx", "--test", "data.npy") == 0, run.err
        assert "judged on 2 samples of data.npy" in run.out

    def test_where_nothing_learns_all_data_judges(self, run: Run, folder: Path, data: Path) -> None:
        assert run("prune", "in.onnx", "o.onnx", "--data", data, "--no-repair") == 0, run.err
        assert "judged on 4 samples of eval.npy" in run.out

    def test_preprocessing_is_for_the_images_alone(self, run: Run, folder: Path, data: Path) -> None:
        Path("pictures").mkdir()
        for level in (10, 200):
            Image.new("RGB", (9, 9), (level, 0, 255)).save(f"pictures/{level}.png")
        Path("p.toml").write_text('resize = "stretch"\n')
        options = ("--preprocess", "p.toml", "--data")
        assert run("quantize", "in.onnx", "o.onnx", *options, "pictures", "--test", data) == 0, run.err
        assert run("quantize", "in.onnx", "o.onnx", *options, data, "--test", "pictures") == 0, run.err
        assert "is for images" in run.fails(2, "quantize", "in.onnx", "o.onnx", *options, data)

    def test_one_sample_is_learned_from_and_nothing_is_judged(self, run: Run, folder: Path) -> None:
        np.save("one.npy", np.ones((1, 3, 8, 8), np.float32))
        assert run("quantize", "in.onnx", "o.onnx", "--data", "one.npy") == 0, run.err
        assert "one.npy holds one sample, which was learned from; give --test" in run.out
        line = run.fails(2, "quantize", "in.onnx", "o.onnx", "--data", "one.npy", "--min-sqnr", "20")
        assert "--min-sqnr judges on samples that were not calibrated on" in line

    def test_random_inputs_are_called_that(self, run: Run, folder: Path) -> None:
        assert run("prune", "in.onnx", "o.onnx") == 0
        assert "random inputs show that outputs differ, not how good they are; give --test" in run.out

    def test_quantize_judges_its_limit_on_the_test_data(self, folder: Path, data: Path) -> None:
        built = load("in.onnx")
        original = built.copy()
        np.save("calib.npy", np.random.default_rng(4).standard_normal((8, 3, 8, 8)).astype(np.float32))
        report = Quantize(data=Path("calib.npy"), test=data, min_sqnr=20.0).run(built)
        level = compare(original, built, load_samples(data, original)).worst_sqnr_db
        assert any(f"the worst output or slice has {level:.1f} dB" in note for note in report.notes)


class TestWrongChecks:
    @pytest.mark.parametrize(
        ("step", "message"),
        [
            ("check", "check: give a limit: min_sqnr, metric with max_drop, or fail_if"),
            ("check: {min_sqnr: low}", "passes[1].check.min_sqnr: Input should be a valid number"),
            ("check: {min_sqrn: 20}", "passes[1].check.min_sqrn: the pass has no such option; did you mean 'min_sqnr'?"),
            ("check: {max_drop: 1}", "metric and max_drop belong together"),
            ("check: {metric: top1}", "metric and max_drop belong together"),
            ("check: {fail_if: ['latency>3']}", "is not a total"),
            ("check: {min_sqnr: 3, target: none}", "no target 'none'"),
            ("save", "passes[1].save.file: this option has to be given"),
            ("save: '-'", "save: a model does not go to standard output"),
            ("save: no/o.onnx", "does not exist"),
            ("chekc: {min_sqnr: 3}", "did you mean 'check'?"),
        ],
    )
    def test_one_line_before_any_work(
        self, run: Run, folder: Path, step: str, message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("onnxsparse.cli.jobs.load", lambda _: pytest.fail("a model was loaded"))
        assert message in run.fails(2, "run", recipe("fold", step), "in.onnx", "o.onnx")
        assert not Path("o.onnx").exists()

    def test_data_that_does_not_fit(self, run: Run, folder: Path) -> None:
        line = run.fails(1, "run", recipe("prune", "check: {min_sqnr: 3}"), "in.onnx", "o.onnx", "--test", "other.npy")
        assert line == "onnxsparse: --test other.npy: input 'x' of in.onnx takes 1x3x8x8, the array is 2x5\n"

    def test_a_saved_file_is_given_in_python_too(self) -> None:
        with pytest.raises(ParamError, match="standard output"):
            Pipeline([Save(file=Path("-"))]).run(Model.from_proto(chain(3, 4)))


def said(level: float) -> str:
    """What has the level: the chain's only output, or a slice of it."""
    original = load("in.onnx")
    pruned = original.copy()
    Prune(sparsity_op=0.5).run(pruned)
    return compare(original, pruned, load_samples(Path("eval.npy"), original)).outputs[0].lowest_text


def worst(document: dict[str, list[dict[str, float]]]) -> float:
    """The lowest SQNR of a comparison's JSON."""
    (output,) = document["outputs"]
    part = output["worst_slice"]
    return min(output["sqnr_db"], part["sqnr_db"] if isinstance(part, dict) else output["sqnr_db"])


def zeros(built: onnx.ModelProto) -> onnx.TensorProto:
    """A weight of zeros in place of the first one."""
    held = next(t for t in built.graph.initializer if "weight" in t.name)
    return onnx.numpy_helper.from_array(np.zeros(tuple(held.dims), np.float32), held.name)
