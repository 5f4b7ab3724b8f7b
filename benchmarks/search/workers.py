"""Time of one search with several numbers of workers, and what a job costs besides its work.

    python -m benchmarks.search.workers MODEL.onnx DATA --budget nonzero_macs=500000 --jobs 1 2 4 \\
        --out benchmarks/results/search-workers.md

Each search runs the same trials in a new folder; its front has to be the same, bit for bit.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tables import table
from onnxsparse.parallel.dask_cluster import DaskCluster
from onnxsparse.search.api import own_versions

EMPTY_JOBS = 200
"""Jobs without work, to measure what a job costs."""

COLUMNS = ("workers", "s", "times as fast", "of that, starting and ending s", "models of the front")


def nothing(job: int, _failures: int) -> int:
    """A job without work."""
    return job


def overhead(workers: int) -> tuple[float, float]:
    """Seconds to start and end a cluster, and seconds of a job without work."""
    start = time.monotonic()
    with DaskCluster(workers, own_versions(), own_versions) as cluster:
        list(cluster.run(nothing, range(workers)))
        ready = time.monotonic()
        list(cluster.run(nothing, range(EMPTY_JOBS)))
        end = time.monotonic()
    return time.monotonic() - start - (end - ready), (end - ready) / EMPTY_JOBS


def digest(folder: Path) -> str:
    """A digest of the models of a front."""
    found = hashlib.sha256()
    for file in sorted(folder.rglob("model.onnx")):
        found.update(file.read_bytes())
    return found.hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--budget", required=True)
    parser.add_argument("--trials", default="33")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows, first, each = [], 0.0, 0.0
    command = [str(Path(sys.executable).with_name("onnxsparse")), "search", options.model, "--data", options.data]
    command += ["--budget", options.budget, "--trials", options.trials]
    for jobs in options.jobs:
        with tempfile.TemporaryDirectory() as name:
            start = time.monotonic()
            subprocess.run([*command, "-o", f"{name}/found", "--jobs", str(jobs)], stdout=subprocess.DEVNULL, check=True)
            seconds, models = time.monotonic() - start, digest(Path(name))
        first = first or seconds
        around, each = (0.0, each) if jobs == 1 else overhead(jobs)
        rows.append((jobs, f"{seconds:.0f}", f"{first / seconds:.2f}", f"{around:.1f}", models))
        print(rows[-1], f"{1000 * each:.1f} ms per job", flush=True)
    said = f"Made by `benchmarks/search/workers.py` on two cores; a job costs {1000 * each:.1f} ms besides its work."
    options.out.write_text("\n".join(["# Workers", "", said, "", *table(COLUMNS, rows)]) + "\n")


if __name__ == "__main__":
    main()
