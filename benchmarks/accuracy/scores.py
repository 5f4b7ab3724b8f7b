"""Accuracy of an image classifier after one-shot pruning, by score, target and cost exponent.

    python -m benchmarks.accuracy.scores MODEL.onnx TEST.npz --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --out TABLE.md

TEST.npz holds `x` (uint8, N x H x W x C) and `y` (labels). The figures in benchmarks/results/resnet20-scores.md are of a
ResNet-20 with batch normalisation folded, on 2000 pictures of CIFAR-10, neither of which this project ships.
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.tables import heading, table_row
from onnxsparse import Prune, load

TARGETS = (0.3, 0.5, 0.7, 0.8)
PAPER = {"protect": "none", "max_layer_sparsity": 1}
SETTINGS: dict[str, dict[str, object]] = {
    "default (lamp over operations)": {},
    "lamp over operations, nothing protected, no cap": {"score": "lamp", "cost_exponent": 1, **PAPER},
    "lamp over operations^0.5": {"cost_exponent": 0.5},
    "lamp": {"cost_exponent": 0},
    "global L1 (the paper's)": {"score": "l1", "cost_exponent": 0, **PAPER},
    "l1 over operations": {"score": "l1"},
    "every layer alike": {"scope": "layer"},
}


def top1(model: bytes, x: np.ndarray, y: np.ndarray, batch: int = 500) -> float:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # onnxruntime warns of each weight that it folds into another
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    logits = [session.run(None, {name: x[i : i + batch]})[0] for i in range(0, len(x), batch)]
    return float((np.concatenate(logits).argmax(1) == y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--mean", type=float, nargs="+", required=True)
    parser.add_argument("--std", type=float, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with np.load(options.test) as test:
        pictures, labels = test["x"].astype(np.float32) / 255, test["y"]
    mean, std = (np.array(v, np.float32) for v in (options.mean, options.std))
    x = np.ascontiguousarray(((pictures - mean) / std).transpose(0, 3, 1, 2))
    dense = top1(load(options.model).to_bytes(), x, labels)
    lines = [
        f"# Top-1 accuracy of {options.model.name} after one-shot pruning",
        "",
        f"Made by `benchmarks/accuracy/scores.py`; dense: {100 * dense:.2f} % of {len(labels)} pictures. Columns: sparsity_op.",
        "",
        *heading(("setting", *(f"{target:.0%}" for target in TARGETS))),
    ]
    for name, setting in SETTINGS.items():
        cells = []
        for target in TARGETS:
            model = load(options.model)
            Prune(sparsity_op=target, **setting).run(model)  # type: ignore[arg-type]  # options come from the table above
            cells.append(f"{100 * top1(model.to_bytes(), x, labels):.2f} %")
        lines.append(table_row((name, *cells)))
        print(lines[-1], flush=True)
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
