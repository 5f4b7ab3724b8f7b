"""A search as a whole: its points can be made again, it can be interrupted, and it does not depend on who runs the trials."""

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import optuna
import pytest

from onnxsparse import load
from onnxsparse.cost.estimate import deploy_on
from onnxsparse.parallel.executor import Executor, GivenUp, InProcess, Job, Result, Work
from onnxsparse.search.api import Effort, run_search
from onnxsparse.search.front import Front
from onnxsparse.search.subject import Subject
from onnxsparse.search.trial import Outcome, Trial
from tests.commands import Run
from tests.dask_processes import Scheduler
from tests.search.conftest import EFFORT, MACS


def content(folder: Path) -> dict[str, bytes]:
    """All that a front consists of, without the lines of recipes that name folders."""
    files = {
        str(file.relative_to(folder)): file.read_bytes() for file in sorted((folder / "points").rglob("*")) if file.is_file()
    }
    files |= {name: (folder / name).read_bytes() for name in ("search.json", "index.html")}
    places = rb"(?m)^(#|data:).*\n"
    return {name: re.sub(places, b"", text) if name.endswith("yaml") else text for name, text in files.items()}


class Stops(InProcess):
    """Runs a number of trials, and is then interrupted."""

    def __init__(self, after: int) -> None:
        self.left = after

    def run(self, function: Work[Job, Result], jobs: Sequence[Job]) -> Iterator[tuple[int, Result | GivenUp]]:
        for found in super().run(function, jobs):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            yield found


class Backwards(InProcess):
    """Runs the last trial first."""

    def run(self, function: Work[Job, Result], jobs: Sequence[Job]) -> Iterator[tuple[int, Result | GivenUp]]:
        for number in reversed(range(len(jobs))):
            yield number, function(jobs[number], 0)


class KillsOne(InProcess):
    """Runs trials on a cluster, of which it kills a worker after three."""

    def __init__(self, worker: subprocess.Popen[bytes], cluster: Executor) -> None:
        self.worker, self.cluster, self.ended = worker, cluster, 0

    def __enter__(self) -> Self:
        self.cluster.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.cluster.__exit__(kind, error, trace)

    def run(self, function: Work[Job, Result], jobs: Sequence[Job]) -> Iterator[tuple[int, Result | GivenUp]]:
        for found in self.cluster.run(function, jobs):
            self.ended += 1
            if self.ended == 3:
                self.worker.kill()
            yield found


class Forgetful(InProcess):
    """Gives the second trial up."""

    def run(self, function: Work[Job, Result], jobs: Sequence[Job]) -> Iterator[tuple[int, Result | GivenUp]]:
        for number, result in super().run(function, jobs):
            yield number, GivenUp("it exceeded the memory") if number == 1 and len(jobs) > 8 else result


def recorded(folder: Path) -> optuna.Study:
    """The study of a search."""
    storage = f"sqlite:///{folder / 'study.db'}"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def quick(trial: Trial, _failures: int) -> Outcome:
    """An outcome that follows from the parameters, without any work: the front falls, channels harm most, half fails."""
    params = trial.params
    if params.channels == 0.5:
        return Outcome(params, trial.samples, fault="it was half")
    cost = MACS * 4.0 ** -(params.reach + params.max_share / 100)
    loss = params.reach * (0.1 + (params.channels - 0.4) ** 2) + (0.001 if trial.samples else 0)
    steps = ({"prune": {"sparsity": 0.0}},) if params.channels < 1 else ({"prune-channels": {}},)
    known = dict.fromkeys(("latency_ms", "latency_ms_low", "latency_ms_high", "fps", "macs", "sparsity_op", "mem_p_mb"), 1.0)
    files = {"model.onnx": trial.subject.model.read_bytes()} if trial.keep else {}
    exceeds = (4 * cost / MACS - 1,)
    return Outcome(params, trial.samples, steps, None, known | {"nonzero_macs": cost}, exceeds, loss, None, files)


