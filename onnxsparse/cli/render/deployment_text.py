"""The deployment report for a terminal."""

from collections.abc import Sequence
from itertools import islice

from rich.console import Console
from rich.text import Text

from onnxsparse.cli.render.text import grouped, note, print_assumed, table
from onnxsparse.cost.backends.hardware import numbers_of
from onnxsparse.cost.estimate import Deployment, Operation, Row
from onnxsparse.cost.fit import Fit
from onnxsparse.cost.host_fallback import Tail
from onnxsparse.cost.registry import Backend
from onnxsparse.cost.report.caveats import caveats, open_sizes
from onnxsparse.cost.report.tables import (
    comparison_rows,
    formatted_totals,
    layer_comparison_rows,
    milliseconds,
    partial_models,
)
from onnxsparse.cost.sparsity_sweep import SPARSITIES, Curve
from onnxsparse.format import AT_LEAST, OF_KNOWN, marked, name_some

CURVE_COLUMNS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
"""Sparsities of a printed curve."""


def print_deployment(out: Console, found: Deployment, model: str, *, top: int | None, sort: str) -> None:
    """Print caveats, totals, layers (`top` of them, None: all) and what needs a host; `sort` is "graph" or "latency"."""
    out.print(Text(f"{model} on {named(found.backend)}", style="bold"), soft_wrap=True)
    for text in caveats(found):
        note(out, text)
    print_totals(out, found)
    print_rows(out, found, top=top, sort=sort)
    for reason, nodes in grouped((row.reason or "", row.item.node) for row in found.unknown):
        note(out, f"cost unknown and not in the total: {name_some(nodes)} ({reason})")
    if (sizes := open_sizes(found)) is not None:
        note(out, sizes)
    if found.tail is not None:
        print_tail(out, found.tail)
    if found.padded_layers:
        note(out, f"{found.padded_layers} layers do not fill the target's channel alignment; the padding costs time")
    print_assumed(out, found.load.layers.binding)


def named(backend: Backend) -> str:
    """The target's name and description."""
    return f"{backend.name}: {backend.description}" if backend.description else backend.name


def print_tail(out: Console, tail: Tail) -> None:
    """Print which nodes need a host, and where to cut the graph."""
    crossing = name_some([c.node or f"input {c.tensor}" for c in tail.crossings])
    size = "an unknown number of bytes" if tail.bytes is None else f"{tail.bytes} bytes"
    note(out, f"{len(tail.nodes)} nodes need a host, because of {name_some(tail.causes)}")
    note(out, f"cut the graph after {crossing}: {size} cross per frame")


def print_operation(out: Console, operation: Operation) -> None:
    """Print DRAM traffic and load at a frame rate."""
    many = (
        f"{operation.streams} streams in turn at {operation.fps:g} fps each"
        if operation.streams > 1
        else f"at {operation.fps:g} fps"
    )
    keeps_up = "" if operation.busy <= 1 else ": it does not keep up"
    mark = None if operation.complete else AT_LEAST
    traffic, busy = (marked(f"{value:.1f}", mark) for value in (operation.dram_mb_per_s, 100 * operation.busy))
    note(out, f"{many}: {traffic} MB/s of DRAM traffic, busy {busy} % of the time{keeps_up}")


def print_comparison_of(out: Console, found: Sequence[tuple[str, Deployment]], *, top: int | None) -> None:
    """Print several (name, deployment): totals with differences to the first, then `top` layers by name (None: all)."""
    backend = found[0][1].backend
    out.print(Text(f"on {named(backend)}", style="bold"), soft_wrap=True)
    for text in (*partial_models(found), *backend.fidelity):
        note(out, text)
    for name, deployment in found:
        for reason, nodes in grouped((row.reason or "", row.item.node) for row in deployment.unknown):
            note(out, f"{name}: cost unknown and not in the total: {name_some(nodes)} ({reason})")
    names = [name for name, _ in found]
    rows = table("", "total", *names)
    for cells_of_total in comparison_rows(found):
        rows.add_row(*cells_of_total)
    out.print(rows)
    layers = table("", "layer, ms", *names)
    for cells_of_layer in islice(layer_comparison_rows(found), top):
        layers.add_row(*map(Text, cells_of_layer))
    out.print(layers)


