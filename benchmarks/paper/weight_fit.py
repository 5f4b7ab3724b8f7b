"""Fit how large the weights of trained detectors are, layer by layer: the numbers of sample_models/build.py's TRAINED.

    python -m benchmarks.paper.weight_fit --models DIR

Over all convolutions of at least 512 weights of three detectors that packages ship (nudenet 320n, the text detectors PP-OCRv4 and
PP-OCRv6 small; normalisations folded as exported), least squares of

    log(rms · sqrt(inputs / 2)) = constant + per_log_inputs · log(inputs) + per_depth · depth

where `inputs` counts the weights of one output and `depth` goes from 0 (first convolution) to 1. The left side is 0 for He-normal
weights.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from onnxsparse import layers, load
from sample_models.fetch import fetch

DETECTORS = {"nudenet": "320n", "rapidocr-onnxruntime": "det_infer", "rapidocr": "det_small"}
"""Package → part of the name of its detector's file."""

SMALLEST = 512


def observations(path: Path) -> Iterator[tuple[float, float, float, float]]:
    """log(inputs), depth, log(rms relative to He), and the mean magnitude over the rms, of each convolution."""
    model = load(path)
    convolutions = [layer for layer in layers(model, count=False) if layer.op_type == "Conv" and layer.weights]
    for place, layer in enumerate(convolutions):
        weight = model.weights[layer.weights[0].tensor].astype(np.float64)
        if layer.depthwise or weight.size < SMALLEST:
            continue
        rms = float(np.sqrt((weight**2).mean()))
        inputs = weight[0].size
        relative = math.log(rms * math.sqrt(inputs / 2))
        yield math.log(inputs), place / (len(convolutions) - 1), relative, float(np.abs(weight).mean()) / rms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    folder: Path = parser.parse_args().models
    paths = [next(p for p in fetch(package, folder) if part in p.name) for package, part in DETECTORS.items()]
    found = np.array([row for path in paths for row in observations(path)])
    factors = np.stack([np.ones(len(found)), found[:, 0], found[:, 1]], 1)
    solution = np.linalg.lstsq(factors, found[:, 2], rcond=None)[0]
    residual = float((found[:, 2] - factors @ solution).std())
    print(f"{len(found)} convolutions of {', '.join(path.name for path in paths)}")
    print("constant, per_log_inputs, per_depth:", *(f"{value:.3f}" for value in solution))
    print(f"residual {residual:.3f}, mean magnitude over rms {np.median(found[:, 3]):.3f}")


if __name__ == "__main__":
    main()
