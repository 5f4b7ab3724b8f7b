"""Progress of long work, on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from onnxsparse.cli.render.text import console
from onnxsparse.progress import listening


@contextmanager
def live(command: str) -> Iterator[None]:
    """Show progress on stderr within the block, if stderr is a terminal; the display is cleared at the end."""
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
