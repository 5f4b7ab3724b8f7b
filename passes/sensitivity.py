"""The sensitivity of each layer to pruning: a table, a page with figures, and a file that `prune --database` reads."""

import math
from dataclasses import field
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from threadpoolctl import threadpool_limits

from onnxsparse.analysis.layer_filter import LayerPattern
from onnxsparse.analysis.layers import layers
from onnxsparse.cost.backends.base import CostBackend
from onnxsparse.cost.backends.hardware import names
from onnxsparse.cost.registry import CostTarget, predicting_backend
from onnxsparse.cost.workload import workload
from onnxsparse.errors import ParamError
from onnxsparse.format import format_count
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import OutputFile
from onnxsparse.pipeline.base import OPTIONS, StepReport, budget_bytes, described
from onnxsparse.pipeline.learning import Learns
from onnxsparse.pruning.candidates import select_candidates
from onnxsparse.pruning.sparsity_pattern import GroupPattern, parse_pattern
from onnxsparse.records import TextTable, text_writer
from onnxsparse.recovery.database import Database
from onnxsparse.recovery.database_file import database_json
from onnxsparse.recovery.prices import NANOSECONDS, Latency
from onnxsparse.recovery.recover import Recovery, Rules
from onnxsparse.recovery.sensitivity_page import sensitivity_html

SHOWN = (0.5, 0.7, 0.9)
"""Sparsities of the table."""


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Sensitivity(Learns):
    """Measure on data what pruning costs each layer, and how much the model's outputs feel it; the model stays as it is.

    The table shows how far the outputs move if one layer alone is pruned. The file of --json spares `prune --database` the
    measurement, at any target.
    """

    name: ClassVar[str] = "sensitivity"
    changes_outputs: ClassVar[bool] = False
    dry: ClassVar[bool] = True

    json: OutputFile | None = None
    """File for the database (JSON), to be given to prune --database; - for standard output."""
    html: OutputFile | None = None
    """File for a page with figures (HTML, opens offline)."""
    pattern: str = "element"
    """Positions of zeros that are measured: element (any), or 4x1 (blocks of outputs x inputs)."""
    only: tuple[LayerPattern, ...] = ()
    """Layers to measure, and no others: glob, re:EXPRESSION, op:Conv, module prefix, or @FILE of those."""
    exclude: tuple[LayerPattern, ...] = ()
    """Layers to leave out; patterns as in --only."""
    target: CostTarget | None = field(
        default=None, metadata=described(f"Target whose predicted latency to show beside: {', '.join(names())}, or a TOML file.")
    )
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the positions at which activations are sampled."""
    memory: str = "2GB"
    """Memory for activations, in bytes (KB, MB, GB)."""

    def check(self) -> None:
        """Raises ParamError for options that do not go together."""
        if isinstance(parse_pattern(self.pattern), GroupPattern):
            raise ParamError(f"sensitivity: --pattern {self.pattern} leaves nothing to allocate, so that prune needs no database")
        budget_bytes(self.memory)
        self._backend()

    def check_model(self, model: Model) -> None:
        """Raises ParamError without data, and ModelError for data that does not fit."""
        if self.data is None:
            raise ParamError("sensitivity: give --data to measure on")
        super().check_model(model)

    def run(self, model: Model) -> StepReport:
        """Measure the curves. Raises ParamError if nothing can be measured, ModelError and BackendError as the walk does."""
        self.check()
        facts = layers(model)
        candidates, skipped = select_candidates(model, facts, self.only, self.exclude, "sensitivity", by_operations=False)
        learned, _ = self.split(model)
        assert learned is not None  # there is data
        pattern = parse_pattern(self.pattern)
        recovery = Recovery(model, facts.totals, Rules(pattern=pattern), learned, None, budget_bytes(self.memory), self.seed)
        with threadpool_limits(limits=1, user_api="blas"):
            recovery.prepare(candidates, "not measured")
        if not recovery.curves:
            reason = next((f"{skip.node}: {skip.reason}" for skip in [*recovery.skipped, *skipped]), "it has no weights")
            raise ParamError(f"sensitivity: no layer of {model.name} can be measured ({reason})")
        found = recovery.database(str(self.data), self.pattern)
        backend = self._backend()
        latency = None if backend is None else Latency(backend, workload(model))
        artifacts = {} if self.json is None else {self.json: text_writer(database_json(found))}
        if self.html is not None:
            artifacts[self.html] = text_writer(sensitivity_html(found))
        return StepReport(
            self.name,
            skipped=[*skipped, *recovery.skipped],
            notes=recovery.notes,
            before=facts.totals,
            after=facts.totals,
            tables=(table(found, recovery, latency),),
            artifacts=artifacts,
            dry=True,
        )

    def _backend(self) -> CostBackend | None:
        return None if self.target is None else predicting_backend(self.target, self.name)


def table(found: Database, recovery: Recovery, latency: Latency | None) -> TextTable:
    """One row per weight tensor: its MACs, its latency in ms, and the SQNR in dB of the outputs if it alone is pruned."""
    columns = ("layer", "MACs", *(("latency, ms",) if latency else ()), *(f"dB at {share:.0%}" for share in SHOWN), "sensitivity")
    rows = []
    for curve, unit in zip(found.layers, recovery.units, strict=True):
        cells = [curve.nodes[0], format_count(curve.macs)]
        if latency is not None:
            cost = latency.dense(unit.candidate)
            cells.append("unknown" if cost is None else f"{cost / NANOSECONDS:.3f}")
        losses = [float(curve.loss(math.ceil((1 - share) * curve.elements))) for share in SHOWN]
        cells += ["-" if loss <= 0 else f"{-10 * math.log10(loss):.1f}" for loss in losses]
        rows.append((*cells, f"{curve.sensitivity:.3g}"))
    return TextTable("sensitivity", columns, tuple(rows))
