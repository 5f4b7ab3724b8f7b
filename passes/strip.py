"""Removal of what `annotate` wrote."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from onnxsparse import annotations
from onnxsparse.ir.model import Model
from onnxsparse.pipeline.base import OPTIONS, StepReport


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Strip:
    """Remove the annotations of `annotate` from the model; other metadata stays."""

    name: ClassVar[str] = "strip"
    changes_outputs: ClassVar[bool] = False

    def run(self, model: Model) -> StepReport:
        """Remove the annotations from nodes and model, in place."""
        count = annotations.strip(model.proto)
        return StepReport(
            self.name, notes=[f"annotations removed from {count} nodes" if count else "the model had no annotations"]
        )
