"""Data to learn from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.recovery.samples import inputs


@pytest.fixture
def data(tmp_path: Path) -> Callable[[str], Path]:
    def write(shape: str) -> Path:
        np.save(tmp_path / "calib.npy", inputs(100, shape))
        return tmp_path / "calib.npy"

    return write
