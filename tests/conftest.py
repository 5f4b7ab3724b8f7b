"""Fixtures of several test files."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxsparse
from tests.commands import Run
from tests.dask_processes import Scheduler
from tests.graphs import chain


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of passes that a test keeps are found by no other test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(chain(3, 8, 16, 4), tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[Scheduler]:
    """A Dask scheduler without workers."""
    found = Scheduler(tmp_path)
    yield found
    for process in found.processes:
        process.kill()
        process.wait()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with models, other names that lead to them, and files of every kind to read."""
    monkeypatch.chdir(tmp_path)
    onnx.save(chain(3, 8, 16, 4), "in.onnx")
    onnx.save(chain(3, 8, 16, 4), "ext.onnx", save_as_external_data=True, location="ext.bin", size_threshold=0)
    Path("link.onnx").symlink_to("in.onnx")
    Path("hard.onnx").hardlink_to("in.onnx")
    Path("link.bin").symlink_to("ext.bin")
    Path("d").mkdir()
    Path("full").mkdir()
    Path("full/sample_0.npy").touch()
    for name in ("data.npy", "d/data.npy"):
        np.save(name, np.zeros((2, 3, 8, 8), np.float32))
    np.save("other.npy", np.zeros((2, 5), np.float32))
    Path("r.yaml").write_text("passes: [fold]")
    Path("names.txt").write_text("conv0\n")
    Path("text.txt").write_text("hello\n")
    Path("bad.txt").write_text("conv0\nre:[\n")
    Path("mine.toml").write_bytes((Path(onnxsparse.__file__).parent / "targets" / "cv22.toml").read_bytes())
    return tmp_path
