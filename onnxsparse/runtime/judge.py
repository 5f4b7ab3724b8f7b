"""The judge of a pipeline: versions of a model against the model itself, all on the same samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxsparse.errors import ParamError
from onnxsparse.ir.model import Model
from onnxsparse.runtime.as_run import AsRun
from onnxsparse.runtime.compare import Comparison, compare
from onnxsparse.runtime.metric import Metric, MetricResult
from onnxsparse.runtime.samples import Samples


@dataclass(frozen=True)
class Verdict:
    """Whether a version of a model is good enough. `failures`: one sentence for each limit that it misses."""

    failures: tuple[str, ...] = ()
    comparison: Comparison | None = None
    """Outputs against the original's; None if no limit needed them."""
    metric: MetricResult | None = None
    """The user's metric before and after; None without one."""

    @property
    def passed(self) -> bool:
        """Whether no limit is missed."""
        return not self.failures

    def to_json(self) -> dict[str, object]:
        """The verdict as docs/json.md describes it."""
        return {
            "passed": self.passed,
            "failures": list(self.failures),
            "comparison": None if self.comparison is None else self.comparison.to_json(),
            "metric": None if self.metric is None else self.metric.to_json(),
        }


@dataclass
class Judge:
    """Judges versions of `original`. `samples`: None for seeded random ones, which show differences but no quality.

    `lacking`: why there are no samples although data was given; None otherwise.
    """

    original: Model
    samples: Samples | None = None
    custom_ops: Sequence[Path] = ()
    lacking: str | None = None
    _before: dict[Metric, float] = field(default_factory=dict, init=False)

    def compare(self, model: Model, as_run: AsRun | None = None, *, seed: int = 0) -> Comparison:
        """Outputs of `model` against the original's; `seed`: of random inputs.

        Raises BackendError and ParamError as `compare.compare` does.
        """
        if self.lacking is not None:
            raise ParamError(self.lacking)
        return compare(self.original, model, self.samples, custom_ops=self.custom_ops, as_run=as_run, seed=seed)

    def before(self, metric: Metric) -> float:
        """The metric of the original, measured once. Raises ParamError without samples, or as `Metric.measure` does."""
        if self.samples is None:
            raise ParamError(f"--metric {metric.name}: {self.lacking or 'it needs data to judge on: give --test'}")
        if metric not in self._before:
            self._before[metric] = metric.measure(self.original, self.samples, self.custom_ops)
        return self._before[metric]

    def measure(self, metric: Metric, model: Model) -> MetricResult:
        """The metric of the original and of `model`. Raises as `before` does."""
        before = self.before(metric)
        assert self.samples is not None  # `before` has seen to it
        return MetricResult(metric.name, metric.unit, before, metric.measure(model, self.samples, self.custom_ops))


def drop_failure(found: MetricResult, max_drop: float) -> str | None:
    """The sentence for a metric that drops by more than `max_drop`; None if it does not."""
    if found.drop <= max_drop:
        return None
    drop = f"{found.drop:.4g}{f' {found.unit}' if found.unit else ''}"
    return f"{found.name} drops by {drop}, from {found.before:.6g} to {found.after:.6g}; at most {max_drop:g} is allowed"
