"""A small model with data, and a search of it that has ended."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxsparse.search.api import Effort, run_search
from onnxsparse.search.budgets import Budget
from onnxsparse.search.front import Front
from onnxsparse.search.subject import Subject
from tests.graphs import chain
from tests.recovery.samples import inputs

MACS = 64 * 9 * (3 * 16 + 16 * 24 + 24 * 8)
"""Of the small model, which has 8x8 positions and 3x3 kernels."""


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A subject whose operations are to be halved and halved again."""
    folder = tmp_path_factory.mktemp("subject")
    onnx.save(chain(3, 16, 24, 8), folder / "in.onnx")
    np.save(folder / "calib.npy", inputs(60, "1x3x8x8"))
    return Subject(model=folder / "in.onnx", data=folder / "calib.npy", budgets=(Budget("nonzero_macs", MACS / 4),))


EFFORT = Effort(trials=17, jobs=1)
"""The grid and one generation, in this process."""


@pytest.fixture(scope="session")
def ended(small: Subject, tmp_path_factory: pytest.TempPathFactory) -> Front:
    """A search that ran without a break."""
    return run_search(small, tmp_path_factory.mktemp("ended") / "found", EFFORT)


@pytest.fixture
def copied(small: Subject, tmp_path: Path) -> Subject:
    """The same subject with files of its own."""
    for file in (small.model, small.data):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return replace(small, model=tmp_path / small.model.name, data=tmp_path / small.data.name)
