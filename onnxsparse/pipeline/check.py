"""Steps of a pipeline that are no passes: a gate that stops it, and a model that is saved on the way."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from onnxsparse.cost.estimate import deploy_on
from onnxsparse.cost.registry import CostTarget, find_backend
from onnxsparse.cost.report.records import Limit, exceeded
from onnxsparse.errors import ParamError
from onnxsparse.ir.files import STDOUT
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import OutputFile
from onnxsparse.pipeline.base import OPTIONS, Pass, StepReport
from onnxsparse.runtime.as_run import AsRun
from onnxsparse.runtime.judge import Judge, Verdict, drop_failure
from onnxsparse.runtime.labels import LabelsFile
from onnxsparse.runtime.metric import Metric, MetricName, load_metric


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Check:
    """Stop the pipeline unless the model so far is close enough to the original, good enough, and cheap enough.

    After a failed check, reports and the record are written, but no model.
    """

    name: ClassVar[str] = "check"
    changes_outputs: ClassVar[bool] = False

    min_sqnr: Annotated[float | None, Field(allow_inf_nan=False)] = None
    """SQNR in dB that every output and its worst slice have to reach."""
    metric: MetricName | None = None
    """Metric of your own, module:function or file.py:function, or top1 (docs/metrics.md)."""
    labels: LabelsFile | None = None
    """Labels of the samples that are judged on, for the metric."""
    max_drop: Annotated[float | None, Field(allow_inf_nan=False)] = None
    """Largest drop of the metric, in its own unit; top1 is in points."""
    fail_if: tuple[Limit, ...] = ()
    """Limit on a predicted total, as 'latency_ms>35', which fails if it is true, or if that total is incomplete."""
    target: CostTarget = "cv22"
    """Target of the prediction for fail_if."""

    def check(self) -> None:
        """Raises ParamError for a check without a limit, for half of a limit, or for a metric that cannot be loaded."""
        if self.min_sqnr is None and self.metric is None and not self.fail_if and self.max_drop is None:
            raise ParamError("check: give a limit: min_sqnr, metric with max_drop, or fail_if")
        if (self.metric is None) != (self.max_drop is None):
            raise ParamError("check: metric and max_drop belong together; give both")
        if self.labels is not None and self.metric is None:
            raise ParamError("check: labels are for a metric; give one")
        self.loaded_metric()

    def loaded_metric(self) -> Metric | None:
        """The metric's function; None without one. Raises ParamError if it cannot be loaded."""
        return None if self.metric is None else load_metric(self.metric, self.labels)

    @property
    def judges_outputs(self) -> bool:
        """Whether it looks at what the model computes, and not only at what it costs."""
        return self.min_sqnr is not None or self.metric is not None

    def judge(self, model: Model, judge: Judge, as_run: AsRun | None) -> StepReport:
        """Judge `model`, as it is now. The report has the verdict; it raises only if the model cannot be judged.

        Raises ParamError without data for a metric, and BackendError if onnxruntime does not run the model.
        """
        failures: list[str | None] = []
        comparison = result = None
        if self.min_sqnr is not None:
            comparison = judge.compare(model, as_run)
            failures.append(comparison.shortfall(self.min_sqnr))
        metric = self.loaded_metric()
        if metric is not None and self.max_drop is not None:
            result = judge.measure(metric, model)
            failures.append(drop_failure(result, self.max_drop))
        if self.fail_if:
            failures += exceeded(deploy_on(model, find_backend(self.target)), self.fail_if)
        verdict = Verdict(tuple(text for text in failures if text is not None), comparison, result)
        return StepReport(self.name, notes=self._notes(verdict), verdict=verdict)

    def _notes(self, verdict: Verdict) -> list[str]:
        """What was asked, and how it went."""
        asked = [] if self.min_sqnr is None else [f"at least {self.min_sqnr:g} dB"]
        asked += [] if self.metric is None else [f"{self.metric} drops by at most {self.max_drop:g}"]
        asked += [f"not {limit}" for limit in self.fail_if]
        return [f"check {'passed' if verdict.passed else 'failed'}: {', '.join(asked)}", *verdict.failures]


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
