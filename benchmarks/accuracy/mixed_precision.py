"""What wide layers add to int8 for the CV22: SQNR by their number, and how close a search ends to what was asked.

    python -m benchmarks.accuracy.mixed_precision FOLDER... --wide 0 10 30 --asked 20 --out benchmarks/results/mixed-precision.md

Each FOLDER holds model.onnx, calib.npz and test.npz, as for `output_error`. A tenth of the calibration data is held out to judge
a search on. The last columns are the worst output or slice of an output on test.npz, which nothing was chosen on.
"""

import argparse
import re
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.accuracy.output_error import judged, opened
from benchmarks.tables import table
from onnxsparse import Quantize, compare

COLUMNS = ("network", "asked", "wide ops", "wide activations and weights", "held-out dB", "test dB", "CPU s", "s")


def row(folder: Path, **options: float) -> tuple[str, ...]:
    """Quantize once."""
    plain = opened(folder)
    model, cpu, start = plain.copy(), time.process_time(), time.perf_counter()
    notes = " ".join(Quantize(target="cv22", data=folder / "calib.npz", **options).run(model).notes)  # type: ignore[arg-type]  # numbers of options
    seconds = (f"{time.process_time() - cpu:.0f}", f"{time.perf_counter() - start:.0f}")
    wide = re.search(r"(\d+ of \d+) layers and other ops have more bits \((\d+) activations of 16, (\d+) weights of 16\)", notes)
    level = re.search(r"slice has (\S+) dB", notes)
    found = compare(plain, model, judged(folder)).worst_sqnr_db
    return (
        folder.name,
        ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in options.items()),
        wide[1] if wide else "0",
        f"{wide[2]}, {wide[3]}" if wide else "0, 0",
        level[1] if level else "-",
        "-" if found is None else f"{found:.1f}",
        *seconds,
    )


def rows(folder: Path, counts: list[int], asked_db: list[float]) -> Iterator[tuple[str, ...]]:
    """All settings of one network."""
    for count in counts:
        yield row(folder, wide_layers=count)
    for wanted in asked_db:
        yield row(folder, min_sqnr=wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--wide", type=int, nargs="*", default=[0, 10, 30])
    parser.add_argument("--asked", type=float, nargs="*", default=[20.0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = []
    for folder in options.folders:
        for cells in rows(folder, options.wide, options.asked):
            print(cells, flush=True)
            found.append(cells)
    lines = ["# Wide layers by what the outputs feel", "", "Made by `benchmarks/accuracy/mixed_precision.py`; target cv22.", ""]
    options.out.write_text("\n".join([*lines, *table(COLUMNS, found)]) + "\n")


if __name__ == "__main__":
    main()
