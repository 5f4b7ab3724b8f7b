"""MACs, sparsity and predicted cost as metadata of the nodes."""

from dataclasses import field, replace
from typing import Annotated, ClassVar

import onnx
from pydantic import Field
from pydantic.dataclasses import dataclass

from onnxsparse import annotations
from onnxsparse.analysis.layer import Layers
from onnxsparse.analysis.layer_filter import LayerPattern, choose
from onnxsparse.analysis.layers import layers
from onnxsparse.cost.estimate import deploy
from onnxsparse.cost.registry import CostTarget, backend_names
from onnxsparse.cost.report.completeness import assumed_free, fact_gaps, gaps, require_complete
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import OutputFile
from onnxsparse.pipeline.base import OLD_NAME, OPTIONS, StepReport, described, named_target
from onnxsparse.records import text_writer


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Annotate:
    """Write each node's MACs, sparsity and share of sparsity_op into its metadata, where Netron shows them.

    Existing annotations are replaced; other metadata stays. `strip` removes the annotations again.
    """

    name: ClassVar[str] = "annotate"
    changes_outputs: ClassVar[bool] = False

    side_file: OutputFile | None = None
    """File for a Netron attachment (JSON) in place of a changed model; open it in Netron after the model."""
    target: CostTarget | None = field(
        default=None,
        metadata=described(
            f"Target whose cost per layer, with advice, is written too: {', '.join(backend_names())}, or a TOML file."
        ),
    )
    backend: Annotated[CostTarget | None, OLD_NAME] = None
    """Old name of --target."""
    assume_free: tuple[LayerPattern, ...] = ()
    """Nodes to count as 0: glob, re:EXPRESSION, op:NAME, module prefix, or @FILE of those."""
    strict: bool = False
    """Refuse a model if any MACs, or with --target any cost, are unknown."""
    ir_version: Annotated[int | None, Field(ge=3, le=onnx.IR_VERSION)] = None
    """IR version to set; node metadata is standard from 10 on, and onnxruntime accepts it from 3 on."""

    def check(self) -> None:
        """Raises ParamError for two targets."""
        self._target()

    def run(self, model: Model) -> StepReport:
        """Annotate `model`, or write the side file and leave the model unchanged.

        Raises ParamError for a pattern that matches no node and, with `strict`, for unknown MACs or costs.
        """
        facts, costs, notes = self._facts(model)
        report = StepReport(self.name, notes=notes, before=facts.totals, after=facts.totals)
        if self.side_file is not None:
            text, unreachable = annotations.attachment(model.proto, facts, costs)
            if unreachable:
                notes.append(f"{unreachable} layers have no unique name, so Netron cannot show the attachment on them")
            return replace(report, artifacts={self.side_file: text_writer(text)})
        annotations.strip(model.proto)
        annotations.write(model.proto, facts, costs)
        if self.ir_version is not None:
            model.proto.ir_version = self.ir_version
        return report

    def _target(self) -> str | None:
        return named_target(self.name, None, target=self.target, backend=self.backend)

    def _facts(self, model: Model) -> tuple[Layers, annotations.CostEntries | None, list[str]]:
        """Facts, predicted costs (None without a target), and notes on what is unknown."""
        facts = layers(model)
        target = self._target()
        if target is None:
            nodes = (*facts, *facts.unknown)
            facts = replace(facts, free=frozenset(choose(nodes, self.assume_free, "annotate: --assume-free", model.name)))
            costs, told = None, fact_gaps(facts)
        else:
            found = deploy(model, target, assume_free=self.assume_free)
            facts = replace(facts, free=found.load.free)
            costs, told = annotations.cost_entries(found), gaps(found)
        if self.strict:
            require_complete(told, facts, self.name, model.name)
        unknown = (f"{u.node}: {u.op} is unknown to onnxsparse; its MACs are not counted" for u in facts.unknown)
        notes = [*([f"incomplete: {'; '.join(told)}"] if told else []), *unknown]
        return facts, costs, [*notes, *([free] if (free := assumed_free(facts)) is not None else [])]
