"""Tables for a terminal."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxsparse.analysis.layer import MACS, PARAMS, SPARSITY, SPARSITY_OP, Layer, Layers, Totals, marks_of
from onnxsparse.format import format_count, format_share, marked, name_some
from onnxsparse.ir.binding import Binding
from onnxsparse.pipeline.base import OLD_NAME, Pass, StepReport
from onnxsparse.pipeline.plan import Plan
from onnxsparse.pipeline.run import RunReport
from onnxsparse.records import Change, Skip
from onnxsparse.runtime.compare import Comparison, OutputComparison
from onnxsparse.runtime.metric import MetricResult

WIDTH_WITHOUT_TERMINAL = 120
"""Columns of output to a file or pipe, where rich would assume 80."""

MAX_ROWS = 12
"""Rows of a table, or notes of one kind, before `… N more`."""

SORT_KEYS: dict[str, Callable[[Layer], float]] = {
    "graph": lambda layer: 0.0,
    "macs": lambda layer: -(layer.macs or 0),
    "weights": lambda layer: -layer.elements,
    "sparsity": lambda layer: -(layer.sparsity or 0),
    "sparsity_op": lambda layer: -(layer.weight_share or 0),
}


def console(*, stderr: bool = False) -> Console:
    """A console for stdout or stderr, WIDTH_WITHOUT_TERMINAL columns wide if that is not a terminal."""
    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=WIDTH_WITHOUT_TERMINAL)


def count(value: int | None) -> str:
    """A number with a unit prefix (k, M, G); `?` for None."""
    return "?" if value is None else format_count(value)


def share(value: float | None) -> str:
    """A share in per cent; empty for None."""
    return "" if value is None else format_share(value)


def table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", title_style="bold")
    made.add_column(columns[0], overflow="fold", max_width=60)
    for name in columns[1:]:
        made.add_column(name, justify="right", no_wrap=True)
    return made


def note(out: Console, text: str) -> None:
    """Print one indented line; rich does not wrap it."""
    out.print(Text(f"  {text}"), soft_wrap=True)


def print_layers(out: Console, layers: Layers, model: str, *, top: int | None, sort: str) -> None:
    """Print one row per layer (`top` of them, None: all), then totals and what could not be counted.

    `sort`: a key of SORT_KEYS.
    """
    ordered = sorted(layers, key=SORT_KEYS[sort])
    shown = ordered[:top]
    contribution = "of sparsity_op" if layers.totals.macs_complete else "of sparsity_op (known)"
    rows = table(f"{model}: {len(layers)} layers", "layer", "op", "weights", "zeros", "MACs", "nonzero", "sparsity", contribution)
    rows.columns[1].justify = "left"
    for layer in shown:
        zeros = count(layer.zeros) if layer.weights else ""
        weights = format_count(layer.elements) if layer.weights else ""
        numbers = (weights, zeros, count(layer.macs), count(layer.nonzero_macs), share(layer.sparsity), share(layer.weight_share))
        rows.add_row(Text(layer.node), layer.op_type, *numbers)
    if len(shown) < len(ordered):
        rows.add_row(f"… {len(ordered) - len(shown)} more")
    out.print(rows)
    print_totals(out, layers.totals)
    print_assumed(out, layers.binding)
    print_unknown(out, layers)


def print_totals(out: Console, totals: Totals) -> None:
    """Print the totals as one row."""
    rows = table("", "total", "weights", "zeros", "sparsity", "MACs", "nonzero MACs", "sparsity_op")
    rows.add_row("", *total_cells(totals))
    out.print(rows)


def total_cells(totals: Totals) -> tuple[str, ...]:
    """Weights, zeros, sparsity, MACs, nonzero MACs, sparsity_op; marked as bounds or ratios if something is unknown."""
    known = marks_of(totals)
    weights = [marked(count(value), known.get(PARAMS)) for value in (totals.weights, totals.zero_weights)]
    macs = [marked(count(value), known.get(MACS)) for value in (totals.macs, totals.nonzero_macs)]
    sparsity = marked(share(totals.sparsity) or "none", known.get(SPARSITY))
    nothing = "none" if totals.macs_complete else "?"
    return (*weights, sparsity, *macs, marked(share(totals.sparsity_op) or nothing, known.get(SPARSITY_OP)))


def print_assumed(out: Console, binding: Binding) -> None:
    """Print the input sizes that were assumed."""
    for text in binding.assumed:
        note(out, f"assumed: {text}")


def print_unknown(out: Console, layers: Layers) -> None:
    """Print unknown ops, layers of unknown MACs with the reason, open input sizes, and notes."""
    for op, nodes in grouped((u.op, u.node) for u in layers.unknown):
        note(out, f"unknown op {op}: MACs are unknown and not in the total ({name_some(nodes)})")
    for reason, nodes in grouped((layer.unknown or "why was not recorded", layer.node) for layer in layers.without_macs):
        note(out, f"MACs unknown and not in the total: {name_some(nodes)} ({reason})")
    sizes = layers.binding.unbound
    if sizes and any(layer.open_size for layer in layers.without_macs):
        note(out, f"open input sizes: {', '.join(sizes)}; give them with --input-shape")
    for text in layers.notes[:MAX_ROWS]:
        note(out, text)
    if len(layers.notes) > MAX_ROWS:
        note(out, f"… {len(layers.notes) - MAX_ROWS} more notes of this kind (all in --json)")


def grouped(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Values by key, in the order of first occurrence."""
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return list(found.items())


