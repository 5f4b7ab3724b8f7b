"""Passes in sequence: each result is verified, then all files are written together or none."""

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
from onnxsparse.runtime.refusal import size_refusal
from onnxsparse.runtime.session import loads


@dataclass(frozen=True)
class Comparing:
    """How to compare the result with the original.

    `data`: npz, or a folder of npy and npz files; None for seeded random inputs. `custom_ops`: shared libraries with custom ops.
    """

    data: Path | None = None
    custom_ops: tuple[Path, ...] = ()


@dataclass(frozen=True)
class RunReport:
    """What a pipeline did."""

    steps: tuple[StepReport, ...]
    """One report per pass, in order."""
    comparison: Comparison | None = None
    """Outputs against the original's; None if no pass changed them, none was requested, or `not_compared` has the reason."""
    not_compared: str | None = None
    """Why onnxruntime could not compare the models; None otherwise."""
    notes: tuple[str, ...] = ()
    """Sentences about the model as a whole."""


@dataclass(frozen=True)
class Pipeline:
    """Passes to run one after the other.

    >>> Pipeline([Prune(sparsity_op=0.7), Annotate()]).run(model)
    """

    passes: Sequence[Pass]

    def run(self, model: Model, comparing: Comparing | None = None) -> RunReport:
        """Run all passes on `model`, in place.

        1. Check the options of all passes, alone and against the model; read the comparison data.
        2. Run each pass, then onnx's checker, if the model passed it before.
        3. Compare the outputs with the original's, if a pass changed them and `comparing` is given (None: do not compare).

        Raises ParamError or ModelError for options or data that do not fit, or sizes to be fixed at which onnxruntime refuses a
        node, PassError that names a pass whose result the checker rejects or onnxruntime no longer loads, and BackendError if
        onnxruntime cannot run the models on given data.
        """
        check_passes(self.passes)
        check_on_model(self.passes, model)
        original = model.copy()
        # read before the passes run, so that wrong data fails at once
        samples = None if comparing is None or comparing.data is None else load_samples(comparing.data, model)
        fault = first_fault(model)
        notes = () if fault is None else (f"onnx's checker rejects the input, so it may reject the output as well: {fault}",)
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
            samples = Samples(feeds, (f"compared on {len(feeds)} of the calibration samples",))
        try:
            as_run = run_here if any(step.runs_here for step in steps) else None
            comparison = compare(original, model, samples, custom_ops=comparing.custom_ops, as_run=as_run)
        except (BackendError, ParamError) as error:
            if samples is not None:
                raise
            refused = size_refusal(original, comparing.custom_ops) if any(map(fixes_sizes, self.passes)) else None
            if refused is not None:
                raise ParamError(f"{refused}; --no-compare writes the model anyway") from None
            if loads(original, comparing.custom_ops) and not loads(model, comparing.custom_ops):
                raise PassError(f"after the passes, onnxruntime no longer loads {model.name}: {error}") from None
            return RunReport(tuple(steps), None, str(error), notes)
        return RunReport(tuple(steps), comparison, notes=notes)


def check_passes(steps: Sequence[Pass]) -> None:
    """Check options that do not depend on the model. Raises ParamError or ModelError."""
    for step in steps:
        for given in given_options(step, step.name):
            given.check()
        own = getattr(step, "check", None)
        if callable(own):
            own()


def check_on_model(steps: Sequence[Pass], model: Model) -> None:
    """Check options against `model`, such as the shapes of data. Raises ParamError or ModelError.

    Passes after one that changes the model's inputs are not checked.
    """
    for step in steps:
        own = getattr(step, "check_model", None)
        if callable(own):
            own(model)
        if getattr(step, "changes_inputs", False):
            return  # the inputs that the next pass sees are unknown


def fixes_sizes(step: Pass) -> bool:
    """Whether a pass writes the sizes of inputs into the model, so that it has to run at these sizes."""
    return getattr(step, "fixes_sizes", False)


def peak_memory_bytes() -> int:
    """Peak memory of this process in bytes, mapped pages included. ru_maxrss is in KiB, but in bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write(model: Model, target: Path | None, report: RunReport, extra: Sequence[tuple[Path, str]] = ()) -> None:
    """Write the model to `target` (None: no model), the artifacts of all passes, and `extra` files with their texts.

    All files are written or none.
    """
    with Staging() as staging:
        for step in report.steps:
            for path, writer in step.artifacts.items():
                staging.write(path, writer)
        for path, content in extra:
            staging.write(path, text_writer(content))
        obsolete = model.stage(staging, target) if target is not None else []
    remove(obsolete)
