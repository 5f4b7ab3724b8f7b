"""How benchmarks write their results: Markdown tables, and rows as JSON."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = TypeVar("Row", bound="DataclassInstance")


def table_row(cells: Iterable[object]) -> str:
    """One line of a table. None is an empty cell; a bar inside a cell becomes a slash."""
    return f"| {' | '.join('' if cell is None else str(cell).replace('|', '/') for cell in cells)} |"


def heading(columns: Sequence[str]) -> list[str]:
    """The two lines above the rows."""
    return [table_row(columns), f"|{'---|' * len(columns)}"]


def table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """The lines of a table."""
    return [*heading(columns), *map(table_row, rows)]


def saved(rows: Iterable[Row], out: Path) -> Iterator[Row]:
    """The rows, each once it is written to a JSON file with those before it, so that a run cut short leaves what it had."""
    found = []
    for row in rows:
        found.append(asdict(row))
        out.write_text(json.dumps(found, indent=1) + "\n")
        yield row
