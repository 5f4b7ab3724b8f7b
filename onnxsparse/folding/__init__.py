"""Folding: the same computation in fewer nodes, on an onnx-graphsurgeon graph, one body at a time.

1. `passing` removes Identity and Dropout.
2. `constants` replaces values that follow from constants.
3. `linear` folds batch normalisation and arithmetic with constants into the linear op upstream.
4. `padding` folds Pads of zeros into the ops downstream.

Unless `may_grow` is set, steps 2 and 3 leave out folds that would make the file larger (`growth`).
"""

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
    """Fold `model` in place; returns what was folded, and how many folds were left out because the file would grow.

    `may_grow`: whether the file may grow, by copies of a weight that several nodes use or by a constant stored in two forms. The
    other flags switch steps off.
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
    """Replace every value that follows from constants, even if the file grows; returns the number of replaced values."""
    folding = Folding(model, may_grow=True)
    with model.edit() as edited:
        folding.look(edited)
        for graph in bodies(edited):
            fold_constants(folding, graph)
    remember(folding)
    return sum(folding.notes.values())


def fix_defaults(model: Model) -> int:
    """Make inputs with a default value constants; returns their number."""
    fixed = overridable(model.proto)
    inputs = model.proto.graph.input
    replace_all(inputs, [value for value in inputs if value.name not in fixed])
    return len(fixed)


def remember(folding: Folding) -> None:
    """Record in the model's metadata which tensor each new one was derived from."""
    weights = folding.model.weights
    made = {new: old for new, old in folding.names.items() if new in weights and new != old}
    metadata.remember_names(folding.model.proto, made)
