"""Recipes, records, and passes and ops from other packages."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import onnx
import pytest

from onnxsparse import Annotate, Model, ParamError, PassError, Pipeline, Prune, load
from onnxsparse.pipeline.base import StepReport
from onnxsparse.pipeline.recipe import load_recipe, parse_recipe
from tests.commands import Run, files
from tests.graphs import chain, node, proto

RECIPE = """
passes:
  - fold
  - prune: {sparsity_op: 0.7, layer_sparsity: ["conv0=0.2"], masks: MASKS}
  - annotate:
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("MASKS", str(tmp_path / "m.npz")))
    return path


def test_a_recipe_runs_and_writes_everything_together(run: Run, source: Path, recipe: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    assert run("run", recipe, source, tmp_path / "out.onnx", "--record", record) == 0
    assert files(tmp_path) == ["in.onnx", "m.npz", "out.onnx", "recipe.yaml", "record.json"]
    found = json.loads(record.read_text())
    assert found["schema"] == 1
    assert [step["pass"] for step in found["steps"]] == ["fold", "prune", "annotate"]
    assert set(found["versions"]) == {"onnxsparse", "onnx", "onnxruntime", "numpy", "python"}
    assert found["recipe"][1]["prune"]["score"] == "lamp"
    step = found["steps"][1]
    assert step["after"]["sparsity_op"] == pytest.approx(0.7, abs=0.01)
    assert step["before"]["sparsity_op"] == 0
    assert step["seconds"] > 0
    assert step["peak_memory_bytes"] > 1e6
    assert {change["tensor"] for change in step["changes"]} >= {"conv0.weight", "conv1.weight"}
    assert found["comparison"]["outputs"][0]["name"] == "y"
    assert load(tmp_path / "out.onnx").proto.graph.node[0].metadata_props


def test_a_failing_pass_leaves_nothing(run: Run, source: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"passes: [{{prune: {{masks: '{tmp_path}/m.npz'}}}}, {{prune: {{exclude: [nothing]}}}}]")
    assert "matches no layer" in run.fails(2, "run", tmp_path / "r.yaml", source, tmp_path / "out.onnx")
    assert files(tmp_path) == ["in.onnx", "r.yaml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("passes: [prune", "is not YAML"),
        ("- prune", "a recipe is a mapping with a list 'passes'"),
        ("passes: prune", "a recipe is a mapping with a list 'passes'"),
        ("passes: []\nspeed: 3", "'speed' is unknown; a recipe has passes, input_shape, dim"),
        ("passes: [prunes]", r"passes\[0\]: there is no pass 'prunes'"),
        ("passes: [fold, {prune: {sparsity_op: 2}}]", r"passes\[1\].prune.sparsity_op: Input should be less than 1 \(got 2\)"),
        ("passes: [prunes]", r"did you mean 'prune'\?"),
        ("passes: [prune_channels]", r"did you mean 'prune-channels'\?"),
        ("pases: [fold]", r"'pases' is unknown; .*did you mean 'passes'\?"),
        ("passes: [{prune: {sparsty: 0.5}}]", r"passes\[0\].prune.sparsty: .* no such option; did you mean 'sparsity'\?"),
        ("passes: [{prune: {sparsity-op: 0.5}}]", r"prune.sparsity-op: .*did you mean 'sparsity_op'\?"),
        ("passes: [{fold: {magic: 1}}]", r"fold.magic: .* it has constants, batch_norm, pads"),
        ("passes: [{strip: {magic: 1}}]", r"strip.magic: .* it has none"),
        ("passes: [fold]\npasses: [strip]", "line 2: 'passes' is in line 1 already"),
        ("passes: []\ndim: [N=1]\n'dim': [N=2]", "line 3: 'dim' is in line 2 already"),
        ("passes:\n- prune:\n    only: [a]\n    only: [b]", "line 4: 'only' is in line 3 already"),
        ("passes: [{prune: {sparsity: 0.5, sparsity: 0.7}}]", "line 1: 'sparsity' is in line 1 already"),
        ("passes: [{fold: {}, fold: {}}]", "'fold' is in line 1 already"),
        ("passes: []\nmore: {a: {b: 1, b: 2}}", "'b' is in line 2 already"),
        ("passes: [fold]\n---\npasses: [strip]", "another document"),
        ("passes: [fold]\nx: 2024-99-99", "is not YAML"),
        ("[" * 5000, "is not YAML"),
        ("passes: [{prune: 0.5}]", r"passes\[0\].prune: the options are a mapping"),
        ("passes: [{prune: {}, fold: {}}]", r"passes\[0\] is a pass's name"),
        ("passes: [apply-masks]", r"passes\[0\].apply-masks.masks: this option has to be given"),
        ("passes: []\ndim: 3", "dim is a list of texts"),
    ],
)
def test_a_wrong_recipe_is_refused_before_the_model_is_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ParamError, match=message):
        load_recipe(tmp_path / "r.yaml")


def test_keys_that_overrule_merged_ones_are_no_duplicates(tmp_path: Path) -> None:
    text = "passes:\n- prune: &mild {sparsity: 0.5, scope: layer}\n- prune: &strong {<<: *mild, sparsity: 0.7}\n- prune: *strong"
    (tmp_path / "r.yaml").write_text(text)
    found = load_recipe(tmp_path / "r.yaml").passes
    assert found == (Prune(sparsity=0.5, scope="layer"), *[Prune(sparsity=0.7, scope="layer")] * 2)


