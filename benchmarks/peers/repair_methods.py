"""Pruning with data as wanda and SparseGPT do it: every layer to the same sparsity.

wanda (arXiv 2306.11695): of each output row, the weights go whose magnitude times the norm of their input is smallest. SparseGPT
(arXiv 2301.00774): column by column, weights go by w² over the squared diagonal of the inverse Hessian's Cholesky factor, and the
columns to the right make up for them. Inputs are captured by onnxsparse, so that its own method sees the same: those of the dense
network, or in order those of the network as pruned so far.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnxsparse import Model, layers
from onnxsparse.calibration.positions import gather
from onnxsparse.calibration.walk import Walk
from onnxsparse.pruning.candidates import find_candidates
from onnxsparse.recovery.units import Unit, find_units
from onnxsparse.runtime.samples import Samples

Floats = NDArray[np.float64]

Method = Callable[[Floats, Floats, float], Floats]
"""Weights (rows × columns), second moments of the inputs (columns × columns) and a sparsity → pruned weights."""

BLOCK = 128
"""Columns between two lazy updates, which are also those among which SparseGPT chooses."""

DAMPING = 0.01
"""Share of the mean diagonal that SparseGPT adds to the Hessian."""

MEMORY_BYTES = 2 * 10**9


def wanda(weight: Floats, hessian: Floats, sparsity: float) -> Floats:
    """The same share of each row set to zero; the others stay as they are."""
    importance = np.abs(weight) * np.sqrt(np.diagonal(hessian))
    order = np.argsort(importance, axis=1, kind="stable")
    pruned = weight.copy()
    np.put_along_axis(pruned, order[:, : round(sparsity * weight.shape[1])], 0, axis=1)
    return pruned


def sparsegpt(weight: Floats, hessian: Floats, sparsity: float) -> Floats:
    """The same share of each block of columns set to zero; what is to the right of a column makes up for it."""
    factor, weight = inverse_factor(hessian), np.where(np.diagonal(hessian) == 0, 0, weight)
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        block, errors = weight[:, start:stop].copy(), np.zeros((weight.shape[0], stop - start))
        inner = factor[start:stop, start:stop]
        importance = (block / np.diagonal(inner)) ** 2
        gone = np.zeros(block.shape, bool)
        gone.flat[np.argsort(importance, axis=None, kind="stable")[: round(sparsity * block.size)]] = True
        for column in range(stop - start):
            errors[:, column] = np.where(gone[:, column], block[:, column], 0) / inner[column, column]
            block[:, column:] -= np.outer(errors[:, column], inner[column, column:])
        weight[:, start:stop] = np.where(gone, 0, block)
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    return weight


def inverse_factor(hessian: Floats) -> Floats:
    """The upper Cholesky factor of the damped Hessian's inverse."""
    diagonal = np.diagonal(hessian)
    damped = hessian + np.diag(np.where(diagonal == 0, 1.0, 0.0) + DAMPING * diagonal.mean())
    found: Floats = np.linalg.cholesky(np.linalg.inv(damped)).T
    return found


METHODS: dict[str, Method] = {"wanda": wanda, "SparseGPT": sparsegpt}


def prune(model: Model, samples: Samples, method: Method, sparsity: float, *, in_order: bool) -> None:
    """Prune all layers of `model` that onnxsparse can repair, in place. A weight that several nodes use sees its first node.

    `in_order`: inputs of the network as pruned so far, in place of those of the dense one.
    """
    facts = layers(model)
    candidates, _ = find_candidates(model, facts, {layer.node for layer in facts}, set(), by_operations=False)
    units, _ = find_units(model, candidates)
    walk = Walk(model if in_order else model.copy(), samples, MEMORY_BYTES)
    for unit in units:
        walk.advance(unit.at)
        unit.store(model, pruned_unit(model, unit, walk, method, sparsity))


def pruned_unit(model: Model, unit: Unit, walk: Walk, method: Method, sparsity: float) -> Floats:
    """The new weights of a layer, before whose node the walk stands."""
    columns = gather(walk, unit.sites[0], seed=0).astype(np.float64)
    weight = unit.matrix(model)
    hessians = columns.swapaxes(1, 2) @ columns / columns.shape[1]
    return np.stack([method(rows, hessian, sparsity) for rows, hessian in zip(weight, hessians, strict=True)])