@pytest.fixture
def without_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that end at once."""
    monkeypatch.setattr("onnxsparse.search.run.run_trial", quick)


def use(monkeypatch: pytest.MonkeyPatch, executor: InProcess) -> None:
    monkeypatch.setattr(Effort, "executor", lambda *_: executor)


class TestPoints:
    def test_the_front_falls(self, ended: Front) -> None:
        costs, harms = zip(*((point.cost, point.outcome.harm) for point in ended.points), strict=True)
        assert list(costs) == sorted(costs)
        assert list(harms) == sorted(harms, reverse=True)
        assert len(set(harms)) == len(harms)

    def test_the_best_keeps_the_budget_and_others_beyond_it_are_not_accepted(self, ended: Front) -> None:
        assert ended.best is not None
        assert ended.best.cost <= MACS / 4
        assert {point.cost <= MACS / 4 for point in ended.accepted} == {True}
        assert any(point.cost > MACS / 4 for point in ended.points)

    def test_the_grid_has_single_methods_and_both(self, ended: Front) -> None:
        kinds = {point.kind for point in (*ended.points, *ended.others)}
        assert kinds == {"zeros", "channels", "both"}

    def test_costs_are_those_of_the_report_of_the_written_model(self, ended: Front) -> None:
        for point in ended.points:
            report = json.loads((point.folder / "report.json").read_text())
            assert report["totals"]["nonzero_macs"] == point.cost
            assert deploy_on(load(point.file), ended.subject.backend).load.layers.totals.nonzero_macs == point.cost

    def test_a_recipe_gives_its_model_bit_for_bit(self, ended: Front, run: Run, tmp_path: Path) -> None:
        assert len(ended.points) >= 3
        for point in ended.points:
            assert run("run", point.folder / "recipe.yaml", ended.subject.model, tmp_path / "out.onnx") == 0, run.err
            assert (tmp_path / "out.onnx").read_bytes() == point.file.read_bytes()
            assert point.recipe.passes

    def test_the_page_opens_offline_and_leads_to_the_reports(self, ended: Front) -> None:
        page = (ended.folder / "index.html").read_text()
        assert not re.search(r'(src|href)="https?:', page)
        for point in ended.points:
            assert f"href='points/{point.number:03d}/report.html'" in page
            assert (point.folder / "report.html").exists()

    def test_the_study_has_all_trials(self, ended: Front) -> None:
        trials = recorded(ended.folder).get_trials()
        assert len(trials) == 17
        assert [trial.values[0] for trial in trials[:9] if trial.values] == [
            point.cost for point in sorted((*ended.points, *ended.others), key=lambda point: point.number) if point.number < 9
        ]
        # of the second generation, those that were promoted
        assert sum(trial.state.name == "COMPLETE" for trial in trials[9:]) == 4


class TestGoingOn:
    @pytest.mark.usefixtures("without_work")
    def test_failures_come_in_the_order_of_their_trials(
        self, small: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_search(small, tmp_path / "forwards", EFFORT)
        use(monkeypatch, Backwards())
        found = run_search(small, tmp_path / "backwards", EFFORT)
        assert [outcome.params.reach for outcome in found.failed] == [0.5, 1.0, 1.25]
        assert content(tmp_path / "forwards") == content(tmp_path / "backwards")

    @pytest.mark.usefixtures("without_work")
    def test_a_second_interruption_keeps_what_the_first_kept(
        self, small: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use(monkeypatch, Stops(6))
        first = run_search(small, tmp_path / "found", EFFORT)
        assert first.points
        use(monkeypatch, Stops(0))
        second = run_search(small, tmp_path / "found", EFFORT)
        assert [point.number for point in second.points] == [point.number for point in first.points]
        assert all(point.file.exists() for point in second.points)

    @pytest.mark.usefixtures("without_work")
    @pytest.mark.parametrize("after", [0, 4, 11, 18, 24])
    def test_an_interrupted_search_comes_to_the_same_end(
        self, small: Subject, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        effort = Effort(trials=25, jobs=1)
        run_search(small, tmp_path / "whole", effort)
        with monkeypatch.context() as patch:
            use(patch, Stops(after))
            found = run_search(small, tmp_path / "found", effort)
        assert found.interrupted
        assert len(found.points) + len(found.others) <= after
        assert (tmp_path / "found" / "index.html").exists()
        run_search(small, tmp_path / "found", effort)
        assert content(tmp_path / "found") == content(tmp_path / "whole")

    @pytest.mark.usefixtures("without_work")
    @pytest.mark.parametrize("place", [0, 8, 12])
    def test_a_study_that_lacks_the_last_trials_is_filled(self, small: Subject, place: int, tmp_path: Path) -> None:
        """As after a kill while a generation was being recorded."""
        run_search(small, tmp_path / "found", EFFORT)
        before = content(tmp_path / "found")
        study = recorded(tmp_path / "found")
        trials = study.get_trials()
        storage = f"sqlite:///{tmp_path / 'found' / 'study.db'}"
        optuna.delete_study(study_name=study.study_name, storage=storage)
        other = optuna.create_study(study_name=study.study_name, storage=storage, directions=["minimize"] * 2)
        other.add_trials(trials[:place])
        run_search(small, tmp_path / "found", EFFORT)
        assert [(t.params, t.values, t.state) for t in recorded(tmp_path / "found").get_trials()] == [
            (t.params, t.values, t.state) for t in trials
        ]
        assert content(tmp_path / "found") == before

    def test_a_second_call_runs_nothing(self, ended: Front, monkeypatch: pytest.MonkeyPatch) -> None:
        before = content(ended.folder)
        use(monkeypatch, Stops(0))
        assert not run_search(ended.subject, ended.folder, EFFORT).interrupted
        assert content(ended.folder) == before

    @pytest.mark.usefixtures("without_work")
    def test_more_trials_go_on_from_there(self, small: Subject, tmp_path: Path) -> None:
        run_search(small, tmp_path / "a", Effort(trials=9, jobs=1))
        run_search(small, tmp_path / "a", EFFORT)
        run_search(small, tmp_path / "a", Effort(trials=1, jobs=1))
        run_search(small, tmp_path / "b", EFFORT)
        assert content(tmp_path / "a") == content(tmp_path / "b")

    def test_the_order_in_which_trials_end_does_not_matter(
        self, ended: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nor does it matter which of them measures what others use as well."""
        use(monkeypatch, Backwards())
        run_search(ended.subject, tmp_path / "found", EFFORT)
        assert content(tmp_path / "found") == content(ended.folder)

    def test_workers_of_a_cluster_come_to_the_same_end(self, ended: Front, tmp_path: Path) -> None:
        run_search(ended.subject, tmp_path / "found", Effort(trials=17, jobs=3))
        assert content(tmp_path / "found") == content(ended.folder)

    def test_workers_without_the_files_come_to_the_same_end(
        self, ended: Front, scheduler: Scheduler, copied: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The paths are relative, and mean nothing in the folders of the workers, of which one dies."""
        workers = [scheduler.worker() for _ in range(2)]
        monkeypatch.chdir(tmp_path)
        subject = replace(copied, model=Path(copied.model.name), data=Path(copied.data.name))
        killed = KillsOne(workers[0], Effort(jobs=1, scheduler=scheduler.address).executor(subject.absolute()))
        use(monkeypatch, killed)
        run_search(subject, Path("found"), EFFORT)
        assert killed.ended > 3
        assert content(tmp_path / "found") == content(ended.folder)

    @pytest.mark.usefixtures("without_work")
    def test_a_trial_that_was_given_up_is_named(self, small: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        use(monkeypatch, Forgetful())
        found = run_search(small, tmp_path / "found", Effort(trials=9))
        assert "it exceeded the memory" in [outcome.fault for outcome in found.failed]
        assert "it exceeded the memory" in (tmp_path / "found" / "index.html").read_text()
        assert len(found.points) + len(found.others) == 6  # without the three that are half and half
        assert recorded(tmp_path / "found").get_trials()[1].state.name == "FAIL"
