"""Targets: one file a device with a section for each use, older files, and the older names of the option."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from onnxsparse import Annotate, ParamError
from onnxsparse.cost.backends.hardware import load_hardware
from onnxsparse.cost.registry import backend_names
from onnxsparse.passes.prune_channels import PruneChannels
from onnxsparse.passes.report import Report
from onnxsparse.pipeline.recipe import parse_recipe
from onnxsparse.quantization.plan.target import load_target
from onnxsparse.targets.files import names_with, read, shipped_names
from tests.commands import Run

COST_ONLY = """
format = 1
name = "mine"
[cost]
kind = "roofline"
numbers = { peak_gmac_per_s = 10, bandwidth_gb_per_s = 1, channel_alignment = 4 }
"""

INTEGERS_ONLY = """
format = 1
name = "mine"
[quantization]
integer_ops = ["Conv"]
"""


def without_sections(name: str, section: str) -> str:
    """A shipped target as a file of the time before sections."""
    import tomli_w

    content = tomllib.loads(read(name))
    kind = {"kind": "quantization"} if section == "quantization" else {}
    return tomli_w.dumps({"format": 1, "name": name, **kind, **content[section]})


def test_each_shipped_target_has_the_sections_it_is_listed_under() -> None:
    assert names_with("cost") == ("cv22", "cv22-skiplimit", "cv22-stream", "nvidia-a100", "roofline")
    assert names_with("quantization") == ("cv22", "onnxruntime-x86", "onnxruntime-x86-avx2")
    assert set(shipped_names()) == {*names_with("cost"), *names_with("quantization")}


@pytest.mark.parametrize("name", names_with("cost"))
def test_a_cost_file_without_sections_says_the_same(tmp_path: Path, name: str) -> None:
    (tmp_path / "old.toml").write_text(without_sections(name, "cost"))
    assert load_hardware(tmp_path / "old.toml") == load_hardware(name)


@pytest.mark.parametrize("name", names_with("quantization"))
@pytest.mark.parametrize("kind", ['kind = "quantization"\n', ""])
def test_a_quantization_file_without_sections_says_the_same(tmp_path: Path, name: str, kind: str) -> None:
    text = without_sections(name, "quantization").replace('kind = "quantization"\n', kind)
    (tmp_path / "old.toml").write_text(text)
    assert load_target(str(tmp_path / "old.toml")) == load_target(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (COST_ONLY + "[other]", "mine.toml: other: Unexpected keyword argument; a file has format, name, cost, quantization"),
        (COST_ONLY.replace('name = "mine"', 'quantization = 3\nname = "mine"'), "quantization: Input should be a table"),
        (COST_ONLY.replace("peak_gmac_per_s", "peak"), "mine.toml: cost.numbers.peak: Unexpected keyword argument"),
        (COST_ONLY.replace('name = "mine"', ""), "mine.toml: name: Field required"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ParamError) as caught:
        load_hardware(tmp_path / "mine.toml")
    assert message in str(caught.value)


NEEDS_COST = "no [cost] section, which report, annotate, view, prune-channels and calibrate-backend need; cv22"
NEEDS_INTEGERS = "no [quantization] section, which quantize and compare need; cv22"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("report in.onnx --target onnxruntime-x86", NEEDS_COST),
        ("annotate in.onnx o.onnx --target integers.toml", NEEDS_COST),
        ("view in.onnx --target onnxruntime-x86", NEEDS_COST),
        ("prune-channels in.onnx o.onnx --target onnxruntime-x86", NEEDS_COST),
        ("calibrate-backend m.csv --out o.toml --target onnxruntime-x86", NEEDS_COST),
        ("quantize in.onnx o.onnx --data data.npy --target roofline", NEEDS_INTEGERS),
        ("quantize in.onnx o.onnx --data data.npy --target cost.toml", NEEDS_INTEGERS),
        ("compare in.onnx in.onnx --target cv22-stream", NEEDS_INTEGERS),
        ("compare in.onnx in.onnx --target integers.toml --json integers.toml", "is named twice, to read and to write"),
    ],
)
def test_a_target_without_a_section_says_which_commands_need_it(run: Run, folder: Path, line: str, message: str) -> None:
    Path("cost.toml").write_text(COST_ONLY)
    Path("integers.toml").write_text(INTEGERS_ONLY)
    Path("m.csv").write_text("model,latency_ms\nin.onnx,1\n")
    assert message in run.fails(2, *line.split())


@pytest.mark.parametrize(
    "line",
    [
        "report in.onnx {option} roofline --json o.json",
        "annotate in.onnx {option} roofline --side-file o.json",
        "prune-channels in.onnx {option} roofline --plan --json o.json",
    ],
)
def test_the_older_name_of_the_option_does_the_same(run: Run, folder: Path, line: str) -> None:
    made = []
    for option in ("--target", "--backend"):
        assert run(*line.format(option=option).split()) == 0, run.err
        made.append(Path("o.json").read_text())
    assert made[0] == made[1]


@pytest.mark.parametrize("command", ["report", "annotate", "prune-channels", "view", "calibrate-backend", "quantize", "compare"])
def test_help_shows_the_new_name_and_the_targets_there_are(run: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert run(command, "--help") == 0
    assert "--target" in run.out
    assert "--backend" not in run.out and "--hardware" not in run.out
    names = {"quantize": names_with("quantization"), "compare": names_with("quantization")}.get(command, names_with("cost"))
    assert f"{', '.join(names)}, or" in run.out or f"{', '.join(backend_names())}, or" in run.out


def test_recipes_and_python_take_the_older_names() -> None:
    older = parse_recipe({"passes": [{"annotate": {"backend": "cv22"}}, {"report": {"backend": "roofline", "csv": "x"}}]})
    assert older.passes == (Annotate(backend="cv22"), Report(backend="roofline", csv=Path("x")))
    assert Report(backend="roofline").find_backend() == Report(target="roofline").find_backend()
    assert parse_recipe({"passes": [{"annotate": {"target": "cv22"}}]}).passes == (Annotate(target="cv22"),)


@pytest.mark.parametrize(
    "step",
    [
        Report(target="roofline", backend="cv22-stream", fail_if=("latency_ms>1",)),
        Annotate(target="roofline", backend="cv22"),
        PruneChannels(target="roofline", backend="cv22"),
    ],
)
def test_two_targets_are_refused(step: Report | Annotate | PruneChannels) -> None:
    with pytest.raises(ParamError, match=f"{step.name}: --target roofline and --backend cv22.* are two targets; name one"):
        step.check()


def test_a_fitted_target_keeps_its_other_section(run: Run, folder: Path) -> None:
    Path("m.csv").write_text("model,latency_ms\n" + "in.onnx,1\n" * 3)
    assert run("calibrate-backend", "m.csv", "--out", "o.toml", "--free", "overhead_us") == 0, run.err
    assert (load_hardware("o.toml").name, load_target("o.toml").integer_ops) == ("o", load_target("cv22").integer_ops)
    assert load_hardware("o.toml").numbers.overhead_us.status == "calibrated"


def test_compare_runs_a_file_as_this_processor_does_unless_it_is_for_another_device(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save("calib.npy", np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32))
    assert run("quantize", "in.onnx", "int8.onnx", "--data", "calib.npy", "--no-compare") == 0
    tried: list[str] = []

    def note(*_: object) -> None:
        tried.append("here")
        raise AssertionError

    monkeypatch.setattr("onnxsparse.cli.compare_commands.run_here", note)
    assert run("compare", "in.onnx", "int8.onnx", "--target", "cv22", "--json", "-") == 0
    assert json.loads(run.out)["outputs"]
    assert not tried
    for options in ([], ["--target", "onnxruntime-x86"]):
        with pytest.raises(AssertionError):
            run("compare", "in.onnx", "int8.onnx", *options)
    assert tried == ["here", "here"]
