"""Zeros from a file of masks."""

from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic.dataclasses import dataclass

from onnxsparse.analysis.layers import layers
from onnxsparse.analysis.stored_weights import count_zeros, flat_zeros
from onnxsparse.errors import ParamError
from onnxsparse.ir import metadata
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import reading
from onnxsparse.pipeline.base import OPTIONS, StepReport
from onnxsparse.pruning.masks import read_masks
from onnxsparse.records import Change


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class ApplyMasks:
    """Zero the weights that the masks of an earlier `prune --masks` exclude; weights are found by name and shape."""

    name: ClassVar[str] = "apply-masks"
    changes_outputs: ClassVar[bool] = True

    masks: Annotated[Path, reading(read_masks)]
    """File of masks: npz of boolean arrays by weight name, True where the weight is kept."""

    def run(self, model: Model) -> StepReport:
        """Apply every mask. A mask for a tensor that `fold` replaced applies to the new tensor, transposed if that was.

        Raises ParamError for a mask whose weight the model lacks, or has in another shape or outside of a layer, and ModelError
        for a file that cannot be read.
        """
        masks = read_masks(self.masks)
        facts = layers(model)
        uses = {use.tensor: (use, layer.node) for layer in facts for use in layer.weights}
        changes: list[Change] = []
        made_from = {old: new for new, old in metadata.names(model.proto).items()}
        for given, mask in masks.items():
            name = given if given in uses else made_from.get(given, given)
            if name not in model.weights:
                raise ParamError(f"apply-masks: {self.masks} has a mask for '{name}', and {model.name} has no such weight")
            if name != given and mask.T.shape == model.weights.shape(name):
                mask = mask.T  # a transposed weight was folded
            if mask.shape != model.weights.shape(name):
                shapes = f"{list(mask.shape)}, and the weight in {model.name} is {list(model.weights.shape(name))}"
                raise ParamError(f"apply-masks: the mask for '{name}' is {shapes}")
            if name not in uses:
                raise ParamError(f"apply-masks: '{name}' is not a weight of a layer of {model.name}")
            use, node = uses[name]
            array = model.weights[name]
            zeros = flat_zeros(use.stored, model.weights)
            model.weights[name] = np.where(mask, array, zeros if zeros.ndim == 0 else zeros.reshape(array.shape))
            after = count_zeros(use.stored, model.weights)
            if after != use.zeros:
                changes.append(Change(name, (node,), use.elements, use.zeros or 0, after))
        notes = [] if changes else ["nothing changed: every weight that the masks exclude is zero already"]
        return StepReport(self.name, changes=changes, notes=notes, before=facts.totals, after=layers(model).totals)
