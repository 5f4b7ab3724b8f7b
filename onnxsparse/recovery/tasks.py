"""Independent tasks on all cores. Each runs as it would alone, so that results do not depend on the number of cores."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from onnxsparse.runtime.threads import thread_count

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(task: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The results of a task for each item, in order. numpy and scipy let go of the interpreter while they compute."""
    with ThreadPoolExecutor(thread_count()) as pool:
        return list(pool.map(task, items))
