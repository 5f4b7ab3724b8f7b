"""The same computation in fewer nodes: over an onnx-graphsurgeon graph, one body at a time."""

from onnxsparse.folding.constants import computes_on_constants, fold_constants
from onnxsparse.folding.linear import fold_affine
from onnxsparse.folding.padding import fold_pads
from onnxsparse.folding.passing import remove_passing
from onnxsparse.folding.rewriting import Folding, bodies
from onnxsparse.ir import metadata
from onnxsparse.ir.graph import overridable
from onnxsparse.ir.model import Model
from onnxsparse.ir.protos import replace_all

__all__ = ["computes_on_constants", "fix_defaults", "fold", "fold_all_constants"]


def fold(model: Model, constants: bool = True, batch_norm: bool = True, pads: bool = True, *, may_grow: bool = False) -> Folding:
    """Remove Identity and Dropout, and fold constants, batch normalisation and padding; returns what was done, and left.

    `may_grow`: whether a weight that several nodes use may be copied, or a constant written in two forms, for it.
    """
    folding = Folding(model, may_grow)
    with model.edit() as edited:
        folding.look(edited)
        for graph in bodies(edited):
            remove_passing(folding, graph)
            if constants:
                fold_constants(folding, graph)
            if batch_norm:
                fold_affine(folding, graph)
            if pads:
                fold_pads(folding, graph)
    remember(folding)
    return folding


def fold_all_constants(model: Model) -> int:
    """Replace what is computed from constants alone, everywhere, even if the file grows; returns how many values that were."""
    folding = Folding(model, may_grow=True)
    with model.edit() as edited:
        folding.look(edited)
        for graph in bodies(edited):
            fold_constants(folding, graph)
    remember(folding)
    return sum(folding.notes.values())


def fix_defaults(model: Model) -> int:
    """Take inputs that have a default off the list of inputs; returns how many."""
    fixed = overridable(model.proto)
    inputs = model.proto.graph.input
    replace_all(inputs, [value for value in inputs if value.name not in fixed])
    return len(fixed)


def remember(folding: Folding) -> None:
    """Say in the model's metadata which tensor each new one was made from."""
    weights = folding.model.weights
    made = {new: old for new, old in folding.names.items() if new in weights and new != old}
    metadata.remember_names(folding.model.proto, made)
