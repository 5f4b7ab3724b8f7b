"""What commands do with any pass, by the types and values that it declares; and how its help is shown."""

from pathlib import Path
from typing import ClassVar

import pytest
from pydantic.dataclasses import dataclass

from onnxsparse import Model
from onnxsparse.cli import pipeline_commands as commands
from onnxsparse.cli.jobs import CustomOps, Job, Running, Saving, Sizes, run_passes
from onnxsparse.pipeline.base import OPTIONS, StepReport
from onnxsparse.pipeline.learning import Judging
from onnxsparse.pipeline.registry import BUILT_IN, Entry, passes
from tests.commands import Run


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Toy:
    """A pass of another package."""

    name: ClassVar[str] = "toy"
    changes_outputs: ClassVar[bool] = False

    data: str = ""
    """Text that the pass keeps for itself, whose explanation takes more than one line of a docstring, so that help has to join
    the lines."""
    advice: str = "rest a while"
    """Advice to print."""
    shrank: bool = False
    """Whether the model counts as smaller."""

    def run(self, model: Model) -> StepReport:
        return StepReport(self.name, advice=self.advice, shrank=self.shrank)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {**BUILT_IN, "toy": Entry("tests.cli.test_declared_passes:Toy", "A pass of another package.")}
    for module in ("onnxsparse.pipeline.registry", "onnxsparse.cli.pipeline_commands", "onnxsparse.cli.app"):
        monkeypatch.setattr(f"{module}.passes", lambda: found)


def test_an_option_of_a_pass_replaces_one_of_running_with_its_name(run: Run, folder: Path, toy: None) -> None:
    assert run("toy", "in.onnx", "o.onnx", "--data", "no file") == 0, run.err
    assert commands.pass_command("toy").__annotations__["running"] is CustomOps
    assert commands.pass_command("quantize").__annotations__["running"] is CustomOps
    assert commands.pass_command("fold").__annotations__["running"] is Running


def test_help_joins_the_lines_of_a_docstring(run: Run, toy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert run("toy", "--help") == 0
    assert "so that help has to join the lines." in run.out


@pytest.mark.parametrize("name", passes())
def test_no_line_of_help_has_an_indent_of_its_own(run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Texts of options wrap in one column at 80 characters."""
    monkeypatch.setenv("COLUMNS", "80")
    assert run(name, "--help") == 0
    lines = run.out.splitlines()
    column = next(line.index("Sizes of an input") for line in lines if "--input-shape STR" in line)
    continued = [line for line in lines if line.startswith("│") and not line[1:column].strip()]
    assert continued
    assert not [line for line in continued if line[column] == " "]


@pytest.mark.parametrize(
    ("steps", "told"),
    [([Toy()], 1), ([Toy(), Toy()], 1), ([Toy(), Toy(advice="or sleep")], 2), ([Toy(), Toy(shrank=True)], 0)],
    ids=["once", "no advice twice", "each advice", "none for a smaller model"],
)
def test_advice_is_for_models_that_nothing_has_shrunk(
    folder: Path, capsys: pytest.CaptureFixture[str], steps: list[Toy], told: int
) -> None:
    run_passes("run", steps, Job(Path("in.onnx"), Path("o.onnx"), Sizes(), Saving(check=False), Judging()))
    out = capsys.readouterr().out
    assert ("rest a while" in out) + ("or sleep" in out) == told == out.count("rest a while") + out.count("or sleep")
