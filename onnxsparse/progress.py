"""Telling whoever listens how far long work has come; nobody has to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int | None], None]
"""Told what is being done, how many steps of it are done, and of how many (None: unknown)."""


def keep_quiet(_what: str, _done: int, _total: int | None) -> None:
    """Tell nobody."""


_listener: ContextVar[Listener] = ContextVar("listener", default=keep_quiet)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within the block, `tell` reaches `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(what: str, done: int = 0, total: int | None = None) -> None:
    """Say that `done` of `total` steps of `what` are done."""
    _listener.get()(what, done, total)
