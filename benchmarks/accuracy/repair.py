"""Accuracy of an image classifier after pruning with data: top-1 by target, over several seeds, and how long it takes.

    python -m benchmarks.accuracy.repair MODEL.onnx CALIB.npz TEST.npz --out TABLE.md \\
        --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225

CALIB.npz holds `x` (uint8, N x H x W x C), TEST.npz also `y` (labels). The figures in benchmarks/results/resnet20-repair.md are
of a ResNet-20 with batch normalisation folded, pruned with 512 pictures of CIFAR-10 and tested on 2000 others, none of which
this project ships.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.scores import top1
from benchmarks.tables import table
from onnxsparse import Prune, load

TARGETS = (0.5, 0.7, 0.8)
SEEDS = (0, 1, 2)


def prepared(pictures: NDArray[np.uint8], mean: list[float], std: list[float]) -> NDArray[np.float32]:
    """Pictures as the network takes them: N x C x H x W."""
    shares = pictures.astype(np.float32) / 255
    found = (shares - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(found.transpose(0, 3, 1, 2), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calib", "test"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--mean", type=float, nargs="+", required=True)
    parser.add_argument("--std", type=float, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with np.load(options.calib) as calib, np.load(options.test) as test:
        learned = prepared(calib["x"], options.mean, options.std)
        x, labels = prepared(test["x"], options.mean, options.std), test["y"]
    dense = top1(load(options.model).to_bytes(), x, labels)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "calib.npy"
        np.save(data, learned)
        for target in TARGETS:
            plain = load(options.model)
            Prune(sparsity_op=target).run(plain)
            found, seconds = [], []
            for seed in SEEDS:
                model, start = load(options.model), time.perf_counter()
                Prune(sparsity_op=target, data=data, seed=seed).run(model)
                seconds.append(time.perf_counter() - start)
                found.append(100 * top1(model.to_bytes(), x, labels))
            cells = [f"{value:.2f}" for value in (100 * top1(plain.to_bytes(), x, labels), *found, np.mean(found))]
            rows.append((f"{target:.0%}", *cells, f"{np.mean(seconds):.0f}"))
    columns = ("sparsity_op", "without data", *(f"seed {seed}" for seed in SEEDS), "mean", "seconds")
    lines = [
        f"# Top-1 accuracy of {options.model.name} after pruning with data",
        "",
        f"Made by `benchmarks/accuracy/repair.py`, in per cent; dense: {100 * dense:.2f} of {len(labels)} pictures. Of "
        f"{len(learned)} pictures a tenth was held out; the others were learned from, without labels.",
        "",
        *table(columns, rows),
    ]
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
