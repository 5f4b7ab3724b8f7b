"""Progress of long work, reported to a listener. Without a listener, reports are dropped."""

from collections.abc import Callable, Iterator, Mapping
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


Announcer = Callable[[str, Mapping[str, object]], None]
"""Called with the name of an event and facts about it, which can be written as JSON."""


def drop(_event: str, _facts: Mapping[str, object]) -> None:
    """Drop the event: the default announcer."""


_announcer: ContextVar[Announcer] = ContextVar("announcer", default=drop)


@contextmanager
def announcing(announcer: Announcer) -> Iterator[None]:
    """Send the events of `announce` to `announcer` within the block; the previous one returns afterwards."""
    token = _announcer.set(announcer)
    try:
        yield
    finally:
        _announcer.reset(token)


def announce(event: str, **facts: object) -> None:
    """Report that something has happened, for logs that machines read."""
    _announcer.get()(event, facts)
