"""Open sizes replaced by fixed ones in the file, for tools that need every size."""

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
    """Write the bound input sizes (--input-shape, --dim, or assumed) and all shapes that follow from them into the file.

    Compilers for accelerators need every size. The outputs do not change. But onnxruntime refuses a model with a branch that
    cannot work at these sizes, so the result is compared with the original, as after other passes.
    """

    name: ClassVar[str] = "fix-shapes"
    changes_outputs: ClassVar[bool] = True
    fixes_sizes: ClassVar[bool] = True

    def run(self, model: Model) -> StepReport:
        """Write the shapes of inputs, outputs and recorded values. Raises PassError if an input size is still open."""
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
                notes.append(f"input '{value.name}' is now {format_shape(found)}; it was {before}")
        if binding.unbound:
            raise PassError(
                f"fix-shapes: {model.name} still has open sizes ({'; '.join(binding.unbound)}); give them with --input-shape"
            )
        return StepReport(self.name, notes=notes or ["every input size was fixed already"], rewrote=bool(notes))
