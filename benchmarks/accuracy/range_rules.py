"""Rules for the ranges of activations side by side: SQNR of the worst output or slice.

    python -m benchmarks.accuracy.range_rules FOLDER... --out benchmarks/results/range-rules.md

Each FOLDER holds model.onnx, calib.npz and test.npz, as for `output_error`; peers/repair_models.py and efficientnet_lite0.py make
some. A draw is three quarters of the calibration data. Target cv22, biases corrected; shown are the mean over the draws and the
least and largest. `equalized`: mse with --equalize. `default`: no rule is given; with --wide, quantization then chooses one.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.accuracy.output_error import judged, opened
from benchmarks.accuracy.rounding import drawn, spread
from benchmarks.tables import table
from onnxsparse import Quantize, compare

EQUALIZED = "equalized"
DEFAULT = "default"
RULES = ("mse", "cube", "minmax", "output", EQUALIZED, DEFAULT)
SHARE = 0.75


def levels(folder: Path, draws: Sequence[Path], rule: str, wide: int) -> Iterator[float]:
    """SQNR in dB of the worst output or slice, for each draw, with some ops wide."""
    plain = opened(folder)
    for data in draws:
        model = plain.copy()
        method = None if rule in (EQUALIZED, DEFAULT) else rule
        Quantize(target="cv22", data=data, method=method, wide_layers=wide, equalize=rule == EQUALIZED).run(model)
        found = compare(plain, model, judged(folder)).worst_sqnr_db
        print(folder.name, rule, found, flush=True)
        yield 0.0 if found is None else found


def cells(folder: Path, rules: Sequence[str], draws: int, wide: int) -> tuple[str, ...]:
    """A line of the table: one network."""
    with TemporaryDirectory() as name:
        files = drawn(folder, Path(name), draws, SHARE)
        with np.load(files[0]) as data:
            count = len(data[data.files[0]])
        return folder.name, str(count), *(spread(list(levels(folder, files, rule, wide)), 1) for rule in rules)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--rules", nargs="+", default=RULES, choices=RULES)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--wide", type=int, default=0, metavar="OPS", help="number of wide ops")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = [cells(folder, options.rules, options.draws, options.wide) for folder in options.folders]
    head = ["# Ranges of activations by several rules", ""]
    wide = f", {options.wide} wide ops" if options.wide else ""
    share = f"{options.draws} draws of {SHARE:.0%} of the calibration data{wide}"
    lines = [*head, f"Made by `benchmarks/accuracy/range_rules.py`: SQNR in dB of the worst output or slice, cv22, {share}.", ""]
    options.out.write_text("\n".join([*lines, *table(("network", "samples", *options.rules), found)]) + "\n")


if __name__ == "__main__":
    main()
