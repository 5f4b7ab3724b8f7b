"""The search as one function."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from onnxsparse.errors import ModelError, ParamError
from onnxsparse.ir.files import check_folder
from onnxsparse.parallel.dask_cluster import DaskCluster, Versions
from onnxsparse.parallel.executor import Executor, InProcess
from onnxsparse.parallel.files import Bundle
from onnxsparse.passes.prune_channels import PruneChannels
from onnxsparse.pipeline.cache import code, versions
from onnxsparse.pipeline.reuse import store
from onnxsparse.pipeline.run import check_on_model, check_passes
from onnxsparse.runtime.threads import core_count
from onnxsparse.search.bounds import bounds, farthest
from onnxsparse.search.budgets import read_budgets
from onnxsparse.search.front import Front
from onnxsparse.search.generations import open_study
from onnxsparse.search.run import Search
from onnxsparse.search.subject import PATHS, Subject
from onnxsparse.search.trial import data_options

TRIALS = 48
"""Trials of a search without a number of its own."""

STATE = "state.json"
"""The file of a search's folder that says what is searched for."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long a search runs, and where. `trials`: rounded up to whole generations. `minutes`: None: no limit.

    `jobs`: trials at the same time on this machine; None: one for each core. `scheduler`: the address of a Dask scheduler; None:
    workers of this machine. `storage`: the URL of the study's database; None: study.db in the folder.
    """

    trials: int = TRIALS
    minutes: float | None = None
    jobs: int | None = None
    scheduler: str | None = None
    storage: str | None = None

    def executor(self, subject: Subject) -> Executor:
        """What runs the trials."""
        jobs = self.jobs or core_count()
        if self.scheduler is None and jobs == 1:
            return InProcess()
        bundle = None if self.scheduler is None else Bundle.of(subject.files())
        return DaskCluster(jobs, own_versions(), own_versions, self.scheduler, bundle)


def search(
    model: Path | str,
    data: Path | str,
    out: Path | str | None = None,
    *,
    budget: Mapping[str, float] | None = None,
    target: str = "cv22",
    effort: Effort = Effort(),
    **more: object,
) -> Front:
    """Search for the combination of channel cuts, zeros and widths that meets `budget` (total → limit) at the least harm.

    `out`: a folder for the points (default: the model's name with `-search`, in the working directory); a second call with the
    same arguments goes on from it. `more`: further fields of `Subject`.

    Raises ParamError, ModelError and BackendError for options, files or data that are at fault; nothing is written then.
    """
    budgets = read_budgets([f"{name}={value!r}" for name, value in (budget or {}).items()])
    named = {name: Path(str(value)) if name in PATHS and value is not None else value for name, value in more.items()}
    given = {"model": Path(model), "data": Path(data), "target": target, "budgets": budgets, **named}
    folder = Path(f"{Path(model).stem}-search" if out is None else out)
    return run_search(Subject(**given), folder, effort)  # type: ignore[arg-type]  # names are those of the fields


def run_search(subject: Subject, out: Path, effort: Effort = Effort()) -> Front:
    """Search. Results and errors are those of `search`.

    1. Check packages, limits, data and the metric, before anything is written.
    2. Find what the model costs, and the least that can be reached.
    3. Run generations of trials, or go on with them.
    """
    check_extra()
    check_limits(subject)
    subject = subject.absolute()
    model = subject.load()
    learning = PruneChannels(**data_options(subject), memory=subject.memory)
    check_passes([learning])
    check_on_model([learning], model)
    metric = subject.judging.loaded_metric()
    if metric is not None:
        subject.judging.judge([learning], model).before(metric)
    subject, known = (subject, bounds(subject)) if subject.budgets else farthest(subject)
    check_out(out, subject)
    key = subject.digest()
    study = None if effort.storage is None else open_study(effort.storage, key[:16])
    with effort.executor(subject) as executor:
        out.mkdir(exist_ok=True)
        store(out / STATE, f"{json.dumps({'search': key})}\n".encode())
        if study is None:
            study = open_study(f"sqlite:///{out.absolute() / 'study.db'}", key[:16])
        return Search(subject, known, out, executor, study, effort.trials, effort.minutes).run()


def own_versions() -> Versions:
    """The versions of this process."""
    return Versions(code(), versions())


def check_extra() -> None:
    """Raises ParamError if the packages for searching are not installed."""
    lacking = [name for name in ("optuna", "distributed") if find_spec(name) is None]
    if lacking:
        raise ParamError(f"search needs {' and '.join(lacking)}: pip install 'onnxsparse[search]'")


def check_limits(subject: Subject) -> None:
    """Raises ParamError without a limit, or for half of one."""
    if subject.max_drop is not None and subject.metric is None:
        raise ParamError("search: --max-drop is for a metric; give --metric as well")
    if not subject.budgets and subject.max_drop is None:
        raise ParamError("search: give a budget, as --budget latency_ms=35, or --metric and --max-drop")


def check_out(out: Path, subject: Subject) -> None:
    """Raises ParamError for a folder that holds anything but this search, ModelError for one that may not be written to."""
    check_folder(out if out.exists() else out.absolute().parent, f"search: -o {out}")
    if not out.exists() or not any(out.iterdir()):
        return
    try:
        kept = json.loads((out / STATE).read_text(encoding="utf-8"))["search"]
    except FileNotFoundError:
        raise ParamError(f"search: -o {out}: the folder is not empty, and holds no search; name another") from None
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"search: -o {out}: {STATE} cannot be read ({error})") from None
    if kept != subject.digest():
        raise ParamError(f"search: -o {out}: it holds a search with other files, options or code; name another folder")
