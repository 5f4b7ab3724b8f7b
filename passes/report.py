"""The deployment report as a step of a pipeline."""

from dataclasses import field, fields, replace
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from onnxsparse.analysis.layer_filter import LayerPattern
from onnxsparse.cost.backends.base import Precision
from onnxsparse.cost.backends.hardware import load_hardware
from onnxsparse.cost.estimate import Deployment, Operation, deploy_on
from onnxsparse.cost.registry import Backend, CostTarget, backend_names, find_backend
from onnxsparse.cost.report.completeness import assumed_free, gaps, incomplete, marks, require_complete
from onnxsparse.cost.report.outputs import ReportFiles, contents
from onnxsparse.cost.report.records import Limit, exceeded, totals
from onnxsparse.cost.report.tables import format_total
from onnxsparse.errors import ParamError, PassError
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import OutputFile, OutputFolder, reading
from onnxsparse.pipeline.base import OLD_NAME, OPTIONS, Bits, StepReport, described, named_target
from onnxsparse.records import text_writer

DEFAULT_TARGET = "cv22"


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Report:
    """Predict what the model costs on a target, and write the report to files; the model stays as it is."""

    name: ClassVar[str] = "report"
    changes_outputs: ClassVar[bool] = False

    target: CostTarget = field(
        default=DEFAULT_TARGET,
        metadata=described(f"Target of the prediction: {', '.join(backend_names())}, or a TOML file (docs/backends.md)."),
    )
    backend: Annotated[CostTarget | None, OLD_NAME] = None
    """Old name of --target."""
    hardware: Annotated[Annotated[Path, reading(load_hardware)] | None, OLD_NAME] = None
    """Old name of --target, for a TOML file."""
    activation_bits: Bits = 8
    """Width of float activations in bits; integers have the width of their type."""
    coefficient_bits: Bits = 8
    """Width of float coefficients in bits; integers have the width of their type."""
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Rate of each stream in frames per second, for DRAM traffic and load (default: the target's budget)."""
    streams: Annotated[int, Field(ge=1)] = 1
    """Number of streams that share one device."""
    json: OutputFile | None = None
    """File for the report as JSON; - for standard output, as for the other files."""
    csv: OutputFile | None = None
    """File for one row per layer (CSV)."""
    markdown: OutputFile | None = None
    """File for the report as Markdown."""
    html: OutputFile | None = None
    """File for the report as one HTML page that opens offline."""
    svg: OutputFolder | None = None
    """Folder for the figures (SVG)."""
    curve_csv: OutputFile | None = None
    """File for latency over sparsity and channels (CSV)."""
    fail_if: tuple[Limit, ...] = ()
    """Limit on a total, as 'latency_ms>35', above which the command fails; it also fails if that total is incomplete."""
    assume_free: tuple[LayerPattern, ...] = ()
    """Nodes to count as 0: glob, re:EXPRESSION, op:NAME, module prefix, or @FILE of those."""
    strict: bool = False
    """Refuse a model if any cost or MACs are unknown."""

    @property
    def files(self) -> ReportFiles:
        """The files to write, by format."""
        return ReportFiles(**{form.name: getattr(self, form.name) for form in fields(ReportFiles)})

    def find_backend(self) -> Backend:
        """The target's backend. Raises ParamError for two targets, or for an unknown one."""
        named = named_target(self.name, DEFAULT_TARGET, target=self.target, backend=self.backend, hardware=self.hardware)
        return find_backend(named or DEFAULT_TARGET, self.precision)

    @property
    def precision(self) -> Precision:
        """Widths in bits of what the model stores as floats."""
        return Precision(self.activation_bits, self.coefficient_bits)

    def operation(self, found: Deployment) -> Operation | None:
        """DRAM traffic and load at `fps`, else at the target's budget of frames per second; None if neither is given."""
        fps = self.fps or found.fps_budget
        return None if fps is None else found.at(fps, self.streams)

    def deploy(self, model: Model, backend: Backend) -> Deployment:
        """The predicted cost of `model` on `backend`. Raises ParamError with `strict` if a total is incomplete."""
        found = deploy_on(model, backend, self.precision, self.assume_free)
        if self.strict:
            require_complete(gaps(found), found.load.layers, self.name, model.name)
        return found

    def check(self) -> None:
        """Raises ParamError for a report with neither a file nor a limit, for two targets, or for an unknown target."""
        if not self.files and not self.fail_if:
            raise ParamError("report: name a file to write (json, csv, markdown, html, svg, curve_csv) or a limit (fail_if)")
        self.find_backend()

    def run(self, model: Model) -> StepReport:
        """Predict the cost and write the files; the model stays as it is.

        Raises ParamError as `check` and `deploy` do, and PassError if a total exceeds a limit of `fail_if`.
        """
        self.check()
        found = self.deploy(model, self.find_backend())
        reasons = exceeded(found, self.fail_if)
        if reasons:
            raise PassError(f"report: {'; '.join(reasons)}")
        facts = found.load.layers.totals
        report = StepReport(self.name, notes=notes_on(found), before=facts, after=facts)
        made = contents(self.files, found, model.name, self.operation(found))
        return replace(report, artifacts={path: text_writer(text) for path, text in made})


def notes_on(found: Deployment) -> list[str]:
    """The predicted latency in ms, and what the totals do not include."""
    latency = format_total("latency_ms", totals(found)["latency_ms"], marks(found).get("latency_ms"))
    others = (incomplete(found), assumed_free(found.load.layers))
    return [f"{latency} ms on {found.backend.name}", *(text for text in others if text is not None)]
