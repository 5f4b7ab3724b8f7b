"""Open sizes made part of the file, for tools that take no open ones."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from onnxsparse.analysis.recorded_shapes import set_shape
from onnxsparse.analysis.shape_inference import infer_shapes
from onnxsparse.errors import PassError
from onnxsparse.ir.binding import format_shape
from onnxsparse.ir.functions import inlined
from onnxsparse.ir.model import Model
from onnxsparse.pipeline.base import OPTIONS, StepReport


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class FixShapes:
    """Write the input sizes that are bound (by --input-shape, --dim, or assumed) into the file, and all shapes that follow.

    Compilers for accelerators want every size known. The outputs stay what they are, but a model with a branch that cannot
    work at these sizes does not load any more, so the result is compared like that of other passes.
    """

    name: ClassVar[str] = "fix-shapes"
    changes_outputs: ClassVar[bool] = True

    def run(self, model: Model) -> StepReport:
        binding, graph = model.binding, model.proto.graph
        shapes = infer_shapes(inlined(model.proto), model.weights, binding, model.name)
        notes = []
        for value in (*graph.input, *graph.output, *graph.value_info):
            found = shapes.get("", value.name)
            if found is None or not value.type.HasField("tensor_type"):
                continue
            before = format_shape([d.dim_value or None for d in value.type.tensor_type.shape.dim])
            set_shape(value, found)
            if value.name in binding.shapes and before != format_shape(found):
                notes.append(f"input '{value.name}' is {format_shape(found)} now, it was {before}")
        if binding.unbound:
            raise PassError(
                f"fix-shapes: {model.name} has open sizes left ({'; '.join(binding.unbound)}); give them with --input-shape"
            )
        return StepReport(self.name, notes=notes or ["every input size was fixed already"], rewrote=bool(notes))
