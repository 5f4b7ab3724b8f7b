"""Facts written where people and tools look for them: on the nodes."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from onnxsparse import metadata
from onnxsparse.deployment import deploy
from onnxsparse.facts import layers
from onnxsparse.model import Model
from onnxsparse.passbase import OPTIONS, StepReport, text_writer


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Annotate:
    """Write each node's MACs, sparsity and share of sparsity_op into its metadata, where Netron shows them.

    Annotations that are there already are replaced; other metadata stays. `strip` takes them off again.
    """

    name: ClassVar[str] = "annotate"
    changes_outputs: ClassVar[bool] = False

    side_file: Path | None = None
    """Write a Netron attachment (JSON) here and leave the model untouched: open it in Netron after the model."""
    backend: str | None = None
    """Also write what each layer costs on this target and what would help (cv22, cv22-skiplimit, cv22-stream, or a TOML file)."""
    ir_version: Annotated[int | None, Field(ge=3, le=100)] = None
    """Set the model's IR version; node metadata is standard from 10 on, and read by onnxruntime at 3 and above."""

    def run(self, model: Model) -> StepReport:
        facts = layers(model)
        notes = [f"{u.node}: {u.op} is not known to onnxsparse, its MACs are not counted" for u in facts.unknown]
        report = StepReport(self.name, notes=notes, before=facts.totals, after=facts.totals)
        costs = metadata.cost_entries(deploy(model, self.backend)) if self.backend is not None else None
        if self.side_file is not None:
            text, unreachable = metadata.attachment(model.proto, facts, costs)
            if unreachable:
                notes.append(f"{unreachable} layers have no unique name, so Netron cannot show the attachment on them")
            return replace(report, artifacts={self.side_file: text_writer(text)})
        metadata.strip(model.proto)
        metadata.write(model.proto, facts, costs)
        if self.ir_version is not None:
            model.proto.ir_version = self.ir_version
        return report
