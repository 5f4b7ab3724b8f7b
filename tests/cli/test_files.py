"""What commands read and write: never onto what is read, whole or not at all, and standard output under the name `-`."""

import errno
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxsparse import ModelError, load
from onnxsparse.ir.files import Staging
from tests.commands import Run, files


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


ONTO_THE_INPUT = [
    "prune in.onnx in.onnx",
    "prune in.onnx d/../in.onnx",
    "prune in.onnx link.onnx",
    "prune link.onnx in.onnx",
    "prune in.onnx hard.onnx",
    "prune ext.onnx ext.bin",
    "prune ext.onnx link.bin",
    "run r.yaml in.onnx in.onnx",
    "run r.yaml in.onnx link.onnx",
    "annotate in.onnx in.onnx",
    "strip in.onnx in.onnx",
    "fold in.onnx in.onnx",
    "fix-shapes in.onnx in.onnx",
    "quantize in.onnx in.onnx --data data.npy",
    "prune-channels in.onnx in.onnx",
]


@pytest.mark.parametrize("line", ONTO_THE_INPUT)
def test_writing_onto_the_input_needs_force(run: Run, folder: Path, line: str) -> None:
    before = contents(folder)
    assert "--force" in run.fails(2, *line.split())
    assert contents(folder) == before
    assert run(*line.split(), "--force", "--no-compare") == 0
    assert load(line.split()[-1 if line.startswith("run") else 2]).proto.graph.node


TAKEN = [
    "prune in.onnx o.onnx --record in.onnx",
    "prune in.onnx o.onnx --record hard.onnx",
    "prune in.onnx o.onnx --masks link.onnx",
    "prune ext.onnx o.onnx --masks ext.bin",
    "prune in.onnx o.onnx --record o.onnx",
    "prune in.onnx o.onnx --record m --masks ./m",
    "prune in.onnx o.onnx --data data.npy --record data.npy",
    "prune in.onnx o.onnx --data d --record d/data.npy",
    "prune in.onnx data.npy --data data.npy",
    "prune in.onnx o.onnx --exclude @names.txt --masks names.txt",
    "prune in.onnx names.txt --layer-sparsity @names.txt=0.5",
    "prune in.onnx in.onnx --force --record in.onnx",
    "prune-channels in.onnx o.onnx --backend mine.toml --json mine.toml",
    "prune-channels in.onnx o.onnx --calibration data.npy --json data.npy",
    "quantize in.onnx data.npy --data data.npy",
    "quantize in.onnx o.onnx --data data.npy --save-ranges r --diagnosis-json r",
    "annotate in.onnx --side-file in.onnx",
    "annotate in.onnx --backend mine.toml --side-file mine.toml",
    "run r.yaml in.onnx r.yaml",
    "run r.yaml in.onnx o.onnx --record r.yaml",
    "inspect in.onnx --json in.onnx",
    "inspect ext.onnx --json ext.bin",
    "compare in.onnx ext.onnx --json ext.bin",
    "compare in.onnx link.onnx --json hard.onnx",
    "compare in.onnx in.onnx --data data.npy --json data.npy",
    "report in.onnx --json in.onnx",
    "report ext.onnx --csv ext.bin",
    "report in.onnx --csv a --html a",
    "report in.onnx ext.onnx --markdown ext.onnx",
    "report in.onnx --hardware mine.toml --curve-csv mine.toml",
    "report in.onnx --csv - --markdown -",
    "prune in.onnx o.onnx --masks - --record -",
]


@pytest.mark.parametrize("line", TAKEN)
def test_a_file_is_read_or_written_and_by_one(run: Run, folder: Path, line: str) -> None:
    before = contents(folder)
    found = run.fails(2, *line.split())
    assert "what is written needs a file of its own" in found
    assert contents(folder) == before


def test_a_file_that_a_folder_gets_is_written_once(run: Run, folder: Path) -> None:
    """Which files --export writes is known only when they are made."""
    before = contents(folder)
    line = "quantize in.onnx o.onnx --data data.npy --export d --no-compare --record d/choices.json"
    assert "d/choices.json is named twice" in run.fails(2, *line.split())
    assert contents(folder) == before


@pytest.mark.parametrize(
    "line",
    [
        "prune in.onnx o.onnx --no-compare --record lamp",
        "prune in.onnx element --no-compare --masks soft",
        "prune-channels in.onnx l1 --no-compare --json group",
        "quantize in.onnx cv22 --no-compare --data data.npy --save-ranges mse --record crop",
        "annotate in.onnx --backend cv22 --side-file cv22",
        "report in.onnx --json cv22",
        "prune in.onnx conv0 --no-compare --exclude conv0",
    ],
)
def test_an_option_that_is_no_path_clashes_with_none(run: Run, folder: Path, line: str) -> None:
    before = contents(folder)
    assert run(*line.split()) == 0, run.err
    assert contents(folder).items() > before.items()


