"""Passes in a row: each one verified, then everything written together or nothing at all."""

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxsparse.analysis.checker import first_fault
from onnxsparse.errors import BackendError, ParamError, PassError
from onnxsparse.ir.files import Staging, remove
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import given_options
from onnxsparse.pipeline.base import Pass, StepReport
from onnxsparse.progress import tell
from onnxsparse.records import text_writer
from onnxsparse.runtime.as_run import run_here
from onnxsparse.runtime.compare import Comparison, compare
from onnxsparse.runtime.inputs import Samples, load_samples
from onnxsparse.runtime.session import Execution, runner


@dataclass(frozen=True)
class Comparing:
    """How to compare the result with the original. `data` None: seeded inputs."""

    data: Path | None = None
    custom_ops: tuple[Path, ...] = ()


@dataclass(frozen=True)
class RunReport:
    """What a pipeline did. `comparison` is None if nothing changed the outputs; `not_compared` says why else."""

    steps: tuple[StepReport, ...]
    comparison: Comparison | None = None
    not_compared: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pipeline:
    """Passes to run one after the other.

    >>> Pipeline([Prune(sparsity_op=0.7), Annotate()]).run(model)
    """

    passes: Sequence[Pass]

    def run(self, model: Model, comparing: Comparing | None = None) -> RunReport:
        """Change `model`, and compare it with what it was if `comparing` says how.

        The options of all passes are checked before the first runs. Raises ParamError or ModelError for those, PassError naming
        the pass that left a sound model unsound.
        """
        check_passes(self.passes)
        check_on_model(self.passes, model)
        original = model.copy()
        # read first: wrong data should not cost the time of the passes
        samples = None if comparing is None or comparing.data is None else load_samples(comparing.data, model)
        fault = first_fault(model)
        notes = () if fault is None else (f"the input does not pass onnx's checker, so nor may the output: {fault}",)
        steps = []
        for step in self.passes:
            tell(step.name)
            start = time.perf_counter()
            report = step.run(model)
            steps.append(replace(report, seconds=time.perf_counter() - start, peak_memory_bytes=peak_memory_bytes()))
            if fault is None and (broken := first_fault(model)) is not None:
                raise PassError(f"pass '{step.name}' broke {model.name}: {broken}")
        touched = any(p.changes_outputs and (s.changes or s.rewrote) for p, s in zip(self.passes, steps, strict=True))
        if comparing is None or not touched:
            return RunReport(tuple(steps), notes=notes)
        tell("comparing with the original in onnxruntime")
        feeds = tuple(feed for step in steps for feed in step.feeds)
        if samples is None and feeds:
            samples = Samples(feeds, (f"compared on {len(feeds)} of the samples that it was calibrated on",))
        try:
            as_run = run_here if any(step.runs_here for step in steps) else None
            comparison = compare(original, model, samples, custom_ops=comparing.custom_ops, as_run=as_run)
        except (BackendError, ParamError) as error:
            if samples is not None:
                raise
            if runs(original, comparing) and not runs(model, comparing):
                raise PassError(f"the passes left {model.name} so that it does not load any more: {error}") from None
            return RunReport(tuple(steps), None, str(error), notes)
        return RunReport(tuple(steps), comparison, notes=notes)


def check_passes(steps: Sequence[Pass]) -> None:
    """Raises ParamError or ModelError for options with which a pass cannot run, whatever the model."""
    for step in steps:
        for given in given_options(step, step.name):
            given.check()
        own = getattr(step, "check", None)
        if callable(own):
            own()


def check_on_model(steps: Sequence[Pass], model: Model) -> None:
    """Raises ParamError or ModelError for options that do not fit `model`, as data of another shape."""
    for step in steps:
        own = getattr(step, "check_model", None)
        if callable(own):
            own(model)
        if getattr(step, "changes_inputs", False):
            return  # what the next pass gets is not known


def runs(model: Model, comparing: Comparing) -> bool:
    """Whether onnxruntime loads a model."""
    try:
        runner(model, custom_ops=comparing.custom_ops, execution=Execution.AS_RUN)
    except BackendError:
        return False
    return True


def peak_memory_bytes() -> int:
    """The most memory this process has had, mapped pages included. ru_maxrss counts kilobytes, but bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write(model: Model, target: Path | None, report: RunReport, extra: Sequence[tuple[Path, str]] = ()) -> None:
    """Write the model (None: not at all), what the passes made besides, and `extra` files, all of them or none."""
    with Staging() as staging:
        for step in report.steps:
            for path, writer in step.artifacts.items():
                staging.write(path, writer)
        for path, content in extra:
            staging.write(path, text_writer(content))
        obsolete = model.stage(staging, target) if target is not None else []
    remove(obsolete)
