"""An image classifier with pictures to learn from and labelled ones to test on, as several benchmarks take it."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.scores import top1
from onnxsparse import Model, load


@dataclass(frozen=True)
class Classifier:
    """`path`: of the model. `learned`, `x`: pictures as the network takes them, N x C x H x W. `labels`: of `x`."""

    path: Path
    learned: NDArray[np.float32]
    x: NDArray[np.float32]
    labels: NDArray[np.integer]

    @classmethod
    def read(cls, options: argparse.Namespace) -> "Classifier":
        """From the options that `parser` adds."""
        with np.load(options.calib) as calib, np.load(options.test) as test:
            learned, x = (prepared(pictures, options.mean, options.std) for pictures in (calib["x"], test["x"]))
            return cls(options.model, learned, x, test["y"])

    def top1(self, model: Model | None = None) -> float:
        """Top-1 accuracy in per cent. None: of the model as it is."""
        return 100 * top1((load(self.path) if model is None else model).to_bytes(), self.x, self.labels)


def parser(text: str | None) -> argparse.ArgumentParser:
    """Options of a benchmark on a classifier. `text`: its docstring."""
    found = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calib", "test"):
        found.add_argument(name, type=Path)
    found.add_argument("--mean", type=float, nargs="+", required=True)
    found.add_argument("--std", type=float, nargs="+", required=True)
    found.add_argument("--out", type=Path, required=True)
    return found


def prepared(pictures: NDArray[np.uint8], mean: list[float], std: list[float]) -> NDArray[np.float32]:
    """Pictures as the network takes them: N x C x H x W."""
    shares = pictures.astype(np.float32) / 255
    found = (shares - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(found.transpose(0, 3, 1, 2), np.float32)
