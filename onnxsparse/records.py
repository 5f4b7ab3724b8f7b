"""Parts of every report: changes, skipped layers, tables, and writers of files."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

ArtifactWriter = Callable[[IO[bytes]], object]
"""Writes the content of one file into a binary file that is open for writing."""


def text_writer(text: str) -> ArtifactWriter:
    """A writer of `text` as UTF-8."""

    def write(file: IO[bytes]) -> None:
        file.write(text.encode())

    return write


def json_text(document: object) -> str:
    """The text of a JSON file. Raises ValueError for NaN and infinite numbers, which JSON cannot hold."""
    return f"{json.dumps(document, indent=1, allow_nan=False)}\n"


@dataclass(frozen=True)
class Change:
    """One weight tensor before and after a pass. Counts are numbers of elements.

    `nodes`: the nodes that use the tensor.
    """

    tensor: str
    nodes: tuple[str, ...]
    elements: int
    zeros_before: int
    zeros_after: int


@dataclass(frozen=True)
class Skip:
    """A layer that a pass left unchanged, and the reason."""

    node: str
    reason: str


@dataclass(frozen=True)
class TextTable:
    """A table for people. The first column is left-aligned, the others right-aligned."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