def print_totals(out: Console, found: Deployment) -> None:
    """Print the totals, the time by bound, measured time of no layer, and the tensors alive at the peak."""
    shown = ("latency_ms", "fps", "macs", "nonzero_macs", "sparsity_op", "mem_p_mb", "mem_a_mb", "dram_mb")
    known = formatted_totals(found)
    rows = table("", "total", "latency ms", "fps", "MACs", "nonzero", "sparsity_op", "mem_p MB", "mem_a MB", "DRAM MB")
    rows.add_row("", *(known[name] for name in shown))
    out.print(rows)
    spent = sorted(found.time_by_bound().items(), key=lambda entry: -entry[1])
    if spent:
        known_only = "" if found.costs_complete else ", of the layers whose cost is known"
        note(out, f"time by bound{known_only}: " + ", ".join(f"{bound} {ms:.2f} ms" for bound, ms in spent))
    if found.other_ms:
        note(out, f"{found.other_ms:.2f} ms of it could not be assigned to a layer")
    _, peak = found.load.peak(found.precision.activation_bits)
    if peak:
        note(out, f"mem_a is largest with {name_some(peak)}")


def print_rows(out: Console, found: Deployment, *, top: int | None, sort: str) -> None:
    """Print one row per layer; `sort` is "graph" or "latency", `top` None prints all."""
    ordered = list(found.rows) if sort == "graph" else sorted(found.rows, key=lambda r: -(r.cost.latency_ms if r.cost else 0))
    rows = table("", "layer", "op", "ms", "compute", "I/O", "bound", "density", "coef kB", "passes", "advice")
    rows.columns[1].justify = rows.columns[5].justify = rows.columns[9].justify = "left"
    shown = ordered[:top]
    for row in shown:
        rows.add_row(Text(row.item.node), row.item.op_type, *cells(row))
    if len(shown) < len(ordered):
        rows.add_row(f"… {len(ordered) - len(shown)} more")
    out.print(rows)


def print_curves(out: Console, found: Sequence[Curve]) -> None:
    """Print latency at CURVE_COLUMNS for every variant and channel factor, and the knee."""
    shown = [SPARSITIES.index(s) for s in CURVE_COLUMNS]
    rows = table("latency ms over sparsity_op", "variant", "channels", *(f"{s:.0%}" for s in CURVE_COLUMNS), "knee")
    for c in found:
        mark = None if c.complete else AT_LEAST
        knee = marked("none" if c.knee is None else f"{c.knee:.0%}", None if c.complete else OF_KNOWN)
        rows.add_row(c.variant, f"{c.channel_factor:.0%}", *(marked(f"{c.latency_ms[i]:.2f}", mark) for i in shown), knee)
    out.print(rows)
    note(out, "past the knee, pruning saves less than half of what it saves at first: cut channels there")


def cells(row: Row) -> tuple[str, ...]:
    """Cells of a layer's row after its name and op; `?` and the reason for an unknown cost."""
    if row.cost is None:
        return ("?",) * 3 + ("unknown", "", "", "", row.reason or "")
    cost, item = row.cost, row.item
    density = f"{item.nonzeros / item.weights:.1%}" if item.weights else ""
    coefficients = f"{cost.coefficient_bytes / 1000:.1f}" if item.weights else ""
    times = (f"{cost.latency_ms:.3f}", milliseconds(cost.compute_ms), milliseconds(cost.io_ms))
    return (*times, cost.bound.value, density, coefficients, str(cost.passes), "" if row.advice is None else str(row.advice))


def print_fit(out: Console, found: Fit) -> None:
    """Print the numbers before and after, residuals, the leave-one-out error, and what the data do not determine."""
    rows = table("", "number", "before", "after", "range")
    for name, value in found.values.items():
        before = numbers_of(found.start.hardware)[name]
        rows.add_row(name, f"{before.value:.4g}", f"{value:.4g}", f"{before.low:g} to {before.high:g}")
    out.print(rows)
    measured = table("", "model", "measured ms", "fitted ms", "error", "left out, error")
    for i, row in enumerate(found.rows):
        fitted = found.fitted_ms[i]
        left_out = "" if found.left_out_ms is None else f"{100 * (found.left_out_ms[i] / row.latency_ms - 1):+.1f} %"
        error = f"{100 * (fitted / row.latency_ms - 1):+.1f} %"
        mark = AT_LEAST if any(found.start.cost(item) is None for item in row.load.items) else None
        predicted = (marked(fitted_text, mark) for fitted_text in (f"{fitted:.2f}", error))
        measured.add_row(Text(row.name), f"{row.latency_ms:.2f}", *predicted, marked(left_out, mark) if left_out else "")
    out.print(measured)
    if found.left_out_ms is None:
        note(out, "fewer than three rows, so that the fit cannot be checked by leaving one out")
    else:
        note(out, f"leave-one-out error: {100 * found.left_out_error:.1f} % (mean of absolute values)")
    for text in found.warnings:
        note(out, text)
