"""The comparison of two models, or of the models of two folders that have the same names."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.text import Text

from onnxsparse.cli.jobs import Json, Measuring, Running, Sizes, models_in
from onnxsparse.cli.log import complain
from onnxsparse.cli.render import text
from onnxsparse.cli.render.divergence_text import print_divergence
from onnxsparse.cli.render.live import live
from onnxsparse.errors import OnnxSparseError, ParamError
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import Role, check_input
from onnxsparse.parallel.executor import in_order, local
from onnxsparse.pipeline.base import described
from onnxsparse.pipeline.learning import Judging
from onnxsparse.quantization.plan.target import load_target, names
from onnxsparse.runtime.as_run import AsRun, run_here
from onnxsparse.runtime.bisect import MIN_SQNR_DB
from onnxsparse.runtime.bisect import bisect as bisect_models
from onnxsparse.runtime.compare import Comparison, OutputComparison
from onnxsparse.runtime.judge import drop_failure
from onnxsparse.runtime.metric import MetricResult
from onnxsparse.targets.files import target_paths


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunningInts(Running):
    """How to run models that may compute in integers."""

    target: Annotated[str, Role(lambda target, _option: load_target(target, "compare"), reads=target_paths)] | None = field(
        default=None,
        metadata=described(
            f"Target that the models are for: {', '.join(names())}, or a TOML file; models for onnxruntime on a PC are also run "
            "with its integer kernels (default: all models are)."
        ),
    )

    def as_run(self) -> AsRun | None:
        """How to run the models as this processor does; None for a target that is another device. Raises ParamError."""
        return run_here if self.target is None or load_target(self.target, "compare").runs_here else None


@dataclass(frozen=True)
class Comparing:
    """Two models to compare, and how."""

    first: Path
    second: Path
    seed: int
    min_sqnr: float | None
    measuring: Measuring
    running: RunningInts
    sizes: Sizes

    @property
    def judging(self) -> Judging:
        """What the models are judged on."""
        return replace(self.running.judging, metric=self.measuring.metric, labels=self.measuring.labels)

    def load(self) -> tuple[Model, Model]:
        """Both models. Raises ModelError and ParamError as `Sizes.load` does."""
        return self.sizes.load(self.first), self.sizes.load(self.second)


@dataclass(frozen=True)
class Compared:
    """What came of a comparison. `names`: of both files. `metric`: None without one. `failures`: of limits, as clauses."""

    names: tuple[str, str]
    comparison: Comparison
    metric: MetricResult | None
    failures: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The comparison and the metric as JSON."""
        return self.comparison.to_json() | {"metric": None if self.metric is None else self.metric.to_json()}


def compare(
    first: Path,
    second: Path,
    /,
    *,
    bisect: Annotated[bool, Parameter(negative="")] = False,
    min_sqnr: float | None = None,
    seed: int = 0,
    jobs: Annotated[int, Parameter(validator=Number(gt=0))] = 1,
    json_out: Json = Json(),
    measuring: Measuring = Measuring(),
    running: RunningInts = RunningInts(),
    sizes: Sizes = Sizes(),
) -> int:
    """Run two models on the same inputs and show how far they are apart; of two folders, models with the same names.

    Parameters
    ----------
    first
        The reference model, or a folder of them.
    second
        The model to compare with it, or a folder with one of the same name for each reference.
    bisect
        Compare inner tensors by name; show the first ones below --min-sqnr (default: 30 dB) and where most is lost.
    min_sqnr
        SQNR in dB that every output and its worst slice must reach, and the output has to depend on the input (else exit code
        1); with --bisect, every tensor.
    seed
        Seed of the random inputs.
    jobs
        Number of pairs to compare at the same time.

    Raises
    ------
    ParamError
        For options that are out of range, folders whose models do not go together, or data that do not fit the models.
    ModelError
        For a model that cannot be read.
    BackendError
        If onnxruntime cannot run a model.
    """
    if min_sqnr is not None and math.isnan(min_sqnr):
        raise ParamError("--min-sqnr is a number of decibels")
    if seed < 0:
        raise ParamError("--seed is a whole number, 0 or more")
    measuring.check()
    if bisect and measuring.metric is not None:
        raise ParamError("--bisect compares inner tensors; give --metric without it")
    pairs = pairs_of(first, second)
    json_out.check(*(path for pair in pairs for path in pair), also=(running, measuring))
    works = [Comparing(*pair, seed, min_sqnr, measuring, running, sizes) for pair in pairs]
    if first.is_dir():
        if bisect:
            raise ParamError("--bisect is for two models; name them instead of their folders")
        return compare_several(works, json_out, jobs)
    return bisect_one(works[0], json_out) if bisect else compare_one(works[0], json_out)


def compare_one(work: Comparing, json_out: Json) -> int:
    """Compare two models, and write and print the result. Returns the exit code."""
    with live("running both models in onnxruntime"):
        found = compared(work)
    title = f"{found.names[1]} against {found.names[0]}"
    json_out.show(found.to_json(), lambda out: text.print_judged(out, found.comparison, found.metric, title))
    return complain(f"compare: {'; '.join(found.failures)}", 1) if found.failures else 0


