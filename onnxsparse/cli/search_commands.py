"""The search on the command line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from onnxsparse.calibration.data import DataFiles
from onnxsparse.calibration.preprocessing import PreprocessFile
from onnxsparse.cli.jobs import Measuring, Sizes, check_outputs
from onnxsparse.cli.log import INTERRUPTED, complain
from onnxsparse.cli.render import text
from onnxsparse.cli.render.live import live
from onnxsparse.cli.render.search_text import print_front
from onnxsparse.cost.backends.hardware import names
from onnxsparse.cost.registry import CostTarget
from onnxsparse.errors import OnnxSparseError
from onnxsparse.pipeline.base import described
from onnxsparse.pipeline.learning import DATA_FORMS, PREPROCESS_HELP, TEST_HELP
from onnxsparse.search.api import TRIALS, Effort, check_extra, run_search
from onnxsparse.search.budgets import NAMES, BudgetText, read_budgets
from onnxsparse.search.subject import Subject


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Searching:
    """What to search for."""

    data: DataFiles = field(metadata=described(f"Data to learn from: {DATA_FORMS}."))
    test: DataFiles | None = field(default=None, metadata=described(TEST_HELP))
    preprocess: PreprocessFile | None = field(default=None, metadata=described(PREPROCESS_HELP))
    budget: tuple[BudgetText, ...] = field(
        default=(), metadata=described(f"Limit on a total of the report, as latency_ms=35; may be repeated: {', '.join(NAMES)}.")
    )
    target: CostTarget = field(
        default="cv22", metadata=described(f"Target that predicts costs: {', '.join(names())}, or a TOML file.")
    )
    optimistic: bool = False
    """Judge latency by the target itself, in place of the highest of its variants."""
    quantize: bool = False
    """Also quantize every model, and search the number of ops with 16 bits."""
    seed: Annotated[int, Parameter(validator=Number(gte=0))] = 0
    """Seed of the search and of the positions at which activations are sampled."""
    memory: str = "2GB"
    """Memory of one trial for activations, in bytes (KB, MB, GB)."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Trying:
    """How long to search, and where."""

    trials: Annotated[int, Parameter(validator=Number(gt=0))] = TRIALS
    """Number of trials, rounded up to whole generations."""
    minutes: Annotated[float | None, Parameter(validator=Number(gt=0))] = None
    """Time after which the search ends with what it has."""
    jobs: Annotated[int | None, Parameter(validator=Number(gt=0))] = None
    """Number of trials at the same time on this machine (default: one for each core)."""
    scheduler: str | None = None
    """Address of a Dask scheduler whose workers run the trials, as tcp://host:8786 (docs/scale.md)."""
    storage: str | None = None
    """URL of the database for Optuna's study (default: study.db in the folder)."""


def search(
    model: Path,
    /,
    *,
    out: Annotated[Path, Parameter(name=("--out", "-o"))],
    searching: Searching,
    trying: Trying = Trying(),
    measuring: Measuring = Measuring(),
    sizes: Sizes = Sizes(),
) -> int:
    """Find the combination of channel cuts, zeros and widths that meets a budget at the least loss, or the cheapest model
    whose metric drops by no more than a limit.

    The folder gets a page (index.html), and for each point of the front a model, a report, and a recipe that gives this model.
    The same command goes on with a search that was interrupted.

    Parameters
    ----------
    model
        The ONNX model; it is not changed.
    out
        Folder for the results.

    Raises
    ------
    ParamError
        For options that do not go together, a budget that cannot be reached, or a folder that holds something else.
    ModelError
        For a model or data that cannot be read, or data that does not fit the model.
    """
    check_extra()
    measuring.check()
    check_outputs([model], searching, measuring)
    subject = Subject(
        model=model,
        data=searching.data,
        test=searching.test,
        preprocess=searching.preprocess,
        labels=measuring.labels,
        metric=measuring.metric,
        max_drop=measuring.max_drop,
        input_shape=sizes.input_shape,
        dim=sizes.dim,
        target=searching.target,
        budgets=read_budgets(searching.budget),
        optimistic=searching.optimistic,
        quantize=searching.quantize,
        seed=searching.seed,
        memory=searching.memory,
    )
    effort = Effort(
        trials=trying.trials, minutes=trying.minutes, jobs=trying.jobs, scheduler=trying.scheduler, storage=trying.storage
    )
    with live("search"):
        found = run_search(subject, out, effort)
    print_front(text.console(), found)
    if found.interrupted:
        return complain(
            f"search: interrupted; the same command goes on, and {out / 'index.html'} shows what has ended", INTERRUPTED
        )
    return 0 if found.best is not None else complain(f"search: {found.verdict}", OnnxSparseError.exit_code)
