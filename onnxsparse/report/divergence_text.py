"""Where two models part, for a terminal."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from onnxsparse.divergence import Divergence, TensorLoss
from onnxsparse.report.text import MAX_ROWS, note, number, table

COLUMNS = ("tensor", "node", "SQNR dB", "inputs dB", "lost dB", "diverging behind")


def print_divergence(out: Console, found: Divergence, title: str) -> None:
    """The first tensors that diverge, where most is lost, and what was not compared."""
    if found.first:
        many = f"{title}: {found.diverging} of {found.compared} tensors are below {found.min_sqnr_db:g} dB, first"
        print_losses(out, many, found.first)
    else:
        note(out, f"{title}: {nothing_diverges(found)}")
    if not set(found.losses) <= set(found.first):
        print_losses(out, "where most is lost", found.losses)
    for text in (compared(found), *found.notes):
        note(out, text)


def print_losses(out: Console, title: str, losses: Sequence[TensorLoss]) -> None:
    rows = table(title, *COLUMNS)
    rows.columns[0].max_width = 40
    rows.columns[1].justify, rows.columns[1].no_wrap, rows.columns[1].overflow = "left", False, "fold"
    for loss in losses[:MAX_ROWS]:
        lost = "" if loss.source_sqnr_db == math.inf else number(loss.lost_db, ".1f")
        figures = (decibel(loss.sqnr_db), decibel(loss.source_sqnr_db), lost)
        rows.add_row(Text(loss.tensor), Text(f"{loss.op_type} {loss.node}"), *figures, str(loss.behind or ""))
    if len(losses) > MAX_ROWS:
        rows.add_row(f"… {len(losses) - MAX_ROWS} more", *[""] * (len(COLUMNS) - 1))
    out.print(rows)
    for loss in losses[:MAX_ROWS]:
        if loss.problem is not None:
            note(out, f"{loss.tensor} {loss.problem}")


def nothing_diverges(found: Divergence) -> str:
    if not found.compared:
        return "no tensor is compared"
    if found.worst_sqnr_db == math.inf:
        return f"no tensor diverges, all {found.compared} are equal"
    return f"no tensor diverges, the lowest SQNR of {found.compared} is {decibel(found.worst_sqnr_db)} dB"


def compared(found: Divergence) -> str:
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
    return "equal" if value == math.inf else number(value, ".2f")
