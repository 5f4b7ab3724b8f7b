"""What passes and reports tell: changes, skipped layers, tables, and functions that write files."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

ArtifactWriter = Callable[[IO[bytes]], object]


def text_writer(text: str) -> ArtifactWriter:
    """Writes `text` as UTF-8."""

    def write(file: IO[bytes]) -> None:
        file.write(text.encode())

    return write


@dataclass(frozen=True)
class Change:
    """One tensor before and after. Counts are elements."""

    tensor: str
    nodes: tuple[str, ...]
    elements: int
    zeros_before: int
    zeros_after: int


@dataclass(frozen=True)
class Skip:
    """A layer that was left as it was, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class TextTable:
    """Something to show people, the first column left-aligned."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
