"""The interface of executors, and those of this machine.

An executor runs one function on many jobs. Results come as they end, each with the number of its job, so that a caller can keep
them at once. They do not depend on the executor, on the number of workers, or on the order in which jobs end.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from types import FrameType, TracebackType
from typing import Protocol, Self, TypeVar

from onnxsparse.errors import BackendError
from onnxsparse.progress import tell
from onnxsparse.runtime.threads import core_count, limit_threads

Job = TypeVar("Job")
Result = TypeVar("Result")

Work = Callable[[Job, int], Result]
"""A function of a job, and of how often the job has exceeded a worker's memory before."""


@dataclass(frozen=True)
class GivenUp:
    """In place of a result: a job that no worker could finish. `reason`: a clause."""

    reason: str


class Executor(Protocol):
    """Runs jobs. It is a context manager; its workers end with the block."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def run(self, function: Work[Job, Result], jobs: Sequence[Job]) -> Iterator[tuple[int, Result | GivenUp]]:
        """(number of the job, result), as jobs end. What the function raises is raised here."""


class InProcess:
    """Runs jobs one after the other in this process."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing is to be ended."""

    def run(self, function: Work[Job, Result], jobs: Sequence[Job]) -> Iterator[tuple[int, Result | GivenUp]]:
        """In the order of the jobs. Raises what the function raises."""
        for number, job in enumerate(jobs):
            yield number, function(job, 0)


class Ending(BaseException):
    """This process is to end; raised inside a job, so that it removes its temporary files."""


_working = False
"""Whether this process works on a job now."""


def end(_signal: int, _frame: FrameType | None) -> None:
    """End this process. Raises Ending inside of the job on which it works, if any, so that this cleans up first."""
    if _working:
        raise Ending
    os._exit(1)


def begin(threads: int) -> None:
    """Prepare a process that works on jobs. Ctrl-C in a terminal goes to all processes, and is for the caller alone."""
    limit_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)


def worked(function: Work[Job, Result], job: Job) -> Result:
    """The result of a job, in a process of its own."""
    global _working
    _working = True
    try:
        return function(job, 0)
    except Ending:
        os._exit(1)
    finally:
        _working = False


class Processes:
    """Runs jobs in `workers` processes of this machine, which share its cores. Functions, jobs and results are pickled."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def __enter__(self) -> Self:
        # a fork would copy the threads' locks of onnxruntime
        each = max(1, core_count() // self._workers)
        self._others = active_children()
        self._pool = ProcessPoolExecutor(self._workers, get_context("spawn"), begin, (each,))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            for process in active_children():
                if process not in self._others:
                    process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def run(self, function: Work[Job, Result], jobs: Sequence[Job]) -> Iterator[tuple[int, Result | GivenUp]]:
        """As they end. Raises what the function raises, and BackendError if a process is killed, as for memory."""
        numbers = {self._pool.submit(worked, function, job): number for number, job in enumerate(jobs)}
        try:
            for future in as_completed(numbers):
                yield numbers[future], future.result()
        except BrokenProcessPool:
            raise BackendError("a worker process was killed, for memory perhaps; give fewer --jobs") from None


def in_order(executor: Executor, function: Work[Job, Result], jobs: Sequence[Job]) -> list[Result]:
    """The results in the order of the jobs. Raises what the function raises, and BackendError for a job that was given up."""
    found: dict[int, Result] = {}
    for number, result in executor.run(function, jobs):
        if isinstance(result, GivenUp):
            raise BackendError(f"job {number + 1} of {len(jobs)} was given up: {result.reason}")
        found[number] = result
        tell("jobs", len(found), len(jobs))
    return [found[number] for number in range(len(jobs))]


def local(workers: int) -> Executor:
    """The executor of this machine for a number of workers."""
    return InProcess() if workers == 1 else Processes(workers)
