"""Accuracy of an image classifier over sparsity and over the number of calibration pictures, as a table and a figure.

    python -m benchmarks.accuracy.curves MODEL.onnx CALIB.npz TEST.npz --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 \\
        --out benchmarks/results/resnet20-curves.md --figure docs/accuracy.svg

The files are those of benchmarks/accuracy/repair.py. Of the calibration pictures, the first ones are taken; a tenth of them is
held out. Figures are means over SEEDS.
"""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import vl_convert

from benchmarks.accuracy.classifier import Classifier, parser
from benchmarks.tables import table
from onnxsparse import Prune, load

TARGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
COUNTS = (16, 32, 64, 128, 256, 512)
COUNTED_AT = 0.7
"""The sparsity_op at which the number of pictures varies."""
SEEDS = (0, 1)
COLOURS = {"with data": "#4c78a8", "without data": "#f58518", "dense": "#8a8a8a"}

Spec = dict[str, object]


def pruned(classifier: Classifier, target: float, count: int, seed: int) -> float:
    """Top-1 at a sparsity_op, in per cent, with the first `count` inputs; 0: without data."""
    model = load(classifier.path)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "calib.npy"
        np.save(data, classifier.learned[:count])
        Prune(sparsity_op=target, data=data if count else None, seed=seed).run(model)
    return classifier.top1(model)


def mean(classifier: Classifier, target: float, count: int) -> float:
    """`pruned`, the mean over SEEDS."""
    return float(np.mean([pruned(classifier, target, count, seed) for seed in SEEDS]))


@dataclass(frozen=True)
class Curves:
    """Top-1 in per cent. `plain`, `repaired`: sparsity_op → figure. `by_count`: number of pictures → figure at COUNTED_AT."""

    dense: float
    plain: dict[float, float]
    repaired: dict[float, float]
    by_count: dict[int, float]


def measured(classifier: Classifier) -> Curves:
    """All figures, printed as they come."""
    every = len(classifier.learned)
    plain, repaired = {}, {}
    for target in TARGETS:
        plain[target], repaired[target] = pruned(classifier, target, 0, 0), mean(classifier, target, every)
        print(f"sparsity_op {target}: {plain[target]:.2f} without data, {repaired[target]:.2f} with", flush=True)
    by_count = {}
    for count in COUNTS:
        by_count[count] = repaired[COUNTED_AT] if count == every else mean(classifier, COUNTED_AT, count)
        print(f"{count} pictures: {by_count[count]:.2f}", flush=True)
    return Curves(classifier.top1(), plain, repaired, by_count)


def lines(curves: Curves, name: str, pictures: int, learned: int) -> Iterable[str]:
    """The tables, and what they show."""
    over = [(f"{t:.0%}", f"{curves.plain[t]:.2f}", f"{curves.repaired[t]:.2f}") for t in TARGETS]
    return [
        f"# Top-1 accuracy of {name} over sparsity_op and over the number of pictures",
        "",
        f"Made by `benchmarks/accuracy/curves.py`, in per cent; dense: {curves.dense:.2f} of {pictures} pictures. With data: "
        f"{learned} pictures, of which a tenth was held out; the mean of {len(SEEDS)} seeds.",
        "",
        *table(("sparsity_op", "without data", "with data"), over),
        "",
        f"At sparsity_op {COUNTED_AT:g}, over the number of pictures:",
        "",
        *table(("pictures", "with data"), [(count, f"{value:.2f}") for count, value in curves.by_count.items()]),
    ]


# The figure


def figure(curves: Curves) -> Spec:
    """Two panels side by side, on white."""
    rows = [{"x": 100 * t, "top1": value, "kind": "without data"} for t, value in curves.plain.items()]
    rows += [{"x": 100 * t, "top1": value, "kind": "with data"} for t, value in curves.repaired.items()]
    counted = [{"x": count, "top1": value, "kind": "with data"} for count, value in curves.by_count.items()]
    lowest = 5 * np.floor((min(curves.by_count.values()) - 2) / 5)
    panels = [
        panel("Top-1 over sparsity_op", rows, curves.dense, {"title": "sparsity_op, %"}, (0, 100)),
        panel(
            f"Over the number of pictures, at {COUNTED_AT:.0%}",
            counted,
            curves.dense,
            {"title": "calibration pictures", "scale": {"type": "log", "base": 2}, "axis": {"values": list(COUNTS)}},
            (float(lowest), 90),
        ),
    ]
    schema = "https://vega.github.io/schema/vega-lite/v6.json"
    return {"$schema": schema, "background": "white", "padding": 8, "hconcat": panels}


def panel(title: str, rows: Sequence[dict[str, object]], dense: float, x: Spec, span: tuple[float, float]) -> Spec:
    """Lines with points, and a dashed line for the dense model. `x`: parts of the channel; `span`: of the other one."""
    scale = {"domain": list(COLOURS), "range": list(COLOURS.values())}
    colour = {"field": "kind", "type": "nominal", "title": None, "scale": scale, "legend": {"orient": "bottom"}}
    y = {"field": "top1", "type": "quantitative", "title": "top-1, %", "scale": {"domain": list(span), "zero": False}}
    across = {"field": "x", "type": "quantitative", **x}
    across["scale"] = {"zero": False, "nice": False, **(x.get("scale") or {})}  # type: ignore[dict-item]  # the scales above
    layers = [
        {"mark": {"type": "rule", "strokeDash": [4, 4]}, "data": {"values": [{"top1": dense, "kind": "dense"}]}}
        | {"encoding": {"y": y, "color": colour}},
        {"mark": {"type": "line", "point": True}, "data": {"values": rows}, "encoding": {"x": across, "y": y, "color": colour}},
    ]
    return {"title": title, "width": 300, "height": 220, "layer": layers}


def main() -> None:
    taking = parser(__doc__)
    taking.add_argument("--figure", type=Path, required=True)
    options = taking.parse_args()
    classifier = Classifier.read(options)
    curves = measured(classifier)
    told = lines(curves, options.model.name, len(classifier.labels), len(classifier.learned))
    options.out.write_text("\n".join(told) + "\n")
    options.figure.write_text(vl_convert.vegalite_to_svg(figure(curves)) + "\n")


if __name__ == "__main__":
    main()
