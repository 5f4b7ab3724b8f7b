"""Limits on how far a model's outputs and the user's metric may move."""

from dataclasses import field
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from onnxsparse.errors import ParamError
from onnxsparse.ir.model import Model
from onnxsparse.pipeline.base import OPTIONS, described
from onnxsparse.runtime.as_run import AsRun
from onnxsparse.runtime.judge import Judge, Verdict, drop_failure
from onnxsparse.runtime.labels import LabelsFile
from onnxsparse.runtime.metric import Metric, MetricName, load_metric


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Limits:
    """The options. A check inherits them, and a pass that looks for the highest target within them."""

    # the help is metadata, because pydantic finds docstrings of fields in the class itself alone
    min_sqnr: Annotated[float | None, Field(allow_inf_nan=False)] = field(
        default=None, metadata=described("SQNR in dB that every output and its worst slice have to reach.")
    )
    metric: MetricName | None = field(
        default=None,
        metadata=described("Metric of your own, module:function or file.py:function, or top1 (docs/metrics.md)."),
    )
    labels: LabelsFile | None = field(
        default=None, metadata=described("Labels of the samples that are judged on, for the metric.")
    )
    max_drop: Annotated[float | None, Field(allow_inf_nan=False)] = field(
        default=None, metadata=described("Largest drop of the metric, in its own unit; top1 is in points.")
    )

    def check_limits(self, command: str) -> None:
        """Raises ParamError for half of a limit, or for a metric that cannot be loaded."""
        if (self.metric is None) != (self.max_drop is None):
            raise ParamError(f"{command}: metric and max_drop belong together; give both")
        if self.labels is not None and self.metric is None:
            raise ParamError(f"{command}: labels are for a metric; give one")
        self.loaded_metric()

    def loaded_metric(self) -> Metric | None:
        """The metric's function; None without one. Raises ParamError if it cannot be loaded."""
        return None if self.metric is None else load_metric(self.metric, self.labels)

    @property
    def judges_outputs(self) -> bool:
        """Whether there is a limit on what the model computes."""
        return self.min_sqnr is not None or self.metric is not None

    def verdict(self, model: Model, judge: Judge, as_run: AsRun | None = None) -> Verdict:
        """Whether `model` keeps the limits.

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
        return Verdict(tuple(text for text in failures if text is not None), comparison, result)

    def asked(self) -> list[str]:
        """The limits in words."""
        asked = [] if self.min_sqnr is None else [f"at least {self.min_sqnr:g} dB"]
        return asked + ([] if self.metric is None else [f"{self.metric} drops by at most {self.max_drop:g}"])
