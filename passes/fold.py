"""Clean-up that other passes need: fewer nodes, weights where they are used."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from onnxsparse.analysis.flattening import flatten
from onnxsparse.ir.model import Model
from onnxsparse.pipeline.base import OPTIONS, StepReport


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Fold:
    """Fold batch normalisation and constant expressions into the weights, and remove Identity and Dropout.

    The model computes the same, and its graph takes no more bytes. Weights keep their names; where a new tensor had to be made,
    the model's metadata says from which, so that masks made before still find it. An initializer that is an input as well is a
    default, which a caller may override (IR version 4 and later): it stays, and nothing that depends on it is folded. An If that
    constants and fixed sizes settle gives way to the branch that runs; model-local functions are written out where there is
    something to fold in them, and the file is no larger for it.
    """

    name: ClassVar[str] = "fold"
    changes_outputs: ClassVar[bool] = True

    constants: bool = True
    """Replace what is computed from constants alone by its result, unless the file would get larger."""
    batch_norm: bool = True
    """Fold batch normalisation, and arithmetic with a constant for each channel, into the convolution, transposed convolution
    or Gemm before it."""
    pads: bool = True
    """Make an explicit Pad of zeros part of the convolution or average pooling behind it."""
    constant_defaults: bool = False
    """Make constants of initializers that are inputs as well, so that callers cannot override them any more."""

    def run(self, model: Model) -> StepReport:
        # graphsurgeon takes a while to import
        from onnxsparse.folding import fix_defaults

        fixed = fix_defaults(model) if self.constant_defaults else 0
        notes = [f"{fixed} defaults of inputs made constants"] if fixed else []
        done, left = self._fold(model)
        notes += done
        larger = [f"{left} × left as it is: the file would get larger"] if left else []
        return StepReport(self.name, notes=[*(notes or ["nothing to fold"]), *larger], rewrote=bool(notes))

    def _fold(self, model: Model) -> tuple[list[str], int]:
        """Fold with calls written out, unless the file is smaller with functions; what was done, and how many folds were left."""
        from onnxsparse.folding import fold

        work = model.copy()
        notes = flatten(work)
        folding = fold(work, self.constants, self.batch_norm, self.pads)
        nothing = not folding.notes and len(notes) <= 1  # calls were written out, perhaps
        if model.proto.functions and (nothing or work.written_bytes > model.written_bytes):
            work = model.copy()
            notes = flatten(work, functions=False)
            folding = fold(work, self.constants, self.batch_norm, self.pads)
        model.assign(work)
        return [*notes, *(f"{count} × {what}" for what, count in folding.notes.items())], folding.left
