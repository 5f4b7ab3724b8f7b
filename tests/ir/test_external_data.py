"""External data: read where onnxruntime reads it, and nowhere else.

Every case is a small file tree, written down by hand, and whether the model in it may read its data; onnxruntime is asked too.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnxruntime import InferenceSession

from onnxsparse import ModelError, load
from tests.commands import Run
from tests.graphs import node, proto

VALUES = np.arange(400, dtype=np.float32)


def model_at(location: str) -> bytes:
    """`y = x + w`, with the data of `w` at `location`."""
    built = proto([node("Add", "x w", "y")], {"x": "400"}, ["y"], {"w": VALUES})
    tensor = built.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return built.SerializeToString()


def make(root: Path, tree: str) -> Path:
    """Build `tree` below `root`: `NAME data`, `NAME model LOCATION`, `NAME -> LINK` or `NAME folder`, with commas between them.

    Returns the path of the last entry, the model to load. `ROOT` stands for the root.
    """
    path = root
    for entry in tree.replace("ROOT", str(root)).split(", "):
        name, kind, *rest = entry.split(" ")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "data":
            path.write_bytes(VALUES.tobytes())
        elif kind == "model":
            path.write_bytes(model_at(rest[0] if rest else ""))
        elif kind == "->":
            path.symlink_to(rest[0])
        else:
            path.mkdir()
    return path


def onnxruntime_loads(path: Path) -> bool:
    try:
        InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


HUGGING_FACE = (
    "blobs/1 model a.onnx_data, blobs/2 data, snapshots/r/a.onnx_data -> ../../blobs/2, snapshots/r/a.onnx -> ../../blobs/1"
)

INSIDE = [
    "m/w data, m/a.onnx model w",
    "m/sub/w data, m/a.onnx model sub/w",
    "m/w data, m/a.onnx model ./w",
    "m/sub folder, m/w data, m/a.onnx model sub/../w",
    "m/w data, m/a.onnx model ../m/w",  # out and in again
    "m/real data, m/w -> real, m/a.onnx model w",
    "m/sub/real data, m/w -> sub/real, m/a.onnx model w",
    "real/w data, real/a.onnx model w, link -> real, link/../link/a.onnx model w",
    HUGGING_FACE,
    HUGGING_FACE.replace("snapshots/r/", "snapshots/r/onnx/").replace("../../blobs", "../../../blobs"),
    "blobs/1 model data/w, blobs/2 data, snapshots/r/data/w -> ../../../blobs/2, snapshots/r/a.onnx -> ../../blobs/1",
    "blobs/1 model w, blobs/sub/2 data, snapshots/r/w -> ../../blobs/sub/2, snapshots/r/a.onnx -> ../../blobs/1",
    "blobs/1 model w, snapshots/r/w data, snapshots/r/a.onnx -> ../../blobs/1",  # the data is no link
    "blobs/1 model ../../blobs/2, blobs/2 data, snapshots/r/a.onnx -> ../../blobs/1",
    "blobs/1 model w, blobs/2 data, b/w -> ../blobs/2, b/a.onnx -> ../blobs/1, t/w -> ../b/w, t/a.onnx -> ../b/a.onnx",
]

OUTSIDE = [
    "w data, m/a.onnx model ../w",
    "m2/w data, m/a.onnx model ../m2/w",  # the same beginning is not the same folder
    "m/w data, m/a.onnx model ROOT/m/w",
    "w data, m/a.onnx model ROOT/w",
    "m/a.onnx model",
    "m/a.onnx model .",
    "m/sub folder, m/a.onnx model sub",
    "m/w data, m/a.onnx model w/",
    "m/w data, m/a.onnx model sub/../w",  # there is no sub
    "real data, m/w -> ../real, m/a.onnx model w",
    "m/w -> /etc/services, m/a.onnx model w",
    "m/w -> /dev/zero, m/a.onnx model w",
    "other/w data, m/sub -> ../other, m/a.onnx model sub/w",
    "other/deep folder, other/w data, m/w data, m/sub -> ../other/deep, m/a.onnx model sub/../w",
    "blobs/2 data, snapshots/r/w -> ../../blobs/2, snapshots/r/a.onnx model w",  # the model is no link
    "blobs/1 model w, secret data, snapshots/r/w -> ../../secret, snapshots/r/a.onnx -> ../../blobs/1",
    "M/blobs/1 model w, N/blobs/2 data, M/s/r/w -> ../../../N/blobs/2, M/s/r/a.onnx -> ../../blobs/1",
    "real/w data, real/a.onnx model w, link/a.onnx -> ../real/a.onnx",  # looked for beside the link
    "blobs/1 model w, b/w data, b/a.onnx -> ../blobs/1, t/w -> ../b/w, t/a.onnx -> ../b/a.onnx",
    "m/w -> nowhere, m/a.onnx model w",
    "m/w -> w, m/a.onnx model w",
    "m/a.onnx model w",
]


@pytest.mark.parametrize("tree", INSIDE)
def test_data_that_onnxruntime_reads_is_read(tree: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path.resolve(), tree)
    assert onnxruntime_loads(path)
    assert np.array_equal(load(path).weights["w"], VALUES)
    monkeypatch.chdir(path.parent)
    assert np.array_equal(load(path.name).weights["w"], VALUES)


@pytest.mark.parametrize("tree", OUTSIDE)
def test_data_that_onnxruntime_refuses_is_refused(tree: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path.resolve(), tree)
    assert not onnxruntime_loads(path)
    for given in (path, Path(path.name)):
        with pytest.raises(ModelError, match="tensor 'w': external data"):
            load(given).weights["w"]
        monkeypatch.chdir(path.parent)


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(model_at("w\0"))
    with pytest.raises(ModelError, match="it is not a file name"):
        load(tmp_path / "a.onnx").weights["w"]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w")
    (tmp_path / "a.onnx").write_bytes(model_at("w"))
    for path, what in ((tmp_path / "a.onnx", "external data file"), (tmp_path / "w", "cannot read")):
        code = f"from onnxsparse import load; load({str(path)!r}).weights['w']"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert what in done.stderr
        assert "not a regular file" in done.stderr


def test_data_that_another_model_reads_outlives_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both models read `out.onnx.data`, and are named from their folder."""
    make(tmp_path, "out.onnx.data data, in.onnx model out.onnx.data, out.onnx model out.onnx.data")
    monkeypatch.chdir(tmp_path)
    load("in.onnx").save("out.onnx")
    assert np.array_equal(load("in.onnx").weights["w"], VALUES)
    assert np.array_equal(load("out.onnx").weights["w"], VALUES)
    assert onnx.load("out.onnx").graph.initializer[0].raw_data == VALUES.tobytes()


def test_a_model_in_a_hugging_face_cache_goes_through_every_command(run: Run, tmp_path: Path) -> None:
    path = make(tmp_path, HUGGING_FACE)
    cache = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert run("inspect", path) == 0
    assert run("fold", path, tmp_path / "out.onnx") == 0
    assert run("compare", path, tmp_path / "out.onnx", "--min-sqnr", "100") == 0
    assert {p: p.read_bytes() for p in cache} == cache
    assert onnxruntime_loads(tmp_path / "out.onnx")


def test_a_cache_is_not_written_into(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data beside the blob would not be found beside the link: said before work begins, also with --force."""
    path = make(tmp_path, HUGGING_FACE)
    monkeypatch.setattr("onnxsparse.pipeline.run.Pipeline.run", lambda *_: pytest.fail("work began"))
    assert "--force" in run.fails(2, "fold", path, path)
    assert "--force" in run.fails(2, "fold", path, tmp_path / "blobs" / "2")
    assert "it is a link to" in run.fails(2, "fold", path, path, "--force")
    assert (tmp_path / "blobs" / "2").read_bytes() == VALUES.tobytes()
