"""Counts, shares and bounds as text."""

from typing import Literal

Mark = Literal["≥", "≤", "of what is known"]
"""What an incomplete total is: a lower bound, an upper bound, or a ratio of what is known."""


AT_LEAST: Mark = "≥"


AT_MOST: Mark = "≤"


OF_KNOWN: Mark = "of what is known"


def marked(text: str, mark: Mark | None) -> str:
    """`≥ 0.534`, `≤ 1873`, `50.00 % of what is known`; the text alone where nothing is unknown."""
    if mark is None or text == "?":
        return text
    return f"{text} {mark}" if mark == OF_KNOWN else f"{mark} {text}"


def format_count(value: int) -> str:
    """Three digits and a unit: `4.09 G`."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 999.5 * size else f"{value / size:.0f} {unit}"
    return str(value)


def format_share(value: float) -> str:
    return f"{100 * value:.2f} %"
