"""Functions that tests give to workers; other processes import them by name."""

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from onnxsparse.parallel.dask_cluster import Versions
from onnxsparse.parallel.files import below

HERE = Versions("code", ("numpy 1", "onnx 2"))


def here() -> Versions:
    """The versions of a worker that fits."""
    return HERE


def elsewhere() -> Versions:
    """The versions of a worker with another numpy."""
    return Versions("code", ("numpy 3", "onnx 2"))


def square(job: int, _failures: int) -> int:
    """A job that always ends."""
    return job * job


def slow_square(job: int, _failures: int) -> int:
    """A job that takes a while."""
    time.sleep(0.3)
    return job * job


def killed(_job: int, _failures: int) -> int:
    """A job that ends its process."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def wait(job: Path, _failures: int) -> None:
    """A job that takes long: `begun` in the folder is there while it lasts, `ended` if it was left alone."""
    (job / "begun").touch()
    try:
        time.sleep(30)
        (job / "ended").touch()
    finally:
        (job / "begun").unlink()


def refuse(job: int, _failures: int) -> int:
    """A job that raises for the number 2."""
    if job == 2:
        raise ValueError("two is refused")
    return job


@dataclass(frozen=True)
class Leaving:
    """A mark on disk, for a job that is to end its worker the first time only."""

    mark: Path
    number: int


def die_once(job: Leaving, _failures: int) -> int:
    """A job that kills its worker the first time."""
    if job.number == 1 and not job.mark.exists():
        job.mark.touch()
        os._exit(1)
    return job.number


def greedy(job: int, failures: int) -> tuple[int, int]:
    """A job that exceeds any memory at first, or always for the number 2."""
    held = []
    while not failures or job == 2:
        held.append(bytearray(b"\1" * 5_000_000))
        time.sleep(0.05)  # slowly, so that the watch sees it before Dask's nanny does
    return job, failures


@dataclass(frozen=True)
class Reading:
    """A job that names a file."""

    file: Path

    def moved(self, root: Path) -> Self:
        """The job with its file below `root`."""
        return replace(self, file=below(root, self.file))


def read(job: Reading, _failures: int) -> tuple[str, str]:
    """Where the file is for the worker, and what it holds."""
    return str(job.file), job.file.read_text()


def read_slowly(job: Reading, failures: int) -> tuple[str, str]:
    """The same after a while."""
    time.sleep(0.5)
    return read(job, failures)
