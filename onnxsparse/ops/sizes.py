"""Checked access to sizes: a rule that lacks a size, or gets one that does not fit its op, raises UnknownFact, not IndexError.

A rule is a formula of a few lines, and a model may hold any node. Rules therefore read sizes, attributes and items only through
the functions here and through OpView. They raise UnknownFact; its message is a clause that completes a sentence about the node
("its input 2 has open sizes"). Any other exception from a rule is a bug, and nothing catches it.
"""

from collections.abc import Iterator, Sequence
from typing import SupportsIndex, TypeVar, overload

Size = tuple[int, ...]

T = TypeVar("T", covariant=True)
A = TypeVar("A")
B = TypeVar("B")


class UnknownFact(Exception):  # noqa: N818 - not an error: a rule lacks a fact, and its result is unknown
    """A rule needs a fact that is unknown, or the node does not fit its op. The message is a clause about the node."""


class OpenSize(UnknownFact):
    """The missing fact is a size that the model leaves open and the caller can supply (`--input-shape`)."""


class Listed(tuple[T, ...]):
    """A tuple with one item per axis. Indexing an axis that does not exist raises UnknownFact, not IndexError."""

    @overload
    def __getitem__(self, at: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> "Listed[T]": ...
    def __getitem__(self, at: SupportsIndex | slice) -> "T | Listed[T]":
        """The item, or the items of a slice. Raises UnknownFact for an index outside the tuple."""
        if isinstance(at, slice):
            return Listed(super().__getitem__(at))
        if not -len(self) <= at.__index__() < len(self):
            raise UnknownFact(f"one of its values has {len(self)} axes, too few for the op")
        return super().__getitem__(at)


def known(shape: tuple[int | None, ...] | None, what: str = "a value") -> Size:
    """The shape with every size known. `what` names the value in the message.

    Raises UnknownFact if the rank is unknown (`shape` is None), and OpenSize if a size is None.
    """
    if shape is None:
        raise UnknownFact(f"the shape of {what} is not known")
    if None in shape:
        raise OpenSize(f"{what} has open sizes")
    return Listed(d for d in shape if d is not None)


def ranked(shape: Size, what: str, rank: int | None, least: int) -> Size:
    """`shape` unchanged, if it has `rank` axes (None: any number) and at least `least`.

    Raises UnknownFact otherwise; `what` names the value in the message.
    """
    if (rank is not None and len(shape) != rank) or len(shape) < least:
        raise UnknownFact(f"{what} has {len(shape)} axes, and the op takes {f'at least {least}' if rank is None else rank}")
    return shape


def counted(axis: int, rank: int) -> int:
    """The axis counted from the front; `axis` may be negative. Raises UnknownFact if a value of `rank` axes has no such axis."""
    if not -rank <= axis < rank:
        raise UnknownFact(f"its axis {axis} is none of {rank}")
    return axis % rank


def paired(a: Sequence[A], b: Sequence[B]) -> Iterator[tuple[A, B]]:
    """Pairs of items at equal positions. Raises UnknownFact if the lengths differ."""
    if len(a) != len(b):
        raise UnknownFact(f"two values that belong together have {len(a)} and {len(b)} items")
    return zip(a, b, strict=True)


def divided(size: int, by: int) -> int:
    """size / by. Raises UnknownFact if `by` does not divide `size`."""
    if by < 1 or size % by:
        raise UnknownFact(f"{by} does not divide {size} channels")
    return size // by
