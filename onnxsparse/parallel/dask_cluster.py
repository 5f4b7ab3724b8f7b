"""Jobs on a Dask cluster: of this machine, or an existing one.

Dask gives the job of a worker that dies to another worker, up to DEATHS times. A job that exceeds its worker's memory ends the
worker too; before that, an event with the job's name is set on the scheduler, so that the next worker knows (`Guarded`). After
the second time, the job is given up.
"""

import logging
import os
import signal
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self

from onnxsparse.errors import ParamError
from onnxsparse.parallel.executor import GivenUp, Job, Result, Work
from onnxsparse.parallel.files import Bundle

if TYPE_CHECKING:
    from distributed import Client, Future

DEATHS = 5
"""Workers that may die while they run a job, before it is given up."""

MEMORY_SHARE = 0.9
"""Share of a worker's memory at which its job is ended; Dask's own nanny ends the worker at 95 %."""

WATCH_SECONDS = 0.1
"""Time between two looks at a worker's memory."""

CONNECT_SECONDS = 20
"""Time to wait for a scheduler."""

SETTINGS = {
    "distributed.scheduler.allowed-failures": DEATHS,
    # Dask's own 64 kB give every larger array back to the system, only to ask for it again
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 1 << 28,
}
"""Dask's configuration."""

CLOSE_SECONDS = 5
"""Time to wait for workers of this machine to end."""

OVER = GivenUp("it exceeded the memory of a worker twice, the second time with half of the samples")


@dataclass(frozen=True)
class Versions:
    """What has to be the same on all workers, since results depend on it."""

    package: str
    versions: tuple[str, ...]

    def difference(self, other: "Versions") -> str | None:
        """How `other` differs, as a clause; None if it does not."""
        wanted, found = dict(v.split(" ", 1) for v in self.versions), dict(v.split(" ", 1) for v in other.versions)
        for name in wanted:
            if wanted[name] != found.get(name):
                return f"it has {name} {found.get(name)}, and this machine {wanted[name]}"
        return None if self.package == other.package else "its code of onnxsparse is another"


@dataclass(frozen=True)
class Guarded(Generic[Job, Result]):
    """A function as workers run it. `versions`: of the machine that asks; `found`: gives those of the worker."""

    function: Work[Job, Result]
    versions: Versions
    found: Any

    def __call__(self, job: Job, name: str, bundle: Bundle | None) -> Result | GivenUp:
        """Run one job. Raises ParamError on a worker with other versions, and what the function raises."""
        from distributed import Event, get_worker

        worker = get_worker()
        difference = self.versions.difference(self.found())
        if difference is not None:
            raise ParamError(f"--scheduler: the worker at {worker.address} cannot be used: {difference}")
        exceeded = [Event(f"{name} exceeded memory {count}") for count in (1, 2)]
        failures = sum(event.is_set() for event in exceeded)
        if failures == len(exceeded):
            return OVER
        limit = worker.memory_manager.memory_limit
        with Watch(None if not limit else int(limit * MEMORY_SHARE), exceeded[failures]):
            placed = job if bundle is None else job.moved(bundle.unpack(Path(worker.local_directory)))  # type: ignore[attr-defined]  # a bundle is for jobs that name files
            return self.function(placed, failures)


def held(bundle: Bundle) -> Bundle:
    """The task whose result the files are."""
    return bundle


def ignore_interrupts() -> None:
    """For a worker of this machine: Ctrl-C in a terminal goes to all processes, and is for the command alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Watch:
    """Ends the process if its memory exceeds a limit in bytes, after `event` is set. `limit` None: there is none."""

    def __init__(self, limit: int | None, event: Any) -> None:
        self.limit, self.event = limit, event
        self._done = threading.Event()

    def __enter__(self) -> Self:
        if self.limit is not None:
            threading.Thread(target=self._look, args=(self.limit,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _look(self, limit: int) -> None:
        import psutil

        own = psutil.Process()
        while not self._done.wait(WATCH_SECONDS):
            if own.memory_info().rss > limit:
                self.event.set()
                os._exit(1)  # the nanny starts another worker


class DaskCluster:
    """Runs jobs on Dask. `scheduler`: the address of a running one; None: a cluster of `workers` processes on this machine.

    `bundle`: files that jobs name, sent to each worker once; None where workers see the same files as this machine. `versions`
    and `found`: as in `Guarded`.
    """

    def __init__(
        self, workers: int, versions: Versions, found: Any, scheduler: str | None = None, bundle: Bundle | None = None
    ) -> None:
        self._wanted, self._scheduler, self._bundle = workers, scheduler, bundle
        self._versions, self._found = versions, found
        self._cluster: Any = None

    def __enter__(self) -> Self:
        """Start or find the workers. Raises ParamError if the scheduler does not answer, or has no workers."""
        import dask
        from distributed import Client, LocalCluster

        # what a worker says of its own end would go into the lines of progress
        for name in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        dask.config.set(SETTINGS | {"distributed.comm.timeouts.connect": CONNECT_SECONDS})
        if self._scheduler is None:
            self._cluster = LocalCluster(
                n_workers=self._wanted, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
            )
        try:
            self._client = Client(self._cluster or self._scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
        except (TimeoutError, OSError, ValueError) as error:
            raise ParamError(f"--scheduler {self._scheduler}: no scheduler answers there ({error})") from None
        if self._cluster is not None:
            self._client.run(ignore_interrupts)
        else:
            self._await_workers()
        self._lent = None if self._bundle is None else self._sent(self._bundle)
        return self

    def _await_workers(self) -> None:
        """Wait until a worker is there. Raises ParamError if none comes in time."""
        end = time.monotonic() + CONNECT_SECONDS
        while not self._client.scheduler_info(n_workers=-1)["workers"]:
            if time.monotonic() > end:
                self._client.close()
                raise ParamError(
                    f"--scheduler {self._scheduler}: it has no workers; start some with 'dask worker ADDRESS --nthreads 1'"
                )
            time.sleep(0.2)

    def _sent(self, bundle: Bundle) -> "Future[Bundle]":
        """The files for workers: the result of a task, which runs again if all workers that held it have died."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sending large graph")
            return self._client.submit(held, bundle, key=f"onnxsparse-{bundle.digest}", pure=False)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.close()
        if self._cluster is not None:
            with suppress(TimeoutError):  # workers that compute are killed when this process ends
                self._cluster.close(timeout=CLOSE_SECONDS)

    @property
    def client(self) -> "Client":
        """Dask's client."""
        return self._client

    def run(self, function: Work[Job, Result], jobs: Sequence[Job]) -> Iterator[tuple[int, Result | GivenUp]]:
        """As they end. Raises what the function raises."""
        from distributed import KilledWorker, as_completed

        guarded = Guarded(function, self._versions, self._found)
        names = [f"onnxsparse-{uuid.uuid4().hex}" for _ in jobs]
        futures = [
            self._client.submit(guarded, job, name, self._lent, key=name, pure=False)
            for job, name in zip(jobs, names, strict=True)
        ]
        numbers = {future.key: number for number, future in enumerate(futures)}
        try:
            for future in as_completed(futures, loop=self._client.loop):
                try:
                    yield numbers[future.key], future.result()
                except KilledWorker:
                    yield numbers[future.key], GivenUp("too many workers died while they ran it")
        finally:
            self._client.cancel(futures)
