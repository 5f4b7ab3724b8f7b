"""Progress of long work, reported to a listener. Without a listener, reports are dropped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int | None], None]
"""Called with what is being done, the number of steps done, and the number of steps in all (None: unknown)."""


def keep_quiet(_what: str, _done: int, _total: int | None) -> None:
    """Drop the report: the default listener."""


_listener: ContextVar[Listener] = ContextVar("listener", default=keep_quiet)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send the reports of `tell` to `listener` within the block; the previous listener returns afterwards."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(what: str, done: int = 0, total: int | None = None) -> None:
    """Report that `done` of `total` steps of `what` are done; `total` None: unknown."""
    _listener.get()(what, done, total)
