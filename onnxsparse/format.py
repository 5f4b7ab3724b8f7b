"""Counts, shares, bounds and lists of names as text."""

from collections.abc import Sequence
from typing import Literal

Mark = Literal["≥", "≤", "of what is known"]
"""How an incomplete total relates to the true one: a lower bound, an upper bound, or a ratio over the known part alone."""

AT_LEAST: Mark = "≥"
AT_MOST: Mark = "≤"
OF_KNOWN: Mark = "of what is known"


def marked(text: str, mark: Mark | None) -> str:
    """`text` with its mark: `≥ 0.534`, `≤ 1873`, `50.00 % of what is known`.

    The text is returned unchanged for `mark` None (the total is complete) and for the text `?` (the total is unknown).
    """
    if mark is None or text == "?":
        return text
    return f"{text} {mark}" if mark == OF_KNOWN else f"{mark} {text}"


def format_count(value: int) -> str:
    """Three significant digits and an SI prefix, as in `4.09 G`; the number itself below 1000."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 999.5 * size else f"{value / size:.0f} {unit}"
    return str(value)


def format_share(value: float) -> str:
    """A share from 0 to 1 as a percentage, as in `50.00 %`."""
    return f"{100 * value:.2f} %"


def name_some(names: Sequence[str], shown: int = 3) -> str:
    """The first `shown` names and the number of the others, as in `a, b, c and 2 more`."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
