"""Sizes as rules see them: what is not known, or does not fit the op, is said in a clause instead of an index error.

A rule is a formula of a few lines, and a model may hold any node. Rules reach sizes, attributes and items by these alone, which
raise UnknownFact; whatever else a rule raises is a fault of its own, and nothing catches it.
"""

from collections.abc import Iterator, Sequence
from typing import SupportsIndex, TypeVar, overload

import numpy as np

Size = tuple[int, ...]

T = TypeVar("T", covariant=True)
A = TypeVar("A")
B = TypeVar("B")


class UnknownFact(Exception):  # noqa: N818 - not an error: a rule lacks a fact, and its result is unknown
    """A rule asked for a fact that is not known, or met a node that does not fit its op. The message is a whole clause."""


class OpenSize(UnknownFact):
    """The fact is a size that the model leaves open, and the caller may give."""


class Listed(tuple[T, ...]):
    """One item per axis. Asking for one that is not there raises UnknownFact: the value has not the rank that its op takes."""

    @overload
    def __getitem__(self, at: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> "Listed[T]": ...
    def __getitem__(self, at: SupportsIndex | slice) -> "T | Listed[T]":
        if isinstance(at, slice):
            return Listed(super().__getitem__(at))
        if not -len(self) <= at.__index__() < len(self):
            raise UnknownFact(f"a value of its has {len(self)} axes, which are too few for the op")
        return super().__getitem__(at)


def known(shape: tuple[int | None, ...] | None, what: str = "a value") -> Size:
    if shape is None:
        raise UnknownFact(f"the shape of {what} is not known")
    if None in shape:
        raise OpenSize(f"{what} has open sizes")
    return Listed(d for d in shape if d is not None)


def ranked(shape: Size, what: str, rank: int | None, least: int) -> Size:
    if (rank is not None and len(shape) != rank) or len(shape) < least:
        raise UnknownFact(f"{what} has {len(shape)} axes, and the op takes {f'at least {least}' if rank is None else rank}")
    return shape


def counted(axis: int, rank: int) -> int:
    """An axis that may count from the end, from the front. Raises UnknownFact for one that a value of `rank` axes has not."""
    if not -rank <= axis < rank:
        raise UnknownFact(f"its axis {axis} is none of {rank}")
    return axis % rank


def paired(a: Sequence[A], b: Sequence[B]) -> Iterator[tuple[A, B]]:
    """Items at the same places. Raises UnknownFact where there are not as many of both."""
    if len(a) != len(b):
        raise UnknownFact(f"two values that belong together have {len(a)} and {len(b)} items")
    return zip(a, b, strict=True)


def broadcast(*shapes: Size) -> Size:
    """numpy's rule. Raises UnknownFact where the shapes do not go together."""
    try:
        return Listed(np.broadcast_shapes(*shapes))
    except ValueError:
        raise UnknownFact(f"its inputs of shapes {' and '.join(map(str, map(tuple, shapes)))} do not broadcast") from None


def divided(size: int, by: int) -> int:
    """Raises UnknownFact where `by` does not divide `size`."""
    if by < 1 or size % by:
        raise UnknownFact(f"{size} channels do not make {by} equal parts")
    return size // by
