"""Passes in sequence: each result is verified, then all files are written together or none."""

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnxsparse.analysis.checker import first_fault
from onnxsparse.errors import BackendError, ParamError, PassError
from onnxsparse.ir.files import Staging, remove
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import given_options
from onnxsparse.pipeline.base import StepReport
from onnxsparse.pipeline.cache import Cache, Progress
from onnxsparse.pipeline.check import Check, Step
from onnxsparse.pipeline.learning import Judging
from onnxsparse.progress import announce, tell
from onnxsparse.records import text_writer
from onnxsparse.runtime.as_run import AsRun, run_here
from onnxsparse.runtime.compare import Comparison
from onnxsparse.runtime.judge import Judge
from onnxsparse.runtime.metric import Metric, MetricResult
from onnxsparse.runtime.refusal import size_refusal
from onnxsparse.runtime.session import loads

LOW_SQNR_DB = 10.0
"""SQNR in dB of an output or slice under which a pipeline without a check warns."""


@dataclass(frozen=True)
class RunReport:
    """What a pipeline did."""

    steps: tuple[StepReport, ...]
    """One report per step, in order; those after a failed check are missing."""
    comparison: Comparison | None = None
    """Outputs against the original's; None if no pass changed them, none was requested, or `not_compared` has the reason."""
    not_compared: str | None = None
    """Why the models could not be compared; None otherwise."""
    notes: tuple[str, ...] = ()
    """Sentences about the model as a whole."""
    metric: MetricResult | None = None
    """The user's metric before and after; None if none was requested."""
    gated: bool = False
    """Whether a check of the pipeline looks at what the model computes."""

    @property
    def failures(self) -> tuple[str, ...]:
        """The sentences of the check that failed; empty if none did."""
        verdict = self.steps[-1].verdict if self.steps else None
        return () if verdict is None else verdict.failures

    @property
    def warning(self) -> str | None:
        """The sentence for outputs that are far from the original's, if no check judges them; None otherwise."""
        shortfall = None if self.gated or self.comparison is None else self.comparison.shortfall(LOW_SQNR_DB)
        if shortfall is None or self.comparison is None:
            return None
        if all(o.vacuous is not None and not o.broken for o in self.comparison.outputs if o.feeds is None):
            return None  # the comparison says nothing
        return f"warning: {shortfall}; the result may be useless: judge it by a metric ('compare --metric') on your own data"


@dataclass(frozen=True)
class Pipeline:
    """Steps to run one after the other: passes, and checks that stop it (`pipeline.check`).

    >>> Pipeline([Prune(sparsity_op=0.7), Annotate()]).run(model)
    """

    passes: Sequence[Step]

    def run(self, model: Model, judging: Judging | None = None, cache: Cache | None = None) -> RunReport:
        """Run all steps on `model`, in place.

        `judging`: data, and what to judge the result by; None: the result is not compared. `cache`: results of earlier runs;
        None: everything runs.

        1. Check the options of all steps, alone and against the model; read the first samples; measure metrics of the original.
        2. Run each pass, then onnx's checker, if the model passed it before. A check that fails is the last step.
        3. Compare the outputs with the original's, if a pass changed them and `judging` asks for it.

        Raises ParamError or ModelError for options or data that do not fit, or sizes to be fixed at which onnxruntime refuses a
        node, PassError that names a pass whose result the checker rejects or onnxruntime no longer loads, and BackendError if
        onnxruntime cannot run the models on given data.
        """
        given = judging or Judging(compare=False)
        steps = given.fill(self.passes)
        check_passes(steps)
        check_on_model(steps, model)
        judge = given.judge(steps, model.copy())
        for metric in metrics(steps, given):
            judge.before(metric)
        running = Running(steps, judge, model, Progress.of(model, cache))
        done = running.all_steps()
        report = RunReport(tuple(done), notes=running.notes, gated=any(isinstance(s, Check) and s.judges_outputs for s in steps))
        return closed(report, running, given)


