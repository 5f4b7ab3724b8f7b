"""Where two models diverge, for a terminal."""

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxsparse.cli.render.text import MAX_ROWS, note, number, table
from onnxsparse.runtime.bisect import Divergence, TensorLoss

COLUMNS = ("tensor", "node", "SQNR dB", "inputs dB", "lost dB")


def print_divergence(out: Console, found: Divergence, title: str) -> None:
    """Print the first tensors that diverge, those where most is lost, and how many were not compared."""
    if found.first:
        print_first(
            out, found, f"{title}: {found.diverging} of {found.compared} tensors are below {found.min_sqnr_db:g} dB, first"
        )
    else:
        note(out, f"{title}: {nothing_diverges(found)}")
    if not set(found.losses) <= set(found.first):
        rows = losses_table("where most is lost", *COLUMNS)
        for loss in found.losses:
            rows.add_row(*cells(loss))
        out.print(rows)
    for text in (compared(found), *found.notes):
        note(out, text)


def print_first(out: Console, found: Divergence, title: str) -> None:
    """Print the first diverging tensors, at most MAX_ROWS, and why some do not compare."""
    shown = found.first[:MAX_ROWS]
    rows = losses_table(title, *COLUMNS, "diverging downstream")
    for loss in shown:
        rows.add_row(*cells(loss), str(loss.downstream))
    if len(shown) < len(found.first):
        rows.add_row(f"… {len(found.first) - len(shown)} more")
    out.print(rows)
    for loss in shown:
        if loss.problem is not None:
            note(out, f"{loss.tensor} {loss.problem}")


def losses_table(title: str, *columns: str) -> Table:
    """A table whose second column, the node, is text that may wrap."""
    rows = table(title, *columns)
    node = rows.columns[1]
    node.justify, node.no_wrap, node.overflow = "left", False, "fold"
    return rows


def cells(loss: TensorLoss) -> tuple[Text | str, ...]:
    """Cells of COLUMNS; the loss is empty if the inputs are equal."""
    lost = "" if loss.source_sqnr_db == math.inf else number(loss.lost_db, ".1f")
    return Text(loss.tensor), Text(f"{loss.op_type} {loss.node}"), decibel(loss.sqnr_db), decibel(loss.source_sqnr_db), lost


def nothing_diverges(found: Divergence) -> str:
    """A sentence for two models without a diverging tensor."""
    if not found.compared:
        return "no tensor is compared"
    if found.worst_sqnr_db == math.inf:
        return f"no tensor diverges, all {found.compared} are equal"
    return f"no tensor diverges, the lowest SQNR of {found.compared} is {decibel(found.worst_sqnr_db)} dB"


def compared(found: Divergence) -> str:
    """How many tensors were compared, and how many were not, by reason."""
    left = found.uncompared
    counts = {
        "only in the first model": left.only_first,
        "only in the second": left.only_second,
        "not floats": left.not_float,
        "computed of weights alone": left.constant,
    }
    rest = "".join(f", {count} {what}" for what, count in counts.items() if count)
    return f"{found.compared} tensors of the same name compared{rest}"


def decibel(value: float | None) -> str:
    """Decibels with two decimals; `equal` for infinity, empty for None."""
    return "equal" if value == math.inf else number(value, ".2f")
