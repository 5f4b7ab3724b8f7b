"""Latency over sparsity_op of files that are really pruned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from benchmarks.paper.detectors import costs, path_of, pruned
from benchmarks.paper.section import Context, Section
from benchmarks.tables import table
from onnxsparse.cost.estimate import Deployment
from onnxsparse.cost.sparsity_sweep import KNEE_SLOPE

POINTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)

BOUNDS = ("compute", "skip-limit", "io", "overhead")

LINEAR_UP_TO = 0.6

STRAIGHT = 0.98
"""Least R² of a line."""


@dataclass(frozen=True)
class Line:
    """Least squares over the points up to LINEAR_UP_TO. `slope`: ms per 0.1 of sparsity_op. `knee`: the first sparsity_op past
    which a step saves less than KNEE_SLOPE of the line's slope; None: none does. `io`: share of the time at the highest point in
    layers that I/O bounds.
    """

    slope: float
    r2: float
    knee: float | None
    io: float


def line(points: list[tuple[float, float]], io: float) -> Line:
    """The line of (sparsity_op, ms) in rising order."""
    x, y = np.array([p for p in points if p[0] <= LINEAR_UP_TO + 0.01]).T
    slope, start = np.polyfit(x, y, 1)
    r2 = 1 - float(((y - slope * x - start) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    knee = None
    for (a, before), (b, after) in pairwise(points):
        if (before - after) / (b - a) < KNEE_SLOPE * -slope:
            knee = a
            break
    return Line(slope / 10, r2, knee, io)


def verdict(lines: dict[str, Line]) -> str:
    """The claim has two halves: straight up to a medium sparsity, and bound by I/O, so that it bends, at high ones."""
    good = [
        name
        for name, found in lines.items()
        if found.r2 >= STRAIGHT and found.knee is not None and found.knee >= LINEAR_UP_TO and found.io > 0.5
    ]
    bad = "; ".join(
        f"{name}: R² {found.r2:.3f}, knee {'none' if found.knee is None else f'{found.knee:.0%}'}, {found.io:.0%} of the time I/O"
        for name, found in lines.items()
        if name not in good
    )
    if not bad:
        return "holds, under every variant"
    if good:
        return f"holds under variant {', '.join(good)} (not {bad} at the highest)"
    return f"differs, because no variant is straight up to {LINEAR_UP_TO:.0%}, bends from there on and ends bound by I/O ({bad})"


def section(context: Context) -> Section:
    """The curve of each variant, its line, and what bounds the layers."""
    path = path_of(context, "small", "trained")
    curves: dict[str, list[tuple[float, float]]] = {}
    bounds: dict[str, list[dict[str, float]]] = {}
    targets = POINTS[:: 3 if context.quick else 1]
    for target in targets:
        model, _ = pruned(path, sparsity_op=target)
        for name, deployment in costs(model).items():
            curves.setdefault(name, []).append((target, deployment.latency_ms))
            bounds.setdefault(name, []).append(by_bound(deployment))
    lines = {name: line(points, bounds[name][-1]["io"] / points[-1][1]) for name, points in curves.items()}
    rows = [
        (f"{at[0]:.1%}", *(f"{points[i][1]:.2f}" for points in curves.values()))
        for i, at in enumerate(next(iter(curves.values())))
    ]
    summary = [
        (name, f"{found.slope:.2f}", f"{found.r2:.4f}", "none" if found.knee is None else f"{found.knee:.0%}")
        for name, found in lines.items()
    ]
    text = [
        f"SSD small with trained magnitudes, pruned by the default score. Straight: an R² of at least {STRAIGHT} up to",
        f"{LINEAR_UP_TO:.0%}. The knee is where a step first saves less than {KNEE_SLOPE:.0%} of what the line does.",
        "",
        *table(("variant", "ms per 10 % up to 60 %", "R²", "knee at sparsity_op"), summary),
        "",
        *table(("sparsity_op", *(f"{name} ms" for name in curves)), rows),
        "",
        "Time by what bounds the layers, ms:",
        "",
        *table(("variant", "sparsity_op", *BOUNDS), bound_rows(bounds, targets)),
    ]
    claim = "Latency falls linearly up to a medium sparsity_op; at very high rates the system becomes bound by I/O."
    return Section(
        "linear", "Linear up to medium, overhead at high rates", claim, verdict(lines), text, {"linear": figure(curves)}
    )


def by_bound(found: Deployment) -> dict[str, float]:
    """Bound → time in ms of the layers that it bounds."""
    times = dict.fromkeys(BOUNDS, 0.0)
    for cost in found.costs:
        times[cost.bound.value] += cost.latency_ms
    return times


def bound_rows(bounds: dict[str, list[dict[str, float]]], targets: Sequence[float]) -> Iterator[tuple[str, ...]]:
    """Lines of the table: for each variant, the time by bound at each target."""
    for name, points in bounds.items():
        for target, times in zip(targets, points, strict=True):
            yield name, f"{target:.0%}", *(f"{ms:.2f}" for ms in times.values())


def figure(curves: dict[str, list[tuple[float, float]]]) -> dict[str, object]:
    """Latency over sparsity_op, one line for each variant."""
    values = [{"sparsity_op": 100 * x, "ms": y, "variant": name} for name, points in curves.items() for x, y in points]
    encoding = {
        "x": {"field": "sparsity_op", "type": "quantitative", "title": "sparsity_op, %"},
        "y": {"field": "ms", "type": "quantitative", "title": "predicted latency, ms"},
        "color": {"field": "variant", "type": "nominal", "title": None, "legend": {"orient": "top"}},
    }
    mark = {"type": "line", "point": True}
    return {"width": 420, "height": 240, "data": {"values": values}, "mark": mark, "encoding": encoding}
