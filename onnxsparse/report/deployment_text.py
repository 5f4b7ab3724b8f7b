"""The deployment report for a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from onnxsparse.deployment import Deployment, Row
from onnxsparse.knee import SPARSITIES, Curve
from onnxsparse.metadata import format_count
from onnxsparse.report.text import name_some, note, print_assumed, share, table

CURVE_COLUMNS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)


def print_deployment(out: Console, found: Deployment, model: str, *, top: int | None, sort: str) -> None:
    """Fidelity first, then totals, then layers."""
    out.print(Text(f"{model} on {found.hardware.name}: {found.hardware.description}", style="bold"), soft_wrap=True)
    for text in found.hardware.fidelity:
        note(out, text)
    low, high = min(found.variants.values()), max(found.variants.values())
    if len(found.variants) > 1:
        note(out, f"latency range over variants that explain the same measurements: {low:.2f} to {high:.2f} ms")
    if found.spans:
        widest = found.spans[0]
        ends = sorted((widest.low_ms, widest.high_ms))
        note(out, f"the number that moves the result most: {widest.number}, {ends[0]:.2f} to {ends[1]:.2f} ms over its range")
    print_totals(out, found)
    print_rows(out, found, top=top, sort=sort)
    if found.unknown:
        note(out, f"cost unknown and not in the total: {name_some(found.unknown)}")
    print_assumed(out, found.load.layers.binding)


def print_totals(out: Console, found: Deployment) -> None:
    totals = found.load.layers.totals
    rows = table("", "total", "latency ms", "fps", "MACs", "nonzero", "sparsity_op", "mem_p MB", "mem_a MB", "DRAM MB")
    rows.add_row(
        "",
        f"{found.latency_ms:.2f}",
        "" if found.fps is None else f"{found.fps:.1f}",
        "?" if totals.macs is None else format_count(totals.macs),
        "?" if totals.nonzero_macs is None else format_count(totals.nonzero_macs),
        share(totals.sparsity_op),
        f"{found.mem_p_mb:.2f}",
        "?" if found.mem_a_mb is None else f"{found.mem_a_mb:.2f}",
        f"{found.dram_mb:.1f}",
    )
    out.print(rows)
    spent = sorted(found.time_by_bound().items(), key=lambda entry: -entry[1])
    note(out, "time by bound: " + ", ".join(f"{bound} {ms:.2f} ms" for bound, ms in spent))


def print_rows(out: Console, found: Deployment, *, top: int | None, sort: str) -> None:
    ordered = list(found.rows) if sort == "graph" else sorted(found.rows, key=lambda r: -(r.cost.latency_ms if r.cost else 0))
    rows = table("", "layer", "op", "ms", "compute", "I/O", "bound", "density", "coef kB", "passes", "advice")
    rows.columns[1].justify = rows.columns[5].justify = rows.columns[9].justify = "left"
    shown = ordered if top is None else ordered[:top]
    for row in shown:
        rows.add_row(Text(row.item.node), row.item.op_type, *cells(row))
    if len(shown) < len(ordered):
        rows.add_row(f"… {len(ordered) - len(shown)} more", *[""] * 9)
    out.print(rows)


def print_curves(out: Console, found: Sequence[Curve]) -> None:
    """Latency at a few sparsities for every variant and channel factor, and the knee."""
    shown = [SPARSITIES.index(s) for s in CURVE_COLUMNS]
    rows = table("latency ms over sparsity_op", "variant", "channels", *(f"{s:.0%}" for s in CURVE_COLUMNS), "knee")
    for c in found:
        knee = "none" if c.knee is None else f"{c.knee:.0%}"
        rows.add_row(c.variant, f"{c.channel_factor:.0%}", *(f"{c.latency_ms[i]:.2f}" for i in shown), knee)
    out.print(rows)
    note(out, "past the knee, pruning on saves less than half of what it saved at first: cut channels there")


def cells(row: Row) -> tuple[str, ...]:
    if row.cost is None:
        return ("?",) * 3 + ("unknown", "", "", "", "")
    cost, item = row.cost, row.item
    density = f"{item.nonzeros / item.weights:.1%}" if item.weights else ""
    coefficients = f"{cost.coefficient_bytes / 1000:.1f}" if item.weights else ""
    times = (f"{cost.latency_ms:.3f}", f"{cost.compute_ms:.3f}", f"{cost.io_ms:.3f}")
    return (*times, cost.bound.value, density, coefficients, str(cost.passes), "" if row.advice is None else str(row.advice))
