"""A Dask cluster of processes on loopback."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


class Scheduler:
    """`dask scheduler` and `dask worker` processes on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        end = time.monotonic() + 60
        while not (self.file.exists() and self.file.read_text().strip()):
            assert time.monotonic() < end
            time.sleep(0.1)
        self.address: str = json.loads(self.file.read_text())["address"]

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A process of Dask. It knows the tests' functions."""
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", *arguments[1:]]
        if arguments[0] == "worker":
            command = [sys.executable, "-m", "distributed.cli.dask_worker", *arguments[1:]]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        options = ["--scheduler-file", str(self.file)]
        log = (self.folder / f"log{len(self.processes)}").open("wb")
        process = subprocess.Popen([*command, *options], env=environment, stdout=log, stderr=log, cwd=self.folder)
        self.processes.append(process)
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        """One more worker, of one thread, which no nanny starts again."""
        return self.start(
            "worker", "--nthreads", "1", "--no-nanny", "--local-directory", str(self.folder / "spool"), "--no-dashboard"
        )