@dataclass
class Running:
    """A pipeline that is under way."""

    steps: Sequence[Step]
    judge: Judge
    model: Model
    progress: Progress
    notes: tuple[str, ...] = ()
    changed: bool = False
    """Whether a pass has changed the outputs since the last comparison."""
    runs_here: bool = False
    touched: bool = field(default=False, init=False)
    """Whether any pass has changed the outputs."""

    @property
    def as_run(self) -> AsRun | None:
        """How this processor runs the model, if a pass has made it for onnxruntime; None otherwise."""
        return run_here if self.runs_here else None

    def all_steps(self) -> list[StepReport]:
        """The reports of the steps, up to a failed check. Raises PassError for a pass that breaks a valid model."""
        fault = first_fault(self.model)
        if fault is not None:
            self.notes = (f"onnx's checker rejects the input, so it may reject the output as well: {fault}",)
        done: list[StepReport] = []
        for step in self.steps:
            tell(step.name)
            start = time.perf_counter()
            report = self._report(step)
            if not report.reused:
                report = replace(report, seconds=time.perf_counter() - start, peak_memory_bytes=peak_memory_bytes())
            done.append(report)
            verdict = None if report.verdict is None else report.verdict.passed
            announce("step", step=step.name, seconds=report.seconds, reused=report.reused, passed=verdict, notes=[*report.notes])
            if fault is None and not report.reused and (broken := first_fault(self.model)) is not None:
                raise PassError(f"pass '{step.name}' broke {self.model.name}: {broken}")
            if report.verdict is not None and not report.verdict.passed:
                break
            self.progress.store(step, self.model, report)
        return done

    def _report(self, step: Step) -> StepReport:
        """Run one step, or take its result from an earlier run."""
        if isinstance(step, Check):
            report = step.judge(self.model, self.judge, self.as_run)
            self.changed = self.changed and (report.verdict is None or report.verdict.comparison is None)
            return report
        report = self.progress.find(step, self.model) or step.run(self.model)
        if step.changes_outputs and (report.changes or report.rewrote):
            self.changed = self.touched = True
        self.runs_here = self.runs_here or report.runs_here
        return report


def closed(report: RunReport, running: Running, judging: Judging) -> RunReport:
    """The report with the closing comparison and metric. Raises PassError, BackendError and ParamError as `Pipeline.run` does."""
    verdicts = [step.verdict for step in report.steps if step.verdict is not None]
    latest = next((v.comparison for v in reversed(verdicts) if v.comparison is not None), None)
    if report.failures:
        return replace(report, comparison=verdicts[-1].comparison, metric=verdicts[-1].metric)
    metric = judging.loaded_metric()
    if metric is not None:
        report = replace(report, metric=running.judge.measure(metric, running.model))
    if not judging.compare or not running.touched:
        return report
    if not running.changed:
        return replace(report, comparison=latest)
    tell("comparing with the original in onnxruntime")
    judge, model = running.judge, running.model
    if judge.lacking is not None:
        return replace(report, not_compared=judge.lacking)
    try:
        return replace(report, comparison=judge.compare(model, running.as_run))
    except (BackendError, ParamError) as error:
        if judge.samples is not None:
            raise
        refused = size_refusal(judge.original, judge.custom_ops) if any(map(fixes_sizes, running.steps)) else None
        if refused is not None:
            raise ParamError(f"{refused}; --no-compare writes the model anyway") from None
        if loads(judge.original, judge.custom_ops) and not loads(model, judge.custom_ops):
            raise PassError(f"after the passes, onnxruntime no longer loads {model.name}: {error}") from None
        return replace(report, not_compared=str(error))


def metrics(steps: Sequence[Step], judging: Judging) -> list[Metric]:
    """The metrics that will be measured."""
    found = [step.loaded_metric() for step in steps if isinstance(step, Check)]
    return [metric for metric in (*found, judging.loaded_metric()) if metric is not None]


def check_passes(steps: Sequence[Step]) -> None:
    """Check options that do not depend on the model. Raises ParamError or ModelError."""
    for step in steps:
        for given in given_options(step, step.name):
            given.check()
        own = getattr(step, "check", None)
        if callable(own):
            own()


def check_on_model(steps: Sequence[Step], model: Model) -> None:
    """Check options against `model`, such as the shapes of data. Raises ParamError or ModelError.

    Passes after one that changes the model's inputs are not checked.
    """
    for step in steps:
        own = getattr(step, "check_model", None)
        if callable(own):
            own(model)
        if getattr(step, "changes_inputs", False):
            return  # the inputs that the next pass sees are unknown


def fixes_sizes(step: Step) -> bool:
    """Whether a pass writes the sizes of inputs into the model, so that it has to run at these sizes."""
    return getattr(step, "fixes_sizes", False)


def peak_memory_bytes() -> int:
    """Peak memory of this process in bytes, mapped pages included. ru_maxrss is in KiB, but in bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write(model: Model, target: Path | None, report: RunReport, extra: Sequence[tuple[Path, str]] = ()) -> None:
    """Write the model to `target` (None: no model), the models saved on the way, the artifacts of all passes, and `extra` files
    with their texts. After a failed check, no model is written.

    All files are written or none.
    """
    models = [] if report.failures else [pair for step in report.steps for pair in step.saves.items()]
    if target is not None and not report.failures:
        models.append((target, model))
    obsolete: list[Path] = []
    with Staging() as staging:
        for step in report.steps:
            for path, writer in step.artifacts.items():
                staging.write(path, writer)
        for path, content in extra:
            staging.write(path, text_writer(content))
        for path, saved in models:
            obsolete += saved.stage(staging, path)
    remove(obsolete)