def test_a_missing_recipe_is_said(run: Run, source: Path, tmp_path: Path) -> None:
    assert "No such file" in run.fails(2, "run", "none.yaml", source, tmp_path / "out.onnx")


def test_sizes_in_a_recipe() -> None:
    assert parse_recipe({"passes": [], "input_shape": "x:1,3", "dim": ["N=1"]}).input_shape == ("x:1,3",)


class Breaking:
    """A pass that leaves a broken model."""

    name: ClassVar[str] = "breaking"
    changes_outputs: ClassVar[bool] = True

    def run(self, model: Model) -> StepReport:
        del model.proto.graph.node[0]
        return StepReport(self.name)


def test_the_pass_that_broke_the_model_is_named() -> None:
    built = Model.from_proto(chain(3, 8, 4))
    with pytest.raises(PassError, match=r"pass 'breaking' broke the model: .*conv0"):
        Pipeline([Prune(sparsity_op=0.3), Breaking(), Annotate()]).run(built)


def test_a_model_that_was_unsound_before_is_not_blamed_on_a_pass() -> None:
    built = chain(3, 8, 4)
    built.graph.output[0].type.ClearField("tensor_type")
    report = Pipeline([Annotate()]).run(Model.from_proto(built))
    assert "onnx's checker rejects the input" in report.notes[0]


def test_passes_lists_options_for_people_and_machines(run: Run) -> None:
    assert run("passes") == 0
    assert "sparsity_op" in run.out
    assert run("passes", "--json", "-") == 0
    found = {p["name"]: p for p in json.loads(run.out)}
    assert found["prune"]["options"]["properties"]["sparsity_op"]["description"].startswith("Share of the weights' operations")


PLUGIN = '''
from typing import ClassVar
from pydantic.dataclasses import dataclass
from onnxsparse.ops import OpSpec, ShapeRules, WeightAxes, WeightSlot
from onnxsparse.pipeline.base import OPTIONS, StepReport

@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Stamp:
    """Write a word into the model's doc string."""

    name: ClassVar[str] = "stamp"
    changes_outputs: ClassVar[bool] = False
    word: str = "hello"
    """What to write."""

    def run(self, model):
        model.proto.doc_string = self.word
        return StepReport(self.name)

def macs(op):
    return op.input(0)[0] * op.input(1)[0] * op.input(1)[1]

SLOT = WeightSlot(at=1, axes=lambda op: WeightAxes(output=1, input=0))
SPECS = (
    OpSpec(op_type="Mystery", domain="acme", macs=macs, weights=(SLOT,), shape=ShapeRules(infer=lambda op: op.input(0))),
)
'''


@pytest.fixture
def with_plugin(tmp_path: Path) -> dict[str, str]:
    """An environment in which a package `toy` with a pass and an op is installed."""
    site = tmp_path / "site"
    (site / "toy-1.0.dist-info").mkdir(parents=True)
    (site / "toy.py").write_text(PLUGIN)
    (site / "toy-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    points = "[onnxsparse.passes]\nstamp = toy:Stamp\n[onnxsparse.ops]\ntoy = toy:SPECS\n"
    (site / "toy-1.0.dist-info" / "entry_points.txt").write_text(points)
    return {**os.environ, "PYTHONPATH": str(site)}


def command(env: dict[str, str], *arguments: object) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-c", "from onnxsparse.cli.app import run; run()", *map(str, arguments)]
    return subprocess.run(line, env=env, capture_output=True, text=True, check=False)


def test_a_pass_of_another_package_is_a_command_and_a_recipe_step(
    source: Path, tmp_path: Path, with_plugin: dict[str, str]
) -> None:
    assert "stamp" in command(with_plugin, "--help").stdout
    done = command(with_plugin, "stamp", source, tmp_path / "o.onnx", "--word", "mine")
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "o.onnx").proto.doc_string == "mine"
    (tmp_path / "r.yaml").write_text("passes: [stamp]")
    assert command(with_plugin, "run", tmp_path / "r.yaml", source, tmp_path / "o.onnx").returncode == 0
    assert load(tmp_path / "o.onnx").proto.doc_string == "hello"


def test_an_op_of_another_package_counts_and_is_pruned(tmp_path: Path, with_plugin: dict[str, str]) -> None:
    nodes = [node("Mystery", "x w", "h", domain="acme"), node("MatMul", "h v", "y")]
    onnx.save(proto(nodes, {"x": "4x8"}, ["y"], {"w": "8x8", "v": "8x8"}, domains={"acme": 1}), tmp_path / "in.onnx")
    done = command(with_plugin, "inspect", tmp_path / "in.onnx", "--json", "-")
    facts = json.loads(done.stdout)
    assert facts["unknown_ops"] == []
    assert facts["totals"]["macs"] == 2 * 4 * 8 * 8
    assert command(with_plugin, "prune", tmp_path / "in.onnx", tmp_path / "o.onnx", "--protect", "none").returncode == 0
    assert (load(tmp_path / "o.onnx").weights["w"] == 0).any()


def test_an_op_in_onnxs_own_domain_is_refused(source: Path, tmp_path: Path, with_plugin: dict[str, str]) -> None:
    plugin = tmp_path / "site" / "toy.py"
    plugin.write_text(PLUGIN.replace('domain="acme", ', ""))
    done = command(with_plugin, "inspect", source)
    assert done.returncode == 2
    assert "the ops of toy (entry point 'toy') must be OpSpecs of its own domains" in done.stderr
