"""Top-1 of an image classifier after pruning without training, beside onnxsim, wanda and SparseGPT, in one run on the same data.

    python -m venv PEERS && PEERS/bin/pip install onnxsim==0.8.1 onnxruntime
    python -m benchmarks.peers.repair MODEL.onnx CALIB.npz TEST.npz --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 \\
        --onnxsim PEERS/bin/python --out benchmarks/results/repair-peers.md

The files are those of benchmarks/accuracy/repair.py. wanda and SparseGPT are this project's short versions
(benchmarks/peers/repair_methods.py), on the inputs of the dense network, as onnxsim has both, and in order on those of the
network as pruned so far, as the papers do it. One thread for each method; without --onnxsim, a row says that it is not installed.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.accuracy.classifier import Classifier, parser
from benchmarks.peers import repair_methods, repair_onnxsim
from benchmarks.tables import table
from onnxsparse import Model, Prune, layers, load
from onnxsparse.runtime.samples import Samples

Images = NDArray[np.float32]

TARGETS = (0.5, 0.7, 0.8)
ONE_THRESHOLD = "onnxsim magnitude, one threshold"

ONNXSIM: dict[str, tuple[str, dict[str, object]]] = {
    "onnxsim magnitude, same share of each row": ("apply_magnitude_pruning", {}),
    ONE_THRESHOLD: ("apply_magnitude_pruning", {"global_sparsity": True}),
    "onnxsim wanda": ("apply_wanda_pruning", {}),
    "onnxsim SparseGPT": ("apply_sparsegpt_pruning", {}),
}
"""Row of the table → function of onnxsim, and its options beside the sparsity."""

IN_ORDER = ", in order"

TWO_OF_FOUR = {"n": 2, "m": 4}

Method = Callable[[float | None, Path], tuple[Model, float, tuple[str, ...]]]
"""A sparsity (None: 2:4) and a file for inner results → pruned model, seconds, and nodes that stayed dense."""


@dataclass(frozen=True)
class Task:
    """What all methods get. `data`: an npy file of the inputs."""

    model: Path
    data: Path
    images: Images


@dataclass(frozen=True)
class Cell:
    """One method at one sparsity. `top1`: in per cent, None with a `fault`."""

    top1: float | None = None
    sparsity_op: float | None = None
    seconds: float = 0.0
    dense: tuple[str, ...] = ()
    fault: str = ""


def with_onnxsim(
    task: Task, python: Path, name: str, given: dict[str, object], sparsity: float | None, target: Path
) -> tuple[Model, float, tuple[str, ...]]:
    """A network that onnxsim pruned. Raises SystemExit with its last message if it fails."""
    options = json.dumps(given | (TWO_OF_FOUR if sparsity is None else {"sparsity": sparsity}))
    command = [str(python), repair_onnxsim.__file__, name, options, str(task.model), str(task.data), str(target)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"peers/repair: {name} fails: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return load(target), float(done.stdout.split()[-1]), ()


def in_numpy(task: Task, name: str, in_order: bool, sparsity: float | None, _: Path) -> tuple[Model, float, tuple[str, ...]]:
    """A network pruned by wanda or SparseGPT. 2:4 is not implemented for them: `sparsity` is a number."""
    assert sparsity is not None
    model = load(task.model)
    fed = model.proto.graph.input[0].name
    samples = Samples([{fed: image[None]} for image in task.images])
    start = time.perf_counter()
    with threadpool_limits(limits=1):
        repair_methods.prune(model, samples, repair_methods.METHODS[name], sparsity, in_order=in_order)
    return model, time.perf_counter() - start, ()


def with_ours(task: Task, data: Path | None, sparsity: float | None, _: Path) -> tuple[Model, float, tuple[str, ...]]:
    """A network that onnxsparse pruned, with `data` or without."""
    model = load(task.model)
    step = Prune(pattern="2:4", data=data) if sparsity is None else Prune(sparsity_op=sparsity, data=data)
    start = time.perf_counter()
    report = step.run(model)
    seconds = time.perf_counter() - start
    weighted = {layer.node for layer in layers(model) if layer.weights}
    return model, seconds, tuple(f"{skip.node} ({skip.reason})" for skip in report.skipped if skip.node in weighted)


def methods(task: Task, python: Path | None) -> dict[str, Method]:
    """Row of the table → method; those of onnxsim are left out without its interpreter."""
    found: dict[str, Method] = {}
    if python is not None:
        found |= {row: partial(with_onnxsim, task, python, name, given) for row, (name, given) in ONNXSIM.items()}
    for name in repair_methods.METHODS:
        found |= {name: partial(in_numpy, task, name, False), f"{name}{IN_ORDER}": partial(in_numpy, task, name, True)}
    return found | {"onnxsparse without data": partial(with_ours, task, None), "onnxsparse": partial(with_ours, task, task.data)}


def cell(method: Method, sparsity: float | None, classifier: Classifier) -> Cell:
    """One method at one sparsity, judged on other pictures."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            model, seconds, dense = method(sparsity, Path(folder) / "pruned.onnx")
        except SystemExit as fault:
            return Cell(fault=str(fault))
        return Cell(classifier.top1(model), layers(model).totals.sparsity_op, seconds, dense)


def told(found: Cell) -> str:
    """A cell of the table."""
    if found.top1 is None or found.sparsity_op is None:
        return found.fault
    return f"{found.top1:.2f} (at {100 * found.sparsity_op:.1f} %)"


def main() -> None:
    taking = parser(__doc__)
    taking.add_argument("--onnxsim", type=Path, help="an interpreter with onnxsim")
    options = taking.parse_args()
    classifier = Classifier.read(options)
    learned, labels = classifier.learned, classifier.labels
    rows, groups = [], []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "calib.npy"
        np.save(data, learned)
        for row, method in methods(Task(options.model, data, learned), options.onnxsim).items():
            cells = [cell(method, target, classifier) for target in TARGETS]
            rows.append((row, *map(told, cells), f"{np.mean([each.seconds for each in cells]):.1f}"))
            print(rows[-1], file=sys.stderr, flush=True)
            if row != ONE_THRESHOLD and row.removesuffix(IN_ORDER) not in repair_methods.METHODS:
                of_four = cell(method, None, classifier)
                groups.append((row, told(of_four), "; ".join(of_four.dense), f"{of_four.seconds:.1f}"))
    if options.onnxsim is None:
        rows.insert(0, ("onnxsim", *["not installed"] * len(TARGETS), ""))
    lines = [
        f"# Top-1 accuracy of {options.model.name} after pruning without training",
        "",
        f"Made by `benchmarks/peers/repair.py`, in per cent, with the sparsity_op reached; dense: {classifier.top1():.2f} of "
        f"{len(labels)} pictures. All methods with data got the same {len(learned)} pictures without labels, of which onnxsparse "
        "held a tenth out. wanda, SparseGPT: the same sparsity in every layer, on the inputs of the dense network, or in order "
        "on those of the network as pruned so far. Seconds: the mean over the targets, on one thread.",
        "",
        *table(("method", *(f"{target:.0%}" for target in TARGETS), "seconds"), rows),
        "",
        "Two of every four inputs (2:4). onnxsim counts fours along the kernel positions of an input channel, onnxsparse along "
        "the input channels.",
        "",
        *table(("method", "top-1", "layers left dense", "seconds"), groups),
    ]
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
