"""Kill a search at random moments, let the same command go on, and compare its end with that of a search without a break.

    python -m benchmarks.robustness.kill_search MODEL.onnx DATA --budget nonzero_macs=500000 --count 20 \\
        --out benchmarks/results/kill-search.md

The first search runs in one process and is never killed; the second has `--jobs` workers, and is killed with all of them.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tables import table

COLUMNS = ("kills", "while trials ran", "outcomes that were torn or lost", "same front", "s without a break", "s with kills")


def started(arguments: list[str], folder: Path, jobs: int) -> subprocess.Popen[bytes]:
    """The command, in a process group of its own."""
    command = [str(Path(sys.executable).with_name("onnxsparse")), "search", *arguments, "-o", str(folder), "--jobs", str(jobs)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def whole(folder: Path) -> dict[str, bytes]:
    """All that a front consists of; the comment of a recipe names its folder."""
    files = [file for file in sorted((folder / "points").rglob("*")) if file.is_file()]
    files += [folder / "search.json", folder / "index.html"]
    return {str(file.relative_to(folder)): re.sub(rb"(?m)^# onnxsparse run.*\n", b"", file.read_bytes()) for file in files}


def outcomes(folder: Path) -> dict[str, bytes]:
    """The outcomes that are there, by name."""
    place = folder / "trials"
    return {f.name: f.read_bytes() for f in place.iterdir() if not f.name.startswith(".")} if place.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--budget", required=True)
    parser.add_argument("--trials", default="41")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--longest", type=float, default=20, help="seconds between two kills, at most")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    arguments = [options.model, "--data", options.data, "--budget", options.budget, "--trials", options.trials]
    with tempfile.TemporaryDirectory() as name:
        first, second = Path(name) / "first", Path(name) / "second"
        start = time.monotonic()
        assert started(arguments, first, 1).wait() == 0
        alone = time.monotonic() - start
        draw, running, lost = random.Random(0), 0, 0
        start, kills = time.monotonic(), 0
        known: dict[str, bytes] = {}
        while kills < options.count:
            process = started(arguments, second, options.jobs)
            try:
                process.wait(timeout=draw.uniform(2, options.longest))
                shutil.rmtree(second)  # it ended before a kill: from the start again
                known = {}
                continue
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            kills += 1
            found = outcomes(second)
            running += len(found) > len(known)
            lost += sum(found.get(key) != content for key, content in known.items())
            known = found
            print(kills, len(found), flush=True)
        assert started(arguments, second, options.jobs).wait() == 0
        with_kills = time.monotonic() - start
        same = whole(first) == whole(second)
    row = (kills, running, lost, "yes" if same else "NO", f"{alone:.0f}", f"{with_kills:.0f}")
    head = ["# A search that is killed", "", "Made by `benchmarks/robustness/kill_search.py`.", ""]
    options.out.write_text("\n".join([*head, *table(COLUMNS, [row])]) + "\n")


if __name__ == "__main__":
    main()
