"""The opposite of annotate."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from onnxsparse import annotations
from onnxsparse.ir.model import Model
from onnxsparse.pipeline.base import OPTIONS, StepReport


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Strip:
    """Take the annotations of `annotate` off the model; other metadata stays."""

    name: ClassVar[str] = "strip"
    changes_outputs: ClassVar[bool] = False

    def run(self, model: Model) -> StepReport:
        count = annotations.strip(model.proto)
        return StepReport(self.name, notes=[f"annotations removed from {count} nodes" if count else "there were no annotations"])
