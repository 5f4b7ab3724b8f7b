"""8 bits after pruning: accuracy in int8, and whether what was pruned stays zero."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.paper.section import Context, Section
from benchmarks.paper.trained import Trained, networks, repaired
from benchmarks.tables import table
from onnxsparse import Model, Quantize, layers, load

TARGET = "cv22"
SPARSITIES = (0.0, 0.5, 0.7, 0.8)
ALLOWED_POINTS = 1.0
"""Largest loss of top-1 from floats to int8 that counts as none, in points."""

CLAIM = "The pruned networks run in 8 bits on the CV22."


@dataclass(frozen=True)
class Row:
    """A network at a sparsity_op. `zeros`: weights that are zero in floats; `kept`: those that are zero in int8 as well."""

    network: str
    sparsity_op: float
    float_top1: float
    int8_top1: float
    zeros: int
    kept: int

    @property
    def lost(self) -> float:
        """Points that int8 costs."""
        return self.float_top1 - self.int8_top1


def section(context: Context) -> Section:
    """Measure all networks that are at hand."""
    sparsities = SPARSITIES[:2] if context.quick else SPARSITIES
    rows = [row for network in networks(context) for row in measured(network, sparsities)]
    cells = [
        (
            r.network,
            f"{r.sparsity_op:.0%}",
            f"{r.float_top1:.2f}",
            f"{r.int8_top1:.2f}",
            f"{r.lost:+.2f}",
            f"{r.zeros:,}",
            f"{r.kept:,}",
        )
        for r in rows
    ]
    columns = ("network", "sparsity_op", "top-1 in floats, %", "top-1 in int8, %", "lost, points", "zeros", "zeros kept in int8")
    lines = [
        f"Pruned and repaired by `prune --data`, then quantized by `quantize --target {TARGET}` on the same pictures; int8 is "
        "computed exactly, as the CV22 does.",
        "",
        *table(columns, cells),
    ]
    if context.eval is None:
        lines += ["", "ResNet-20 is left out: it and its pictures are not at hand."]
    return Section("eight_bit", "8 bits after pruning", CLAIM, verdict(rows), lines)


def verdict(rows: list[Row]) -> str:
    """It holds if every zero stays zero, and int8 costs no pruned network more than ALLOWED_POINTS."""
    lost = [f"{row.zeros - row.kept} of {row.network} at {row.sparsity_op:.0%}" for row in rows if row.kept < row.zeros]
    worse = [f"{row.lost:.2f} points on {row.network} at {row.sparsity_op:.0%}" for row in rows if row.lost > ALLOWED_POINTS]
    if lost:
        return f"differs, because zeros do not stay: {', '.join(lost)}"
    if worse:
        return f"differs, because int8 costs {', '.join(worse)}, more than {ALLOWED_POINTS:g}"
    most = max(rows, key=lambda row: row.lost)
    return (
        f"holds: all zeros stay zero, and int8 costs at most {max(most.lost, 0.0):.2f} points of top-1 "
        f"(the bound is {ALLOWED_POINTS:g})"
    )


def measured(network: Trained, sparsities: tuple[float, ...]) -> Iterator[Row]:
    """A row for each sparsity_op; 0: the dense network."""
    for sparsity_op in sparsities:
        model = load(repaired(network.dense, network.data, sparsity_op).path if sparsity_op else network.dense)
        integers = model.copy()
        Quantize(target=TARGET, data=network.data).run(integers)
        zeros, kept = kept_zeros(model, integers)
        yield Row(network.name, sparsity_op, network.top1(model), network.top1(integers), zeros, kept)


def kept_zeros(model: Model, integers: Model) -> tuple[int, int]:
    """How many weights are zero in floats, and how many of these are integer 0."""
    zeros = kept = 0
    for before, after in zip(layers(model), layers(integers), strict=True):
        for one, other in zip(before.weights, after.weights, strict=True):
            zero = np.asarray(model.weights[one.tensor]) == 0
            zeros += int(zero.sum())
            kept += int((np.asarray(integers.weights[other.tensor])[zero] == 0).sum())
    return zeros, kept