def print_run(out: Console, report: RunReport, binding: Binding) -> None:
    """Print what each pass did and how the outputs compare with the original's."""
    print_assumed(out, binding)
    for text in report.notes:
        note(out, text)
    for step in report.steps:
        print_step(out, step)
    if report.not_compared is not None:
        note(out, f"the outputs were not compared: {report.not_compared}")
    if report.comparison is not None:
        print_comparison(out, report.comparison, "outputs against the original")
    if report.metric is not None:
        note(out, metric_text(report.metric))


def print_plan(out: Console, plan: Plan) -> None:
    """Print one row per step of a plan, and why some of them did not run."""
    columns = ("file", "weights", "sparsity", "MACs", "nonzero MACs", "sparsity_op", f"ms on {plan.target}")
    rows = table("nothing is written: a dry run", "step", *columns)
    for row in plan.rows:
        weights, _, sparsity, macs, nonzero, sparsity_op = total_cells(row.totals)
        size, latency = f"{format_count(row.file_bytes)}B", marked(number(row.latency_ms, ".2f"), row.latency_mark)
        rows.add_row(Text(row.what), size, weights, sparsity, macs, nonzero, sparsity_op, latency)
    out.print(rows)
    for reason, steps in grouped((row.why_not, row.what) for row in plan.rows if row.why_not is not None):
        note(out, f"not run for the plan: {'; '.join(steps)} ({reason})")


def print_written(out: Console, paths: Sequence[Path]) -> None:
    """Print the written files; of a folder with more than MAX_ROWS, only their number."""
    folders = Counter(path.parent for path in paths)
    for folder, number in folders.items():
        if number > MAX_ROWS:
            note(out, f"wrote {number} files into {folder}")
    for path in paths:
        if folders[path.parent] <= MAX_ROWS:
            note(out, f"wrote {path}")


def print_step(out: Console, step: StepReport) -> None:
    """Print the changes, tables, skipped nodes, totals and notes of one pass."""
    print_changes(out, step.pass_name, step.changes)
    for shown in step.tables:
        rows = table(shown.title, *shown.columns)
        for row in shown.rows:
            rows.add_row(*map(Text, row))
        out.print(rows)
    print_skipped(out, step.skipped)
    if step.before is not None and step.after is not None:
        rows = table("", step.pass_name, "weights", "zeros", "sparsity", "MACs", "nonzero MACs", "sparsity_op")
        if step.before != step.after:
            rows.add_row("before", *total_cells(step.before))
        rows.add_row("after", *total_cells(step.after))
        out.print(rows)
    for text in step.notes:
        note(out, text)


