"""Number of threads that one piece of work may use: all cores, or fewer where several pieces run side by side."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_limit: ContextVar[int | None] = ContextVar("threads", default=None)


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Use at most `count` threads within the block, in sessions that are opened in it too. Results do not depend on it."""
    token = _limit.set(count)
    try:
        yield
    finally:
        _limit.reset(token)


def limit_threads(count: int) -> None:
    """Use at most `count` threads from now on, in a process that is one of several."""
    _limit.set(count)


def thread_limit() -> int | None:
    """The limit; None for all cores."""
    return _limit.get()


def thread_count() -> int:
    """The number of threads to use: the limit, or the cores that this process may run on."""
    return _limit.get() or core_count()


def core_count() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
