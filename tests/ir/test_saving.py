"""Saving from Python, and the names under which files are found."""

import json
from pathlib import Path

import pytest

from onnxsparse import ModelError, ParamError, load
from onnxsparse.ir.files import check_target, identity
from tests.commands import Run, files


def test_a_model_may_be_saved_onto_its_own_file(folder: Path) -> None:
    load("ext.onnx").save("ext.onnx")
    assert load("ext.onnx").weights["conv1.weight"].any()


@pytest.mark.parametrize("name", ["ext.bin", "link.bin", "d/../ext.bin"])
def test_a_model_is_not_saved_onto_its_weights(folder: Path, name: str) -> None:
    with pytest.raises(ParamError, match=r"ext.onnx keeps its weights there"):
        load("ext.onnx").save(name)
    assert load("ext.onnx").weights["conv1.weight"].any()


def test_external_data_is_not_written_where_it_would_not_be_found(folder: Path) -> None:
    """A link into another folder: readers look beside the link, and the file is beside what it leads to."""
    Path("d/real.onnx").touch()
    Path("far.onnx").symlink_to("d/real.onnx")
    with pytest.raises(ParamError, match=r"far.onnx: it is a link to .*d/real.onnx"):
        load("ext.onnx").save("far.onnx")
    assert files(folder / "d") == ["data.npy", "real.onnx"]
    load("in.onnx").save("far.onnx")
    assert load("d/real.onnx").weights["conv1.weight"].any()


def test_a_side_file_takes_no_name_that_is_about_to_be_written(run: Run, folder: Path) -> None:
    assert run("prune", "ext.onnx", "o.onnx", "--no-compare", "--record", "o.onnx.data") == 0
    assert json.loads(Path("o.onnx.data").read_text())["model"] == "ext.onnx"
    assert load("o.onnx").weights["conv2.weight"].any()


def test_a_name_as_long_as_names_may_be(folder: Path) -> None:
    load("in.onnx").save("n" * 255)
    assert load("n" * 255).weights["conv1.weight"].any()
    with pytest.raises(ModelError, match="File name too long"):
        load("in.onnx").save("n" * 256)


def test_a_name_that_no_file_can_have(folder: Path) -> None:
    with pytest.raises(ParamError, match="no file can have this name"):
        check_target(Path("a\0b"))


def test_files_are_the_same_under_every_name(folder: Path) -> None:
    assert len({identity(Path(name)) for name in ("in.onnx", "link.onnx", "hard.onnx", f"{folder}/d/../in.onnx")}) == 1
    assert identity(Path("new")) == identity(folder / "d" / ".." / "new") != identity(Path("in.onnx"))
