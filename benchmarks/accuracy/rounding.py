"""What rounding by the outputs of layers gains over the nearest integers: SQNR, top-1 and CPU seconds.

    python -m benchmarks.accuracy.rounding FOLDER... --draws 3 --share 0.75 --out benchmarks/results/rounding.md \\
        --figure docs/quantization.svg

Each FOLDER holds model.onnx, calib.npz and test.npz, as for `output_error`, and labels.npy of the test data if the model is a
classifier. A draw is a share of the calibration data. SQNR is that of the whole first output on the test data, which nothing was
chosen on; shown are the mean over the draws and the least and largest.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import vl_convert

from benchmarks.accuracy.output_error import judged, opened
from benchmarks.tables import table
from onnxsparse import Model, Quantize, compare
from onnxsparse.ops.spelling import ALL_WIDTHS_OPSET
from onnxsparse.runtime.metric import load_metric

SETTINGS: dict[str, dict[str, Any]] = {
    "8 bits, cv22": {"target": "cv22"},
    "8 bits, onnxruntime-x86": {"target": "onnxruntime-x86"},
    "8 bits, cv22, powers of two": {"target": "cv22", "power_of_two": "all"},
    "8 bits, cv22, powers of two, per tensor": {"target": "cv22", "power_of_two": "all", "per_tensor": True},
    "weights of 4 bits, onnxruntime-x86": {"target": "onnxruntime-x86", "weight_bits": 4},
    "weights of 4 bits, blocks of 64": {"target": "onnxruntime-x86", "weight_bits": 4, "weight_block": 64},
    "weights of 4 bits, blocks of 32": {"target": "onnxruntime-x86", "weight_bits": 4, "weight_block": 32},
    "weights of 4 bits, blocks of 16": {"target": "onnxruntime-x86", "weight_bits": 4, "weight_block": 16},
}

COLUMNS = ("network", "integers", "rounding", "SQNR dB", "top-1 %", "CPU s")


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and range of what several draws gave; empty without values."""
    if not values:
        return "-"
    mean, low, high = (f"{found(values):.{digits}f}" for found in (np.mean, min, max))
    return mean if low == high else f"{mean} ({low} to {high})"


def accuracy(folder: Path, model: Model) -> Iterator[float]:
    """Top-1 in per cent, if there are labels."""
    if (folder / "labels.npy").exists():
        yield load_metric("top1", folder / "labels.npy").measure(model, judged(folder))


def row(folder: Path, name: str, rounding: str, draws: Sequence[Path]) -> tuple[str, ...]:
    """One setting over all draws."""
    plain = opened(folder)
    if "weight_block" in SETTINGS[name]:
        plain = Model.from_proto(onnx.version_converter.convert_version(onnx.load(folder / "model.onnx"), ALL_WIDTHS_OPSET))
    levels, seconds = [], []
    right: list[float] = []
    for data in draws:
        model, start = plain.copy(), time.process_time()
        Quantize(data=data, rounding=rounding, **SETTINGS[name]).run(model)  # type: ignore[arg-type]  # one of its words
        seconds.append(time.process_time() - start)
        levels.append(compare(plain, model, judged(folder)).outputs[0].sqnr_db or 0.0)
        right += accuracy(folder, model)
    return folder.name, name, rounding, spread(levels, 2), spread(right, 2), f"{np.mean(seconds):.0f}"


def drawn(folder: Path, target: Path, draws: int, share: float) -> list[Path]:
    """Files of that share of the calibration data, each of other samples."""
    with np.load(folder / "calib.npz") as data:
        arrays = {name: data[name] for name in data.files}
    count = len(next(iter(arrays.values())))
    files = [target / f"draw{seed}.npz" for seed in range(draws)]
    for seed, path in enumerate(files):
        order = np.random.default_rng(seed).permutation(count)[: round(share * count)]
        np.savez(path, **{name: array[order] for name, array in arrays.items()})
    return files


def rows(folder: Path, draws: int, share: float, only: str) -> Iterator[tuple[str, ...]]:
    """The settings of one network that have `only` in their names."""
    plain = list(accuracy(folder, opened(folder)))
    yield folder.name, "floats", "", "", spread(plain, 2), ""
    with TemporaryDirectory() as target:
        files = drawn(folder, Path(target), draws, share)
        for name in (name for name in SETTINGS if only in name):
            for rounding in ("nearest", "gptq"):
                yield row(folder, name, rounding, files)


def figure(rows: Sequence[tuple[str, ...]]) -> dict[str, object]:
    """SQNR of each setting and rounding, a chart for each network."""
    values = [
        {"network": cells[0], "integers": cells[1], "rounding": cells[2], "db": float(cells[3].split()[0])}
        for cells in rows
        if cells[3]
    ]
    encoding = {
        "y": {"field": "integers", "type": "nominal", "title": None, "sort": list(SETTINGS), "axis": {"labelLimit": 260}},
        "x": {"field": "db", "type": "quantitative", "title": "SQNR, dB"},
        "yOffset": {"field": "rounding", "sort": ["nearest", "gptq"]},
        "color": {"field": "rounding", "type": "nominal", "title": "rounding", "scale": {"range": ["#4c78a8", "#9ecae9"]}},
        "column": {"field": "network", "type": "nominal", "title": None},
    }
    schema = "https://vega.github.io/schema/vega-lite/v6.json"
    return {"$schema": schema, "data": {"values": values}, "mark": "bar", "width": 280, "encoding": encoding}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="text in the names of the settings to take")
    parser.add_argument("--figure", type=Path, help="file for a figure (SVG)")
    options = parser.parse_args()
    found = []
    for folder in options.folders:
        for cells in rows(folder, options.draws, options.share, options.only):
            print(cells, flush=True)
            found.append(cells)
    made = (
        f"Made by `benchmarks/accuracy/rounding.py`: {options.draws} draws of {100 * options.share:g} % of the calibration data."
    )
    lines = ["# Rounding by what the outputs of layers feel", "", made, ""]
    options.out.write_text("\n".join([*lines, *table(COLUMNS, found)]) + "\n")
    if options.figure is not None:
        options.figure.write_text(vl_convert.vegalite_to_svg(figure(found)) + "\n")


if __name__ == "__main__":
    main()
