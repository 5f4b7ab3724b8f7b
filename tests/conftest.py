"""Fixtures of several test files."""

from pathlib import Path

import onnx
import pytest

from tests.commands import Run
from tests.graphs import chain


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(chain(3, 8, 16, 4), tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)
