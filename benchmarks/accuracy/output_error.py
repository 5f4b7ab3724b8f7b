"""How far outputs move at sparsity_op 0.5, without repair and with it, and what the repair costs in time and memory.

    python -m benchmarks.accuracy.output_error FOLDER... --out benchmarks/results/repair-output-error.md

Each FOLDER holds model.onnx, calib.npz to learn from and test.npz to judge on, one array for each input, as
benchmarks/peers/repair_models.py and efficientnet_lite0.py make them (the latter's calib0.npz and calib1.npz as one). The error
is the worst output or slice of an output, as `onnxsparse compare` says it. Each run is a process of its own; its peak is that of
resident memory with mapped pages counted (ru_maxrss), interpreter included; CPU seconds are those of the whole process.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import table
from onnxsparse import Model, Prune, load
from onnxsparse.ir.binding import fed_inputs
from onnxsparse.runtime.compare import compare
from onnxsparse.runtime.samples import Samples

TARGET = 0.5

WRITTEN = {False: "without_data.onnx", True: "with_data.onnx"}
"""Whether there was data → file of the pruned model in the folder."""

COLUMNS = ("network", "samples", "without data, dB", "its zeros, no repair, dB", "with data, dB", "CPU s", "s", "peak MB", "said")


def opened(folder: Path, path: Path | None = None) -> Model:
    """The model, or one made of it, bound to the sizes of the test data with a batch of one."""
    model = load(folder / "model.onnx" if path is None else path)
    with np.load(folder / "test.npz") as test:
        sizes = {name: (1, *test[name].shape[1:]) for name in test.files}
    fed = [value.name for value in fed_inputs(model.proto.graph)]
    return model.bind([f"{name}={'x'.join(map(str, sizes[name]))}" for name in fed])


def judged(folder: Path) -> Samples:
    """The test data, one sample at a time."""
    with np.load(folder / "test.npz") as test:
        arrays = {name: test[name] for name in test.files}
    count = len(next(iter(arrays.values())))
    return Samples([{name: array[at : at + 1] for name, array in arrays.items()} for at in range(count)])


def pruned(folder: Path, *, with_data: bool) -> dict[str, Any]:
    """Run in a process of its own: prune, and write the result into the folder."""
    model = opened(folder)
    start = time.perf_counter()
    report = Prune(sparsity_op=TARGET, data=folder / "calib.npz" if with_data else None).run(model)
    seconds = time.perf_counter() - start
    model.save(folder / WRITTEN[with_data])
    return {"seconds": seconds, "notes": report.notes, "tensors": [change.tensor for change in report.changes]}


def ask(folder: Path, *, with_data: bool) -> dict[str, Any]:
    """`pruned` in a process of its own, and its `cpu_s` and `peak_mb`. Raises SystemExit if it fails."""
    command = [sys.executable, "-m", "benchmarks.accuracy.output_error", "--prune", str(int(with_data)), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"accuracy/output_error: pruning {folder} ended with {os.waitstatus_to_exitcode(status)}")
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    return found | {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}


def unrepaired(dense: Model, repaired: Model, tensors: list[str]) -> Model:
    """The dense model with the zeros of the repaired one."""
    model = dense.copy()
    for name in tensors:
        model.weights[name] = np.where(repaired.weights[name] == 0, 0, dense.weights[name]).astype(dense.weights[name].dtype)
    return model


def row(folder: Path) -> tuple[object, ...]:
    """A line of the table."""
    ask(folder, with_data=False)
    told = ask(folder, with_data=True)
    dense, samples = opened(folder), judged(folder)
    plain, repaired = (load(folder / name) for name in WRITTEN.values())
    models = (plain, unrepaired(dense, repaired, told["tensors"]), repaired)
    errors = [compare(dense, model, samples).worst_sqnr_db for model in models]
    with np.load(folder / "calib.npz") as calib:
        count = len(calib[calib.files[0]])
    cells = ["none" if error is None else f"{error:.2f}" for error in errors]
    costs = [f"{told[name]:.0f}" for name in ("cpu_s", "seconds", "peak_mb")]
    return folder.name, count, *cells, *costs, "; ".join(told["notes"])


def lines(rows: list[tuple[object, ...]]) -> list[str]:
    """The table and what it shows."""
    return [
        f"# Output error at sparsity_op {TARGET}, without repair and with it",
        "",
        "Made by `benchmarks/accuracy/output_error.py`: SQNR of the worst output or slice of an output, on inputs that nothing "
        "was learned from.",
        "",
        *table(COLUMNS, rows),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--prune", choices=("0", "1"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prune is not None:
        print(json.dumps(pruned(options.folders[0], with_data=options.prune == "1")))
        return
    if options.out is None:
        parser.error("give --out")
    rows = []
    for folder in options.folders:
        rows.append(row(folder))
        print(rows[-1], flush=True)
        options.out.write_text("\n".join(lines(rows)) + "\n")


if __name__ == "__main__":
    main()
