"""The main job on two trained models: prune, annotate, compare, inspect. `make demo` runs this.

The first is the project's own digits classifier, whose accuracy can be told; the second a text detector with real weights
out of a Python package.
"""

import argparse
import shlex
from pathlib import Path

from rich.console import Console

from onnxsparse import cli
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
    out.rule(f"[bold]{title}", align="left")


def digits(out: Console, folder: Path) -> None:
    source, data = HERE / "digits.onnx", HERE / "digits_test.npz"
    pruned, annotated = folder / "digits_pruned.onnx", folder / "digits_annotated.onnx"
    show(out, "1. A digits classifier, trained by this project (sample_models/train_digits.py)")
    step(out, "prune", source, pruned, "--sparsity-op", "0.7")
    step(out, "annotate", pruned, annotated)
    step(out, "compare", source, annotated)
    step(out, "inspect", annotated)
    before, after = (100 * accuracy(model, data) for model in (source, annotated))
    out.print(f"\nTop-1 accuracy on the held-out digits: {before:.2f} % before, {after:.2f} % after pruning, without retraining")


def detector(out: Console, folder: Path) -> None:
    package, name = DETECTOR
    show(out, f"2. A text detector with real weights, out of the Python package {package}")
    source = next(path for path in fetch(package, folder) if path.name == name)
    pruned, annotated = folder / "detector_pruned.onnx", folder / "detector_annotated.onnx"
    step(out, "prune", source, pruned, DETECTOR_SIZE, "--sparsity-op", "0.3")
    step(out, "annotate", pruned, annotated, DETECTOR_SIZE)
    step(out, "compare", source, annotated, DETECTOR_SIZE)
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
