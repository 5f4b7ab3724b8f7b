"""Simplification that other passes rely on: fewer nodes, and weights stored as initializers of the layers that use them."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from onnxsparse.analysis.flattening import flatten
from onnxsparse.ir.model import Model
from onnxsparse.pipeline.base import OPTIONS, StepReport


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Fold:
    """Fold batch normalisation and constant expressions into the weights, and remove Identity and Dropout.

    The outputs stay the same, and the graph takes no more bytes. Weights keep their names; the model's metadata records the
    origin of every new tensor, so that earlier masks still apply to it. An initializer that is also an input is a default, which
    a caller may override (IR version 4 and later): it stays, and nothing that depends on it is folded. An If whose condition
    follows from constants and fixed sizes is replaced by the branch that runs. Model-local functions are inlined if something in
    them can be folded and the file does not grow.
    """

    name: ClassVar[str] = "fold"
    changes_outputs: ClassVar[bool] = True

    constants: bool = True
    """Replace expressions of constants by their results, unless the file grows."""
    batch_norm: bool = True
    """Fold batch normalisation, and arithmetic with a constant for each channel, into the convolution, transposed convolution
    or Gemm before it."""
    pads: bool = True
    """Merge an explicit Pad of zeros into the convolution or average pooling after it."""
    constant_defaults: bool = False
    """Make initializers that are also inputs constants, which callers cannot override."""

    def run(self, model: Model) -> StepReport:
        """Fold `model` in place; `rewrote` is False if nothing could be folded."""
        # imported here since graphsurgeon is slow to import, and --help reads this module
        from onnxsparse.folding import fix_defaults

        fixed = fix_defaults(model) if self.constant_defaults else 0
        notes = [f"{fixed} defaults of inputs became constants"] if fixed else []
        done, left = self._fold(model)
        notes += done
        larger = [f"{left} × not folded: the file would grow"] if left else []
        return StepReport(self.name, notes=[*(notes or ["nothing to fold"]), *larger], rewrote=bool(notes))

    def _fold(self, model: Model) -> tuple[list[str], int]:
        """Fold with functions inlined, or without if that gives the smaller file.

        Returns notes on what was folded, and the number of folds that were not made because the file would grow.
        """
        from onnxsparse.folding import fold

        work = model.copy()
        notes = flatten(work)
        folding = fold(work, self.constants, self.batch_norm, self.pads)
        nothing = not folding.notes and len(notes) <= 1  # one note may say that functions were inlined
        if model.proto.functions and (nothing or work.written_bytes > model.written_bytes):
            work = model.copy()
            notes = flatten(work, functions=False)
            folding = fold(work, self.constants, self.batch_norm, self.pads)
        model.assign(work)
        return [*notes, *(f"{count} × {what}" for what, count in folding.notes.items())], folding.left
