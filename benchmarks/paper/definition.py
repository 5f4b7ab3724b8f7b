"""Which definition of sparsity predicts latency: the share of zero weights, or of operations on them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.paper.detectors import costs, path_of, pruned
from benchmarks.paper.section import Context, Section
from benchmarks.tables import table

TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9)

PROFILES: dict[str, dict[str, Any]] = {
    "lamp over operations": {"cost_exponent": 1.0},
    "lamp": {"cost_exponent": 0.0},
    "L1": {"score": "l1", "cost_exponent": 0.0},
}

DECIDED = 0.1
"""How much larger the square of one correlation has to be than that of the other."""


@dataclass(frozen=True)
class File:
    """One pruned file. `asked`: the kind of target. `latency_ms`: by variant."""

    asked: str
    target: float
    profile: str
    sparsity: float
    sparsity_op: float
    latency_ms: dict[str, float]


def files(context: Context) -> list[File]:
    """30 files: both kinds of target, five values, three scores."""
    path, found = path_of(context, "small", "trained"), []
    for kind in ("sparsity", "sparsity_op"):
        for target in TARGETS[:: 2 if context.quick else 1]:
            for profile, options in PROFILES.items():
                model, totals = pruned(path, protect="none", **{kind: target}, **options)
                latency = {name: deployment.latency_ms for name, deployment in costs(model).items()}
                found.append(File(kind, target, profile, totals.sparsity or 0.0, totals.sparsity_op or 0.0, latency))
    return found


def explained(found: list[File], kind: str, variant: str) -> float:
    """The squared correlation of latency with a definition, over all files."""
    return float(np.corrcoef([getattr(f, kind) for f in found], [f.latency_ms[variant] for f in found])[0, 1] ** 2)


def verdict(shares: dict[str, tuple[float, float]]) -> str:
    """`shares`: variant → what sparsity explains, what sparsity_op explains."""
    good = [name for name, (plain, operations) in shares.items() if operations > plain + DECIDED]
    if len(good) == len(shares):
        return "holds, under every variant"
    if good:
        return f"holds under variant {', '.join(good)}"
    told = ", ".join(f"{name}: {operations:.2f} against {plain:.2f}" for name, (plain, operations) in shares.items())
    return f"differs, because sparsity_op explains no more of the latency than sparsity does ({told})"


def section(context: Context) -> Section:
    """What either definition explains, and latencies at equal values of it."""
    found = files(context)
    names = list(found[0].latency_ms)
    shares = {name: (explained(found, "sparsity", name), explained(found, "sparsity_op", name)) for name in names}
    rows = []
    for kind in ("sparsity", "sparsity_op"):
        for target in sorted({f.target for f in found}):
            same = [f.latency_ms["cv22"] for f in found if (f.asked, f.target) == (kind, target)]
            rows.append((kind, f"{target:.0%}", f"{min(same):.1f} to {max(same):.1f}", f"{max(same) / min(same):.2f}"))
    lines = [
        f"{len(found)} files of SSD small, trained magnitudes, pruned to equal sparsity and equal sparsity_op by three scores.",
        "",
        *table(
            ("variant", "R² with sparsity", "R² with sparsity_op"), [(n, f"{a:.3f}", f"{b:.3f}") for n, (a, b) in shares.items()]
        ),
        "",
        *table(("equal", "at", "latency on cv22, ms", "largest over smallest"), rows),
    ]
    claim = (
        "On hardware that skips zeros, sparsity_op (operations on zeros) is what latency follows, not the share of zero weights."
    )
    return Section("definition", "Which definition matters", claim, verdict(shares), lines, {"definition": figure(found)})


def figure(found: list[File]) -> dict[str, object]:
    """Latency over either definition, side by side."""
    values = [
        {"sparsity": 100 * f.sparsity, "sparsity_op": 100 * f.sparsity_op, "ms": f.latency_ms["cv22"], "score": f.profile}
        for f in found
    ]
    panels = [
        {
            "width": 260,
            "height": 220,
            "mark": "point",
            "encoding": {
                "x": {"field": kind, "type": "quantitative", "title": f"{kind}, %", "scale": {"zero": False}},
                "y": {"field": "ms", "type": "quantitative", "title": "latency on cv22, ms"},
                "color": {"field": "score", "type": "nominal", "title": None, "legend": {"orient": "bottom"}},
            },
        }
        for kind in ("sparsity", "sparsity_op")
    ]
    return {"data": {"values": values}, "hconcat": panels}
