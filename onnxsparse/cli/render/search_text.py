"""The front of a search as text."""

from rich.console import Console
from rich.table import Table

from onnxsparse.cli.render import text
from onnxsparse.cost.report.tables import format_total
from onnxsparse.search.front import Front, excess


def print_front(out: Console, front: Front) -> None:
    """Print the front as a table, the verdict, and where the page is."""
    key = front.subject.costs.cost_key
    table = Table("point", "kind", key, front.subject.harm, "sparsity_op", "within the limits", box=None)
    table.add_row("unpruned", "", format_total(key, front.dense), "0", "", "")
    for point in sorted(front.points, key=lambda point: -point.cost):
        table.add_row(
            f"{point.number:03d}",
            point.kind,
            format_total(key, point.cost),
            f"{point.outcome.harm:.4g}",
            format_total("sparsity_op", point.outcome.totals["sparsity_op"]),
            "yes" if excess(front.subject, point.outcome) <= 0 else "no",
        )
    out.print(table)
    text.note(out, front.verdict)
    text.note(out, f"wrote {front.folder / 'index.html'}, and a folder for each point in {front.folder / 'points'}")
