"""The pass of examples/finetune_pass: an entry point, zeros that stay, one line for arrays that do not fit. No torch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from examples.finetune_pass.onnxsparse_finetune import Finetune
from onnxsparse import Model, ParamError, Prune, layers, load
from tests.graphs import chain

PACKAGE = Path(__file__).parents[2] / "examples" / "finetune_pass"

FUNCTIONS = """
def add_one(session, weights, masks):
    assert set(masks) < set(weights), "biases have no masks"
    assert session.get_inputs()
    return {name: array + 1 for name, array in weights.items()}

def nothing(session, weights, masks):
    return None

def unknown(session, weights, masks):
    return {"w9": next(iter(weights.values()))}

def another_shape(session, weights, masks):
    return {name: array[:1] for name, array in weights.items()}

def diverged(session, weights, masks):
    return {name: array * float("nan") for name, array in weights.items()}

def same(session, weights, masks):
    return weights
"""


@pytest.fixture(autouse=True)
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.py").write_text(FUNCTIONS)


def test_zeros_stay_and_all_else_is_trained() -> None:
    model = Model.from_proto(chain(3, 8, 16, 4))
    Prune(sparsity_op=0.6).run(model)
    before = model.copy()
    report = Finetune(function="f.py:add_one").run(model)
    assert report.before == report.after
    assert {change.tensor for change in report.changes} == {name for layer in layers(model) for name in layer.tensors}
    for name in before.weights:
        held = before.weights[name]
        is_weight = held.ndim > 1
        assert np.array_equal(model.weights[name], np.where((held != 0) | (not is_weight), held + 1, 0))


def test_a_function_that_changes_nothing_is_told() -> None:
    (note,) = Finetune(function="f.py:same").run(Model.from_proto(chain(3, 4))).notes
    assert note.startswith("nothing changed")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "returned a value of type NoneType; return name → array"),
        ("unknown", "returned 'w9', which is no tensor of floats in the model"),
        ("another_shape", r"'conv0.weight' is \[1, 3, 3, 3\], and in the model \[4, 3, 3, 3\]"),
        ("diverged", "'conv0.weight' has values that are no finite floats"),
        ("missing", "f.py has no function 'missing'"),
    ],
)
def test_what_does_not_fit_is_one_line(name: str, message: str) -> None:
    with pytest.raises(ParamError, match=message):
        Finetune(function=f"f.py:{name}").run(Model.from_proto(chain(3, 4)))


def test_it_is_a_step_of_recipes_once_it_is_installed(tmp_path: Path) -> None:
    site = tmp_path / "site" / "onnxsparse_finetune-0.1.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxsparse-finetune\nVersion: 0.1.0\n")
    (site / "entry_points.txt").write_text("[onnxsparse.passes]\nfinetune = onnxsparse_finetune:Finetune\n")
    assert 'finetune = "onnxsparse_finetune:Finetune"' in (PACKAGE / "pyproject.toml").read_text()
    onnx.save(chain(3, 8, 16, 4), "in.onnx")
    rounds = [f"- prune: {{sparsity_op: {target}}}\n- finetune: {{function: 'f.py:add_one'}}\n" for target in (0.3, 0.5)]
    Path("r.yaml").write_text("passes:\n" + "".join(rounds))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site.parent), str(PACKAGE)])}
    line = [sys.executable, "-c", "from onnxsparse.cli.app import run; run()", "run", "r.yaml", "in.onnx", "out.onnx"]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (layers(load("out.onnx")).totals.sparsity_op or 0) >= 0.5
