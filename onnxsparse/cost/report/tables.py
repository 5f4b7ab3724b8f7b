"""The deployment report as CSV and Markdown."""

import csv
import io
from collections.abc import Iterator, Sequence

from onnxsparse.cost.estimate import Deployment, Row
from onnxsparse.cost.report.caveats import caveats, open_sizes
from onnxsparse.cost.report.completeness import assumed_free, incomplete, marks
from onnxsparse.cost.report.records import differences, row_json, totals
from onnxsparse.format import Mark, format_count, format_share, marked

COLUMNS = (
    "node op_type macs nonzero_macs weights density sparsity_op latency_ms compute_ms io_ms overhead_ms bound coefficient_bytes "
    "input_bytes output_bytes passes dram_bytes padded_channels advice reason"
).split()


def layers_csv(found: Deployment) -> str:
    """CSV text with one row per layer; unknown cells are empty, and `reason` says why."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in found.rows:
        facts = row_json(row)
        writer.writerow(["" if facts.get(column) is None else facts[column] for column in COLUMNS])
    return out.getvalue()


def format_total(name: str, value: float | None, mark: Mark | None = None) -> str:
    """A total as text: MACs with a unit prefix, shares in per cent, others with three decimals; `?` for None; bounds marked."""
    if value is None:
        return "?"
    if name.endswith("macs"):
        text = format_count(round(value)) if value >= 0 else f"-{format_count(round(-value))}"
    else:
        text = format_share(value) if name.startswith("sparsity") else f"{value:.3f}"
    return marked(text, mark)


def formatted_totals(found: Deployment) -> dict[str, str]:
    """Total → text, bounds marked."""
    bounds = marks(found)
    return {name: format_total(name, value, bounds.get(name)) for name, value in totals(found).items()}


def markdown(found: Deployment, model: str) -> str:
    """The report as Markdown text: caveats, totals, then layers with advice, slowest first."""
    lines = [f"# {model} on {found.backend.name}", "", *(f"- {line}" for line in caveats(found)), ""]
    lines += rows_of(("total", ""), iter(formatted_totals(found).items()))
    if found.tail is not None:
        crossing = ", ".join(f"`{c.node or c.tensor}`" for c in found.tail.crossings)
        lines += ["", f"{len(found.tail.nodes)} nodes need a host; cut the graph after {crossing}."]
    if found.unknown:
        lines += ["", f"{len(found.unknown)} layers have no known cost and are not in the totals; they are last below."]
    if (sizes := open_sizes(found)) is not None:
        lines += ["", f"{sizes[0].upper()}{sizes[1:]}."]
    lines += ["", "## Layers, slowest first", ""]
    header = ("layer", "op", "ms", "compute", "I/O", "bound", "density", "advice")
    slowest = sorted(found.rows, key=lambda row: -(row.cost.latency_ms if row.cost else -1))
    lines += rows_of(header, (layer_cells(row) for row in slowest))
    return "\n".join(lines) + "\n"


def layer_cells(row: Row) -> tuple[str, ...]:
    """Cells of a layer's row in Markdown; `?` and the reason for an unknown cost."""
    item, cost = row.item, row.cost
    density = format_share(item.nonzeros / item.weights) if item.weights else ""
    if cost is None:
        return (f"`{item.node}`", item.op_type, "?", "", "", row.reason or "", density, "")
    times = (f"{cost.latency_ms:.3f}", milliseconds(cost.compute_ms), milliseconds(cost.io_ms))
    return (f"`{item.node}`", item.op_type, *times, cost.bound.value, density, str(row.advice or ""))


def milliseconds(value: float | None) -> str:
    """Milliseconds with three decimals; empty for None."""
    return "" if value is None else f"{value:.3f}"


def comparison_rows(found: Sequence[tuple[str, Deployment]]) -> Iterator[tuple[str, ...]]:
    """One row per total: its name, the first model's value, then those of the others with the difference to the first."""
    first = found[0][1]
    columns = [(formatted_totals(deployment), differences(deployment, first)) for _, deployment in found[1:]]
    for name, text in formatted_totals(first).items():
        others = []
        for shown, moved in columns:
            change = moved[name]
            sign = "" if change is None or change < 0 else "+"
            others.append(shown[name] + ("" if change is None else f" ({sign}{format_total(name, change)})"))
        yield (name, text, *others)


def layer_comparison_rows(found: Sequence[tuple[str, Deployment]]) -> Iterator[tuple[str, ...]]:
    """One row per layer name: milliseconds in each model, the largest change first.

    A cell is empty if the model has no layer of that name, and `?` if its cost is unknown.
    """
    unknown = [{row.item.node for row in d.unknown} for _, d in found]
    columns = [{row.item.node: row.cost.latency_ms for row in d.rows if row.cost is not None} for _, d in found]
    names = list(dict.fromkeys(name for named in (*columns, *unknown) for name in named))
    change = {name: max(c.get(name, 0.0) for c in columns) - min(c.get(name, 0.0) for c in columns) for name in names}
    for name in sorted(names, key=lambda n: -change[n]):
        cells = zip(columns, unknown, strict=True)
        yield (name, *("?" if name in gone else milliseconds(column.get(name)) for column, gone in cells))


def comparison_markdown(found: Sequence[tuple[str, Deployment]]) -> str:
    """The comparison of several (name, deployment) with the first, as Markdown text."""
    names = [name for name, _ in found]
    backend = found[0][1].backend
    told = (*partial_models(found), *backend.fidelity)
    lines = [f"# {', '.join(names)} on {backend.name}", "", *(f"- {line}" for line in told), ""]
    lines += [*rows_of(("total", *names), comparison_rows(found)), ""]
    lines += rows_of(("layer, ms", *names), layer_comparison_rows(found))
    return "\n".join(lines) + "\n"


def partial_models(found: Sequence[tuple[str, Deployment]]) -> Iterator[str]:
    """What is missing from each model's totals, and its nodes that are assumed free, with the model's name."""
    for name, deployment in found:
        for text in (incomplete(deployment), assumed_free(deployment.load.layers)):
            if text is not None:
                yield f"{name}: {text}"


def rows_of(header: Sequence[str], rows: Iterator[tuple[str, ...]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]
