"""Progress of long work, on a terminal or as a log."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from onnxsparse.cli import log
from onnxsparse.cli.render.text import console
from onnxsparse.progress import announcing, listening

LOG_SECONDS = 1.0
"""Least time between two lines of a log about the same work."""


@contextmanager
def live(command: str) -> Iterator[None]:
    """Show progress on stderr within the block: as a log with --log json, else if stderr is a terminal, cleared at the end."""
    if log.is_json():
        with logged(command):
            yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    out = console(stderr=True)
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as shown:
        task = shown.add_task(command, total=None)

        def update(what: str, done: int, total: int | None) -> None:
            """Show `done` of `total` units of the work `what`; None: the total is unknown."""
            shown.tasks[task].total = total  # set directly, since rich ignores a total of None in an update
            shown.update(task, description=f"{command}: {what}", completed=done)

        with listening(update):
            yield


@contextmanager
def logged(command: str) -> Iterator[None]:
    """Print progress and events as lines of JSON within the block."""
    last: tuple[str, float] = ("", 0.0)

    def update(what: str, done: int, total: int | None) -> None:
        """Print `done` of `total` units of the work `what`, once in LOG_SECONDS, its beginning and its end always."""
        nonlocal last
        now = time.monotonic()
        if what == last[0] and done != total and now - last[1] < LOG_SECONDS:
            return
        last = what, now
        log.event("progress", command=command, what=what, done=done, total=total)

    def happened(name: str, facts: Mapping[str, object]) -> None:
        """Print an event."""
        log.event(name, command=command, **facts)

    with listening(update), announcing(happened):
        yield
