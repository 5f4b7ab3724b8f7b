"""Accuracy of an image classifier after pruning with data: top-1 by target, over several seeds, and how long it takes.

    python -m benchmarks.accuracy.repair MODEL.onnx CALIB.npz TEST.npz --out TABLE.md \\
        --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225

CALIB.npz holds `x` (uint8, N x H x W x C), TEST.npz also `y` (labels). The figures in benchmarks/results/resnet20-repair.md are
of a ResNet-20 with batch normalisation folded, pruned with 512 pictures of CIFAR-10 and tested on 2000 others, none of which
this project ships.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.accuracy.classifier import Classifier, parser
from benchmarks.tables import table
from onnxsparse import Prune, load

TARGETS = (0.5, 0.7, 0.8)
SEEDS = (0, 1, 2)


def main() -> None:
    options = parser(__doc__).parse_args()
    classifier = Classifier.read(options)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "calib.npy"
        np.save(data, classifier.learned)
        for target in TARGETS:
            plain = load(options.model)
            Prune(sparsity_op=target).run(plain)
            found, seconds = [], []
            for seed in SEEDS:
                model, start = load(options.model), time.perf_counter()
                Prune(sparsity_op=target, data=data, seed=seed).run(model)
                seconds.append(time.perf_counter() - start)
                found.append(classifier.top1(model))
            cells = [f"{value:.2f}" for value in (classifier.top1(plain), *found, np.mean(found))]
            rows.append((f"{target:.0%}", *cells, f"{np.mean(seconds):.0f}"))
    columns = ("sparsity_op", "without data", *(f"seed {seed}" for seed in SEEDS), "mean", "seconds")
    lines = [
        f"# Top-1 accuracy of {options.model.name} after pruning with data",
        "",
        f"Made by `benchmarks/accuracy/repair.py`, in per cent; dense: {classifier.top1():.2f} of {len(classifier.labels)} "
        f"pictures. Of {len(classifier.learned)} pictures a tenth was held out; the others were learned from, without labels.",
        "",
        *table(columns, rows),
    ]
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
