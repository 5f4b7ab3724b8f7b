"""The pattern of the zeros: single elements, N:M groups along the input axis, or blocks."""

import re
from dataclasses import dataclass

from onnxsparse.errors import ParamError


@dataclass(frozen=True)
class GroupPattern:
    """At most `keep` nonzero elements in every `group` consecutive ones along the input axis."""

    keep: int
    group: int

    @property
    def sparsity(self) -> float:
        """Share of zeros that the pattern enforces, 0 to 1."""
        return 1 - self.keep / self.group


@dataclass(frozen=True)
class BlockPattern:
    """Blocks of `rows` output channels × `columns` input channels."""

    rows: int
    columns: int


Pattern = GroupPattern | BlockPattern | None
"""None: every element is chosen separately."""


def parse_pattern(text: str) -> Pattern:
    """`element`, `2:4` (keep 2 of every 4) or `4x1` (4 outputs × 1 input). Raises ParamError for anything else."""
    if text == "element":
        return None
    if found := re.fullmatch(r"(\d+):(\d+)", text):
        keep, group = int(found[1]), int(found[2])
        if 0 < keep < group:
            return GroupPattern(keep, group)
    if found := re.fullmatch(r"(\d+)x(\d+)", text):
        rows, columns = int(found[1]), int(found[2])
        if rows > 0 and columns > 0:
            return BlockPattern(rows, columns)
    raise ParamError(f"--pattern {text}: write element, N:M as in 2:4 (keep N of every M), or RxC as in 4x1 (outputs x inputs)")
