"""Executors: each gives the same results, whatever happens to workers."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from onnxsparse.errors import BackendError, ParamError
from onnxsparse.parallel.dask_cluster import DaskCluster, Versions
from onnxsparse.parallel.executor import Executor, GivenUp, InProcess, Job, Processes, Result, Work, in_order, local
from onnxsparse.parallel.files import Bundle
from tests.dask_processes import Scheduler
from tests.parallel import jobs


def dask(address: str | None = None, workers: int = 2, bundle: Bundle | None = None) -> DaskCluster:
    return DaskCluster(workers, jobs.HERE, jobs.here, address, bundle)


@pytest.mark.parametrize("executor", [InProcess(), Processes(2), dask()], ids=["in process", "processes", "dask"])
def test_results_come_with_the_numbers_of_their_jobs(executor: Executor) -> None:
    with executor as running:
        assert sorted(running.run(jobs.square, range(2, 7))) == [(0, 4), (1, 9), (2, 16), (3, 25), (4, 36)]
        with pytest.raises(ValueError, match="two is refused"):
            list(running.run(jobs.refuse, range(4)))


class Careless(InProcess):
    """Gives every job up."""

    def run(self, function: Work[Job, Result], jobs: Sequence[Job]) -> Iterator[tuple[int, Result | GivenUp]]:
        yield from ((number, GivenUp("it was too much")) for number in range(len(jobs)))


def test_results_in_order() -> None:
    with local(2) as running:
        assert in_order(running, jobs.square, [3, 1, 2]) == [9, 1, 4]
    with pytest.raises(BackendError, match="job 1 of 2 was given up: it was too much"):
        in_order(Careless(), jobs.square, [3, 1])


def test_one_worker_needs_no_process() -> None:
    assert isinstance(local(1), InProcess)
    assert isinstance(local(3), Processes)


def test_an_error_ends_processes_which_clean_up(tmp_path: Path) -> None:
    def results(running: Executor) -> None:
        with suppress(BackendError):
            list(running.run(jobs.wait, [tmp_path]))

    def interrupted() -> None:
        with local(2) as running:
            threading.Thread(target=results, args=(running,), daemon=True).start()
            while not (tmp_path / "begun").exists():
                time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_process_that_is_killed_is_one_line() -> None:
    with local(2) as running, pytest.raises(BackendError, match="give fewer --jobs"):
        in_order(running, jobs.killed, [1, 2])


class TestLocalCluster:
    @pytest.fixture
    def memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Workers of 400 MB, so that little memory is too much."""
        import distributed

        original: Any = distributed.LocalCluster

        def small(**options: object) -> object:
            return original(**options, memory_limit="400MB")

        monkeypatch.setattr(distributed, "LocalCluster", small)

    def test_the_job_of_a_dead_worker_runs_on_another(self, tmp_path: Path) -> None:
        given = [jobs.Leaving(tmp_path / "mark", number) for number in range(3)]
        with dask() as running:
            assert sorted(running.run(jobs.die_once, given)) == [(0, 0), (1, 1), (2, 2)]

    @pytest.mark.usefixtures("memory")
    def test_a_job_over_memory_is_told_so_and_given_up_the_second_time(self) -> None:
        with dask() as running:
            found = dict(running.run(jobs.greedy, [1, 2]))
        assert found[0] == (1, 1)
        assert isinstance(found[1], GivenUp)
        assert "memory" in found[1].reason

    def test_a_worker_with_other_versions_is_named(self) -> None:
        refusal = pytest.raises(ParamError, match=r"worker at tcp://.* cannot be used: it has numpy 3, and this machine 1")
        with DaskCluster(1, jobs.HERE, jobs.elsewhere) as running, refusal:
            list(running.run(jobs.square, [1]))


def test_a_scheduler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxsparse.parallel.dask_cluster.CONNECT_SECONDS", 1)
    with pytest.raises(ParamError, match=r"--scheduler tcp://127.0.0.1:9: no scheduler answers"), dask("tcp://127.0.0.1:9"):
        pass


def test_versions_tell_what_differs() -> None:
    mine = Versions("code", ("numpy 1",))
    assert mine.difference(mine) is None
    assert mine.difference(Versions("other", ("numpy 1",))) == "its code of onnxsparse is another"
    assert mine.difference(Versions("code", ())) == "it has numpy None, and this machine 1"


class TestExistingCluster:
    def test_one_worker_is_killed_and_one_joins_late(self, scheduler: Scheduler) -> None:
        first, _ = scheduler.worker(), scheduler.worker()
        with dask(scheduler.address) as running:
            found = {}
            for number, result in running.run(jobs.slow_square, range(12)):
                found[number] = result
                if len(found) == 2:
                    first.send_signal(signal.SIGKILL)
                    scheduler.worker()
        assert found == {number: number**2 for number in range(12)}

    def test_files_are_sent_to_workers_once(self, scheduler: Scheduler, tmp_path: Path) -> None:
        scheduler.worker()
        (tmp_path / "data").mkdir()
        given = [tmp_path / "data" / name for name in ("a", "b")]
        for file in given:
            file.write_text(file.name)
        with dask(scheduler.address, bundle=Bundle.of(given)) as running:
            for file in given:
                file.write_text("changed since")
            found = dict(running.run(jobs.read, [jobs.Reading(file) for file in given]))
        places, contents = zip(*(found[number] for number in range(2)), strict=True)
        assert contents == ("a", "b")
        assert all(str(tmp_path / "spool") in place for place in places)

    def test_files_outlive_the_worker_that_held_them(self, scheduler: Scheduler, tmp_path: Path) -> None:
        first = scheduler.worker()
        file = tmp_path / "model"
        file.write_text("content")
        with dask(scheduler.address, bundle=Bundle.of([file])) as running:
            contents = []
            for _, found in running.run(jobs.read_slowly, [jobs.Reading(file)] * 4):
                assert not isinstance(found, GivenUp)
                contents.append(found[1])
                if len(contents) == 1:
                    first.kill()
                    first.wait()
                    scheduler.worker()
        assert contents == ["content"] * 4

    def test_without_workers(self, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("onnxsparse.parallel.dask_cluster.CONNECT_SECONDS", 1)
        with pytest.raises(ParamError, match=r"--scheduler tcp.*: it has no workers; start some"), dask(scheduler.address):
            pass