def print_changes(out: Console, name: str, changes: Sequence[Change]) -> None:
    """Print the MAX_ROWS tensors that gained most zeros."""
    if not changes:
        return
    rows = table(f"{name}: {len(changes)} weight tensors changed", "layer", "elements", "zeros before", "after", "sparsity")
    largest = sorted(changes, key=lambda c: c.zeros_before - c.zeros_after)
    for change in largest[:MAX_ROWS]:
        after = format_share(change.zeros_after / change.elements)
        layer = name_some(change.nodes, 1)
        rows.add_row(Text(layer), *map(format_count, (change.elements, change.zeros_before, change.zeros_after)), after)
    if len(changes) > MAX_ROWS:
        rows.add_row(f"… {len(changes) - MAX_ROWS} more")
    out.print(rows)


def print_passes(out: Console, classes: Sequence[type[Pass]]) -> None:
    """Print every pass with the names, defaults and help of its options."""
    for found in classes:
        out.print(Text(f"\n{found.name}", style="bold") + Text(f"  {(found.__doc__ or '').splitlines()[0]}"), soft_wrap=True)
        rows = table("", "option", "default", "help")
        rows.columns[1].justify = rows.columns[2].justify = "left"
        rows.columns[2].no_wrap = False
        for field in fields(found):  # type: ignore[arg-type]  # every pass is a dataclass
            described = getattr(found, "__pydantic_fields__", {}).get(field.name)
            if OLD_NAME in getattr(described, "metadata", ()):
                continue
            default = "required" if field.default is MISSING else str(field.default)
            rows.add_row(Text(field.name), Text(default), Text(" ".join((getattr(described, "description", None) or "").split())))
        if rows.row_count:
            out.print(rows)


def print_skipped(out: Console, skipped: Sequence[Skip]) -> None:
    """Print one line per reason, with the nodes that a pass left unchanged."""
    for reason, nodes in grouped((skip.reason, skip.node) for skip in skipped):
        note(out, f"left alone, {len(nodes)} {'layer' if len(nodes) == 1 else 'layers'}: {reason} ({name_some(nodes)})")


def print_comparison(out: Console, comparison: Comparison, title: str) -> None:
    """Print one row per output, the worst slices by name, and which rows say nothing about the change.

    Columns for slices and for a classifier's choices are left out if no output has them.
    """
    sliced = any(o.worst_slice is not None for o in comparison.outputs)
    classified = any(o.top1 is not None for o in comparison.outputs)
    extra = [name for name, shown in (("worst slice dB", sliced), ("top-1 same", classified)) if shown]
    rows = table(title, "output", "max diff", "mean diff", "SQNR dB", *extra[:sliced], "cosine", *extra[sliced:])
    said: list[str] = []
    for output in comparison.outputs:
        label = output.name + (f" (feeds {output.feeds})" if output.feeds else "")
        rows.add_row(Text(label), *output_cells(output, sliced=sliced, classified=classified))
        if output.vacuous is not None:
            said.append(f"{output.name} says nothing about the change: {output.vacuous}")
        elif output.worst_slice is not None:
            said.append(f"worst slice that carries signal: {output.worst_slice.label}, {output.worst_slice.sqnr_db:.2f} dB")
    out.print(rows)
    for text in (*said, *comparison.notes):
        note(out, text)


def print_judged(out: Console, comparison: Comparison, metric: MetricResult | None, title: str) -> None:
    """Print a comparison, and the metric of both models, if there is one."""
    print_comparison(out, comparison, title)
    if metric is not None:
        note(out, metric_text(metric))


def metric_text(metric: MetricResult) -> str:
    """The metric before and after, and its change, in words."""
    unit = f" {metric.unit}" if metric.unit else ""
    return f"{metric.name}: {metric.before:.6g} before, {metric.after:.6g} after ({0.0 - metric.drop:+.4g}{unit})"


def output_cells(output: OutputComparison, *, sliced: bool, classified: bool) -> tuple[str, ...]:
    """Cells of an output's row; empty where a figure does not apply. `sliced`, `classified`: whether the table has the column."""
    worst = None if output.worst_slice is None else output.worst_slice.sqnr_db
    return (
        number(output.max_difference, ".3g"),
        number(output.mean_difference, ".3g"),
        "equal" if output.sqnr_db == math.inf else number(output.sqnr_db, ".2f"),
        *([number(worst, ".2f")] if sliced else []),
        number(output.cosine, ".5f"),
        *([share(output.top1)] if classified else []),
    )


def number(value: float | None, form: str) -> str:
    """A number in format `form`; empty for None."""
    return "" if value is None else format(value, form)