def bisect_one(work: Comparing, json_out: Json) -> int:
    """Compare inner tensors of two models, and write and print the result. Returns the exit code."""
    first, second = work.load()
    judge = work.judging.judge((), first)
    least = MIN_SQNR_DB if work.min_sqnr is None else work.min_sqnr
    with live("running both models in onnxruntime"):
        found = bisect_models(first, second, judge.samples, min_sqnr_db=least, custom_ops=work.running.custom_ops, seed=work.seed)
    title = f"{second.name} against {first.name}"
    json_out.show(found.to_json(), lambda out: print_divergence(out, found, title))
    failure = None if work.min_sqnr is None else found.shortfall
    return complain(f"compare: {failure}", 1) if failure is not None else 0


def compare_several(works: Sequence[Comparing], json_out: Json, jobs: int) -> int:
    """Compare pairs of models, and write and print the results. Returns the exit code; a pair that cannot be run fails alone."""
    with live("compare"), local(min(jobs, len(works))) as executor:
        found = in_order(executor, tried, works)
    names = [work.first.name for work in works]
    rows = [one.to_json() if isinstance(one, Compared) else {"fault": str(one)} for one in found]
    document = {"schema": 1, "comparisons": [{"model": name} | row for name, row in zip(names, rows, strict=True)]}
    json_out.show(document, lambda out: print_several(out, names, found))
    told = [f"{name}: {told}" for name, one in zip(names, found, strict=True) for told in failures_of(one)]
    return complain(f"compare: {'; '.join(told)}", 1) if told else 0


def print_several(out: Console, names: Sequence[str], found: Sequence[Compared | OnnxSparseError]) -> None:
    """Print a row for each pair of models with the output that is furthest apart."""
    metric = next((one.metric.name for one in found if isinstance(one, Compared) and one.metric is not None), None)
    rows = text.table("", "model", "worst SQNR dB", *([f"{metric} before", "after"] if metric else []), "worst output, or fault")
    for name, one in zip(names, found, strict=True):
        rows.add_row(name, *map(Text, cells(one, metric=metric is not None)))
    out.print(rows)


def cells(found: Compared | OnnxSparseError, *, metric: bool) -> list[str]:
    """The cells of a pair. `metric`: whether the table has columns for one."""
    if isinstance(found, OnnxSparseError):
        return ["", *(["", ""] if metric else []), str(found)]
    worst = min(found.comparison.outputs, key=severity)
    lowest = found.comparison.worst_sqnr_db
    shown = "equal" if lowest == math.inf else text.number(lowest, ".2f")
    measured = [] if found.metric is None else [f"{found.metric.before:.6g}", f"{found.metric.after:.6g}"]
    return [shown, *measured, worst.lowest_text if shown != "equal" else ""]


def severity(output: OutputComparison) -> float:
    """A number by which the output comes first that is furthest from the original's."""
    return -math.inf if output.lowest_db is None or output.broken else output.lowest_db


def failures_of(found: Compared | OnnxSparseError) -> tuple[str, ...]:
    """The limits that a pair does not keep, or why it could not be compared."""
    return found.failures if isinstance(found, Compared) else (str(found),)


def compared(work: Comparing) -> Compared:
    """Compare two models. Raises ParamError, ModelError and BackendError as `compare` does."""
    first, second = work.load()
    metric = work.judging.loaded_metric()
    judge = work.judging.judge((), first)
    measured = None if metric is None else judge.measure(metric, second)
    result = judge.compare(second, work.running.as_run(), seed=work.seed)
    failures = [] if work.min_sqnr is None else [result.shortfall(work.min_sqnr)]
    if measured is not None and work.measuring.max_drop is not None:
        failures.append(drop_failure(measured, work.measuring.max_drop))
    told = tuple(failure for failure in failures if failure is not None)
    return Compared((first.name, second.name), result, measured, told)


def tried(work: Comparing, _failures: int) -> Compared | OnnxSparseError:
    """Compare two models; an error is the result."""
    try:
        return compared(work)
    except OnnxSparseError as error:
        return error


def pairs_of(first: Path, second: Path) -> list[tuple[Path, Path]]:
    """The models to compare.

    Raises ParamError for a folder and a file, or folders whose models have different names, and ModelError for a missing one.
    """
    for path in (first, second):
        check_input(path, "compare:")
    if first.is_dir() != second.is_dir():
        raise ParamError(f"compare: {first} and {second} are a folder and a file; give two files, or two folders")
    if not first.is_dir():
        return [(first, second)]
    firsts, seconds = models_in([first]), models_in([second])
    alone = sorted({path.name for path in firsts} ^ {path.name for path in seconds})
    if alone:
        raise ParamError(f"compare: only one of {first} and {second} holds {', '.join(alone)}; models are compared by name")
    return list(zip(firsts, seconds, strict=True))
