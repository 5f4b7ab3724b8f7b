"""Steps of a pipeline that are no passes: a gate that stops it, and a model that is saved on the way."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic.dataclasses import dataclass

from onnxsparse.cost.estimate import deploy_on
from onnxsparse.cost.registry import CostTarget, find_backend
from onnxsparse.cost.report.records import Limit, exceeded
from onnxsparse.errors import ParamError
from onnxsparse.ir.files import STDOUT
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import OutputFile
from onnxsparse.pipeline.base import OPTIONS, Pass, StepReport
from onnxsparse.pipeline.limits import Limits
from onnxsparse.runtime.as_run import AsRun
from onnxsparse.runtime.judge import Judge


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Check(Limits):
    """Stop the pipeline unless the model so far is close enough to the original, good enough, and cheap enough.

    After a failed check, reports and the record are written, but no model.
    """

    name: ClassVar[str] = "check"
    changes_outputs: ClassVar[bool] = False

    fail_if: tuple[Limit, ...] = ()
    """Limit on a predicted total, as 'latency_ms>35', which fails if it is true, or if that total is incomplete."""
    target: CostTarget = "cv22"
    """Target of the prediction for fail_if."""

    def check(self) -> None:
        """Raises ParamError for a check without a limit, for half of a limit, or for a metric that cannot be loaded."""
        if self.min_sqnr is None and self.metric is None and not self.fail_if and self.max_drop is None:
            raise ParamError("check: give a limit: min_sqnr, metric with max_drop, or fail_if")
        self.check_limits(self.name)

    def judge(self, model: Model, judge: Judge, as_run: AsRun | None) -> StepReport:
        """Judge `model`, as it is now. The report has the verdict; it raises only if the model cannot be judged.

        Raises ParamError without data for a metric, and BackendError if onnxruntime does not run the model.
        """
        found = self.verdict(model, judge, as_run)
        if self.fail_if:
            found = replace(
                found, failures=(*found.failures, *exceeded(deploy_on(model, find_backend(self.target)), self.fail_if))
            )
        asked = ", ".join([*self.asked(), *(f"not {limit}" for limit in self.fail_if)])
        notes = [f"check {'passed' if found.passed else 'failed'}: {asked}", *found.failures]
        return StepReport(self.name, notes=notes, verdict=found)


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Save:
    """Write the model as it is at this place of the pipeline. It is written with all other files, at the end."""

    name: ClassVar[str] = "save"
    changes_outputs: ClassVar[bool] = False

    file: OutputFile
    """The model to write."""

    def check(self) -> None:
        """Raises ParamError for standard output, where no model goes."""
        if self.file == STDOUT:
            raise ParamError("save: a model does not go to standard output; name the file to write")

    def run(self, model: Model) -> StepReport:
        """Keep a copy of `model`, to be written at the end."""
        return StepReport(self.name, saves={Path(self.file): model.copy()})


Step = Pass | Check
"""A step of a pipeline."""
