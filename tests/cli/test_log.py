"""--log json: every line on stderr is one JSON object, from the start of a command to its exit code."""

import json
from pathlib import Path

import pytest

from tests.commands import Run


def events(run: Run) -> list[dict[str, object]]:
    return [json.loads(line) for line in run.err.splitlines()]


def test_the_steps_of_a_run(run: Run, folder: Path) -> None:
    Path("r.yaml").write_text("passes: [fold, prune, {check: {min_sqnr: -50}}]")
    assert run("run", "r.yaml", "in.onnx", "o.onnx", "--no-cache", "--log", "json") == 0
    found = events(run)
    assert (found[0]["event"], found[-1]["event"], found[-1]["exit_code"]) == ("started", "finished", 0)
    steps = [event for event in found if event["event"] == "step"]
    assert [(step["step"], step["reused"], step["passed"]) for step in steps] == [
        ("fold", False, None), ("prune", False, None), ("check", False, True)
    ]  # fmt: skip
    assert all(isinstance(step["seconds"], float) for step in steps)
    assert [event["what"] for event in found if event["event"] == "progress"][:2] == ["fold", "prune"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("run r.yaml in.onnx o.onnx --set fold.x=1", 2, "r.yaml: passes[0].fold.x: the pass has no such option"),
        ("prune none.onnx o.onnx", 1, "cannot read none.onnx"),
        ("prune in.onnx o.onnx --sparsity-opp 1", 2, "--sparsity-opp"),
        ("compare in.onnx in.onnx --min-sqnr inf --data other.npy", 1, "--data other.npy"),
    ],
)
def test_an_error_is_an_event(run: Run, folder: Path, arguments: str, code: int, message: str) -> None:
    assert run("--log=json", *arguments.split()) == code
    (failed,) = [event for event in events(run) if event["event"] == "failed"]
    assert failed["exit_code"] == code
    assert message in str(failed["message"])


def test_a_failed_gate_is_an_event(run: Run, folder: Path) -> None:
    assert run("run", "r.yaml", "in.onnx", "o.onnx", "--min-sqnr", "1e9", "--log", "json") == 0, "fold changes nothing"
    Path("r.yaml").write_text("passes: [prune]")
    assert run("run", "r.yaml", "in.onnx", "o.onnx", "--min-sqnr", "200", "--log", "json") == 1
    assert [event["event"] for event in events(run)][-2:] == ["failed", "finished"]


def test_people_get_text_again_afterwards(run: Run, folder: Path) -> None:
    assert run("prune", "none.onnx", "o.onnx", "--log", "json") == 1
    assert run.fails(1, "prune", "none.onnx", "o.onnx") == "onnxsparse: cannot read none.onnx: No such file or directory\n"


def test_other_formats_are_refused(run: Run) -> None:
    assert "--log xml: the formats are text and json" in run.fails(2, "inspect", "a", "--log", "xml")
