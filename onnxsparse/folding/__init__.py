"""The same computation in fewer nodes: over an onnx-graphsurgeon graph, one body at a time."""

from onnxsparse import metadata
from onnxsparse.folding.constants import computes_on_constants, fold_constants
from onnxsparse.folding.linear import fold_affine
from onnxsparse.folding.padding import fold_pads
from onnxsparse.folding.passing import remove_passing
from onnxsparse.folding.rewriting import Folding, bodies
from onnxsparse.model import Model

__all__ = ["computes_on_constants", "fold", "fold_all_constants"]


def fold(model: Model, constants: bool = True, batch_norm: bool = True, pads: bool = True) -> dict[str, int]:
    """Remove Identity and Dropout, and fold constants, batch normalisation and padding; returns how often each was done."""
    folding = Folding(model)
    with model.edit() as edited:
        for graph in bodies(edited):
            remove_passing(folding, graph)
            if constants:
                fold_constants(folding, graph)
            if batch_norm:
                fold_affine(folding, graph)
            if pads:
                fold_pads(folding, graph)
    remember(folding)
    return folding.notes


def fold_all_constants(model: Model) -> int:
    """Replace what is computed from constants alone, everywhere; returns how many values that were."""
    folding = Folding(model)
    with model.edit() as edited:
        for graph in bodies(edited):
            fold_constants(folding, graph)
    remember(folding)
    return sum(folding.notes.values())


def remember(folding: Folding) -> None:
    """Say in the model's metadata which tensor each new one was made from."""
    weights = folding.model.weights
    made = {new: old for new, old in folding.names.items() if new in weights and new != old}
    metadata.remember_names(folding.model.proto, made)
