"""--dry-run: sizes and cost after each pass that needs no data, and nothing written; --set: values in place of the recipe's."""

import json
from pathlib import Path

import jsonschema
import pytest

from onnxsparse import ParamError, Prune, layers, load
from onnxsparse.cost.estimate import deploy
from onnxsparse.pipeline.check import Check, Save
from onnxsparse.pipeline.plan import plan
from onnxsparse.pipeline.recipe import load_recipe, read_yaml
from onnxsparse.pipeline.recipe_schema import recipe_schema
from tests.commands import Run, files


@pytest.fixture
def recipe(folder: Path) -> Path:
    Path("r.yaml").write_text(
        "passes:\n  - prune: {sparsity_op: 0.5}\n  - quantize: {data: data.npy}\n  - check: {min_sqnr: 3}\n  - save: mid.onnx\n"
    )
    return Path("r.yaml")


class TestDryRun:
    def test_it_says_what_would_be_and_writes_nothing(self, run: Run, folder: Path, recipe: Path) -> None:
        before = files(folder)
        assert run("run", recipe, "in.onnx", "o.onnx", "--dry-run") == 0, run.err
        assert files(folder) == before
        for words in ("prune sparsity_op=0.5", "quantize data=data.npy (it needs data)", "judged when it runs", "ms on cv22"):
            assert words in run.out, words

    def test_numbers_are_those_of_the_passes_themselves(self, folder: Path) -> None:
        built = load("in.onnx")
        found = plan([Prune(sparsity_op=0.5), Check(min_sqnr=3.0), Save(file=Path("m.onnx"))], built)
        assert layers(built).totals == found.rows[0].totals
        Prune(sparsity_op=0.5).run(built)
        assert {row.totals for row in found.rows[1:]} == {layers(built).totals}
        assert {row.latency_ms for row in found.rows[1:]} == {deploy(built).latency_ms}
        assert [row.why_not for row in found.rows] == [None, None, "judged when it runs", "written when it runs"]

    def test_as_json(self, run: Run, folder: Path, recipe: Path) -> None:
        assert run("run", recipe, "in.onnx", "--dry-run", "--record", "-") == 0, run.err
        document = json.loads(run.out)
        assert [row["ran"] for row in document["steps"]] == [True, True, False, False, False]
        assert document["steps"][1]["sparsity_op"] == pytest.approx(0.5, abs=0.01)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--set", "quantize.data=none.npy"), "--data none.npy: No such file"),
            (("--set", "quantize.data=other.npy"), "the array is 2x5"),
            (("--set", "save.file=in.onnx"), "needs a file of its own"),
        ],
    )
    def test_it_refuses_what_a_run_would(
        self, run: Run, folder: Path, recipe: Path, arguments: tuple[str, ...], message: str
    ) -> None:
        assert run("run", recipe, "in.onnx", "o.onnx", "--dry-run", *arguments) in (1, 2)
        assert message in run.err


class TestSet:
    def test_a_value_replaces_the_recipes(self, recipe: Path) -> None:
        found = load_recipe(recipe, ["prune.sparsity_op=0.8", "prune.exclude=[conv0]", "dim=N=2", "save.file=x.onnx"])
        assert found.passes[0] == Prune(sparsity_op=0.8, exclude=("conv0",))
        assert found.passes[3] == Save(file=Path("x.onnx"))
        assert found.dim == ("N=2",)
        assert load_recipe(recipe).passes[0] == Prune(sparsity_op=0.5)

    def test_a_step_by_its_name_alone_gets_options(self, folder: Path) -> None:
        assert load_recipe(Path("r.yaml"), ["fold.constant_defaults=true"]).passes[0].constant_defaults  # type: ignore[union-attr]  # a Fold

    def test_one_of_several(self, folder: Path) -> None:
        Path("r.yaml").write_text("passes: [prune, fold, prune]")
        found = load_recipe(Path("r.yaml"), ["prune[1].sparsity=0.2"])
        assert (found.passes[0], found.passes[2]) == (Prune(), Prune(sparsity=0.2))
        with pytest.raises(ParamError, match=r"has 2 steps 'prune'; name one of them, as prune\[0\].sparsity"):
            load_recipe(Path("r.yaml"), ["prune.sparsity=0.2"])

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("prune", "--set prune: write it as PASS.OPTION=VALUE"),
            ("prune.=3", "write it as PASS.OPTION=VALUE"),
            ("prun.sparsity=0.2", "the recipe has no step 'prun'; it has prune, quantize, check, save; did you mean 'prune'?"),
            ("prune[1].sparsity=0.2", "the recipe has no step 'prune[1]'"),
            ("prune.sparsity=high", "passes[0].prune.sparsity: Input should be a valid number"),
            ("prune.sparsty=1", "did you mean 'sparsity'?"),
            ("prune.sparsity={", "it is not YAML"),
            ("dims=N=1", "'dims' is unknown; a recipe has"),
        ],
    )
    def test_what_cannot_be_set_is_one_line(self, run: Run, recipe: Path, setting: str, message: str) -> None:
        assert message in run.fails(2, "run", recipe, "in.onnx", "o.onnx", "--set", setting)


class TestSchema:
    @pytest.mark.parametrize(
        "text",
        [
            "passes: [fold, strip]",
            "{input_shape: 'x:1,3', dim: [N=1], data: d, test: t, preprocess: p.toml, labels: l.npy, passes: []}",
            "passes: [{prune: {sparsity_op: 0.5, only: [a]}}, {check: {min_sqnr: 3, fail_if: ['fps<30']}}, {save: m}]",
            "passes: [{save: {file: m}}, {annotate: }, {quantize: {data: d, target: cv22, activation_bits: 16}}]",
        ],
    )
    def test_it_accepts_what_a_recipe_may_say(self, text: str) -> None:
        jsonschema.validate(read_yaml(text), recipe_schema())

    @pytest.mark.parametrize(
        "text",
        [
            "passes: [flod]",
            "passes: [save]",
            "{pases: []}",
            "passes: [{prune: {sparsity_op: 2}}]",
            "passes: [{prune: {sparsityop: 0.5}}]",
            "passes: [{prune: {}, fold: {}}]",
            "passes: [{check: {max_drop: low}}]",
            "{passes: [], data: [d]}",
        ],
    )
    def test_it_refuses_what_a_recipe_may_not(self, text: str) -> None:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(read_yaml(text), recipe_schema())

    def test_it_is_a_schema_and_is_written(self, run: Run, folder: Path) -> None:
        jsonschema.Draft202012Validator.check_schema(recipe_schema())
        assert run("passes", "--schema", "s.json") == 0, run.err
        assert json.loads(Path("s.json").read_text()) == recipe_schema()
        assert run("passes", "--schema", "-") == 0
        assert json.loads(run.out) == recipe_schema()
