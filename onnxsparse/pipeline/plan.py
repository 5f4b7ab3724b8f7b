"""The plan of a pipeline: what each step would do, with sizes and predicted cost, without data and without writing anything."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from onnxsparse.analysis.layer import Totals
from onnxsparse.analysis.layers import layers
from onnxsparse.cost.estimate import deploy_on
from onnxsparse.cost.registry import find_backend
from onnxsparse.cost.report.completeness import marks
from onnxsparse.cost.report.records import totals
from onnxsparse.format import Mark
from onnxsparse.ir.model import Model
from onnxsparse.pipeline.check import Check, Save, Step
from onnxsparse.pipeline.learning import Learns
from onnxsparse.progress import tell

DEFAULT_TARGET = "cv22"


@dataclass(frozen=True)
class Planned:
    """The model at one place of a pipeline.

    `what`: the step with its options. `why_not`: why the step did not run for the plan, None if it did; sizes and cost are then
    those before it.
    """

    what: str
    totals: Totals
    file_bytes: int
    latency_ms: float | None
    latency_mark: Mark | None
    why_not: str | None = None

    def to_json(self) -> dict[str, object]:
        """The row as docs/json.md describes it."""
        sums = self.totals
        return {
            "step": self.what,
            "ran": self.why_not is None,
            "why_not": self.why_not,
            "weights": sums.weights,
            "sparsity": sums.sparsity,
            "macs": sums.macs,
            "nonzero_macs": sums.nonzero_macs,
            "sparsity_op": sums.sparsity_op,
            "file_bytes": self.file_bytes,
            "latency_ms": self.latency_ms,
            "complete": sums.complete and self.latency_mark is None,
        }


@dataclass(frozen=True)
class Plan:
    """The model at the start and after each step. `target`: of the predicted latency."""

    target: str
    rows: tuple[Planned, ...]


def plan(steps: Sequence[Step], model: Model) -> Plan:
    """Run the passes of `steps` that need no data on a copy of `model`, and predict sizes and cost after each.

    Raises ParamError, ModelError and PassError as the passes do.
    """
    work = model.copy()
    target = next((str(named) for step in steps if (named := getattr(step, "target", None)) is not None), DEFAULT_TARGET)
    rows = [planned("the model as it is", work, target)]
    for step in steps:
        tell(step.name)
        why_not = reason(step)
        if why_not is None and not isinstance(step, Check):
            step.run(work)
        rows.append(planned(described(step), work, target, why_not))
    return Plan(target, tuple(rows))


def reason(step: Step) -> str | None:
    """Why a step does not run for a plan; None if it does."""
    if isinstance(step, Check):
        return "judged when it runs"
    if isinstance(step, Save):
        return "written when it runs"
    needs = isinstance(step, Learns) and (step.data is not None or getattr(step, "ranges", None) is not None)
    return "it needs data" if needs else None


def described(step: Step) -> str:
    """The name of a step and the options that differ from their defaults."""
    options = TypeAdapter(type(step)).dump_python(step, mode="json", exclude_defaults=True)
    shown = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"{step.name} {shown}".strip()


def planned(what: str, model: Model, target: str, why_not: str | None = None) -> Planned:
    """The facts about `model` after a step."""
    found = deploy_on(model, find_backend(target))
    latency = totals(found)["latency_ms"]
    return Planned(what, layers(model).totals, model.written_bytes, latency, marks(found).get("latency_ms"), why_not)
