"""Progress of long work, on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from onnxsparse.cli.render.text import console
from onnxsparse.progress import listening


@contextmanager
def live(command: str) -> Iterator[None]:
    """Within the block, what is being done is shown on stderr, if that is a terminal; nothing of it stays."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    out = console(stderr=True)
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as shown:
        task = shown.add_task(command, total=None)

        def update(what: str, done: int, total: int | None) -> None:
            shown.tasks[task].total = total  # an update with None would leave that of the work before
            shown.update(task, description=f"{command}: {what}", completed=done)

        with listening(update):
            yield