@pytest.mark.parametrize(
    ("line", "begins"),
    [
        ("report in.onnx --csv -", "node,op_type,macs,"),
        ("report in.onnx --markdown -", "# in.onnx on cv22\n"),
        ("report in.onnx --html -", "<!doctype html>"),
        ("report in.onnx --curve-csv -", "variant,channel_factor,"),
        ("report in.onnx --json=-", '{\n "schema": 1,\n "model": "in.onnx"'),
        ("report in.onnx ext.onnx --markdown -", "# in.onnx, ext.onnx on cv22\n"),
        ("report in.onnx ext.onnx --json -", '{\n "schema": 1,'),
        ("inspect in.onnx --json -", '{\n "schema": 1,\n "model": "in.onnx"'),
        ("compare in.onnx in.onnx --json -", '{\n "schema": 1,'),
        ("passes --json -", '[\n {\n  "name": "prune"'),
        ("annotate in.onnx --side-file -", '{\n "signature": "netron:attachment"'),
        ("prune in.onnx o.onnx --no-compare --record -", '{\n "schema": 1,\n "model": "in.onnx"'),
        ("prune-channels in.onnx --plan --json -", '{\n "schema": 1,\n "model": "in.onnx"'),
        ("quantize in.onnx --data data.npy --save-ranges -", '{\n "schema": 1,\n "method": "mse"'),
    ],
)
def test_a_hyphen_is_standard_output_alone(run: Run, folder: Path, line: str, begins: str) -> None:
    assert run(*line.split()) == 0
    assert run.out.startswith(begins)
    assert not (folder / "-").exists()
    if begins[0] in "{[":
        json.loads(run.out)


def test_masks_go_to_standard_output_as_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    with Staging() as staging:
        staging.write(Path("-"), lambda file: file.write(b"\xff\x00"))
    assert capsysbinary.readouterr().out == b"\xff\x00"
    text = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    with Staging() as staging:
        staging.write(Path("-"), lambda file: file.write(b"text"))
    assert text.getvalue() == "text"


def test_an_error_leaves_standard_output_empty(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match="too late"), Staging() as staging:
        staging.write(Path("-"), lambda file: file.write(b"text"))
        raise ModelError("too late")
    assert capsys.readouterr().out == ""


def test_a_model_does_not_go_to_standard_output(run: Run, folder: Path) -> None:
    assert run("prune", "in.onnx", "-") == 2
    assert not (folder / "-").exists()


WRITES = [
    "prune in.onnx {}",
    "prune in.onnx o.onnx --record {}",
    "prune in.onnx o.onnx --masks {}",
    "prune-channels in.onnx o.onnx --json {}",
    "quantize in.onnx o.onnx --data data.npy --save-ranges {}",
    "quantize in.onnx o.onnx --data data.npy --diagnosis-html {}",
    "annotate in.onnx --side-file {}",
    "inspect in.onnx --json {}",
    "compare in.onnx in.onnx --json {}",
    "report in.onnx --csv {}",
    "report in.onnx --html {}",
    "passes --json {}",
    "run r.yaml in.onnx {}",
    "run r.yaml in.onnx o.onnx --record {}",
]


@pytest.mark.parametrize("line", WRITES)
def test_a_file_that_cannot_be_is_refused_before_work_begins(
    run: Run, folder: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxsparse.pipeline.run.Pipeline.run", not_reached)
    monkeypatch.setattr("onnxsparse.cli.jobs.Sizes.load", not_reached)
    Path("pipe").unlink(missing_ok=True)
    os.mkfifo("pipe")
    for target, message in (
        ("d", "is a folder; name the file to write"),
        ("no/x", "does not exist"),
        ("in.onnx/x", "in.onnx is not a folder"),
        ("pipe", "it is a device or a pipe"),
        ("/dev/null", "it is a device or a pipe"),
    ):
        assert message in run.fails(2, *line.format(target).split())
    assert files(folder / "d") == ["data.npy"]


@pytest.mark.parametrize("line", WRITES)
@pytest.mark.parametrize(("flag", "message"), [(os.ST_RDONLY, "Read-only file system"), (0, "Permission denied")])
def test_a_folder_that_takes_no_files(
    run: Run, folder: Path, line: str, flag: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxsparse.cli.jobs.Sizes.load", not_reached)
    can_write: Callable[..., bool] = os.access
    status = type("Status", (), {"f_flag": flag})
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and can_write(path, mode))
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    before = contents(folder)
    assert message in run.fails(1, *line.format("x").split())
    assert contents(folder) == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("line", ["prune ext.onnx x --no-compare", "inspect in.onnx --json x", "report in.onnx --html x"])
def test_a_disk_that_refuses_leaves_what_was(
    run: Run, folder: Path, line: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where even the removal of what is not there fails, as on a read-only file system."""
    (folder / "x").write_bytes(b"precious")
    before = contents(folder)
    system_open = os.open

    def refuse(path: Path | str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise OSError(code, os.strerror(code))
        return system_open(path, flags, mode)

    def refuse_removal(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse_removal)
    assert f"cannot write {folder}/x: {os.strerror(code)}" in run.fails(1, *line.split()).replace("x.data", "x")
    assert contents(folder) == before


def test_standard_output_that_is_full(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert "No space left on device" in run.fails(1, "inspect", "in.onnx", "--json", "-")


def test_temporary_weights_that_find_no_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> io.BytesIO:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("onnxsparse.ir.weights.SPILL_BYTES", 0)
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    model = load("in.onnx")
    with pytest.raises(ModelError, match="temporary file: No space left on device"):
        model.weights["conv1.weight"] = np.zeros((16, 8, 3, 3), np.float32)


def not_reached(*_: object, **__: object) -> None:
    raise AssertionError("work began")
