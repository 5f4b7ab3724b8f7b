"""Markdown tables, as every benchmark writes its results."""

from collections.abc import Iterable, Sequence


def table_row(cells: Iterable[object]) -> str:
    """One line of a table. None is an empty cell; a bar inside a cell becomes a slash."""
    return f"| {' | '.join('' if cell is None else str(cell).replace('|', '/') for cell in cells)} |"


def heading(columns: Sequence[str]) -> list[str]:
    """The two lines above the rows."""
    return [table_row(columns), f"|{'---|' * len(columns)}"]


def table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """The lines of a table."""
    return [*heading(columns), *map(table_row, rows)]
