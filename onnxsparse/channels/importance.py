"""How much each channel matters: by the weights that make it and read it, or by what it does on data."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from onnxsparse.analysis.layers import layers
from onnxsparse.analysis.stored_weights import StoredWeight, is_real
from onnxsparse.channels.groups import Solution
from onnxsparse.channels.statistics import ChannelMeans
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array
from onnxsparse.ops.coupling import Role
from onnxsparse.pruning.items import real_values

Scores = NDArray[np.float64]
"""Per label; of a channel, at its class."""

Norm = Callable[[Array, tuple[int, ...]], Scores]


def l1(values: Array, axes: tuple[int, ...]) -> Scores:
    """Mean magnitude over all axes but one."""
    found: Scores = np.abs(values).mean(axes, dtype=np.float64)
    return found


def l2(values: Array, axes: tuple[int, ...]) -> Scores:
    """Root of the mean square."""
    found: Scores = np.sqrt(np.square(values, dtype=np.float64).mean(axes))
    return found


NORMS: Mapping[str, Norm] = {"l1": l1, "l2": l2}

ROLES = {
    "l1": (Role.PRODUCES, Role.CONSUMES),
    "l2": (Role.PRODUCES, Role.CONSUMES),
    "bn-scale": (Role.PER_CHANNEL,),
}


def weight_importance(model: Model, solution: Solution, measure: str) -> Scores:
    """Sums over the tensors that a channel is part of, each tensor's slices divided by their mean, so that none outweighs
    another.
    """
    stored = {use.tensor: use.stored for layer in layers(model, count=False) for use in layer.weights}
    total = np.zeros(solution.classes.root.size)
    norm = NORMS.get(measure, l1)
    for use in solution.found.uses:
        for axis, labels in enumerate(use.axes):
            if labels is None or use.roles.get(axis, Role.PER_CHANNEL) not in ROLES[measure]:
                continue
            weight = stored.get(use.tensor, StoredWeight(use.tensor, None))
            if weight.packing is not None or (weight.name not in stored and not is_real(weight, model.weights)):
                continue
            values = real_values(model.weights, weight)
            slices = norm(values, tuple(i for i in range(values.ndim) if i != axis))
            model.weights.release(use.tensor)
            mean = slices.mean()
            if mean > 0:
                np.add.at(total, solution.classes.root[labels], slices / mean)
    return total


def activation_importance(scores: Scores, solution: Solution, means: Mapping[str, ChannelMeans]) -> Scores:
    """Weight importance times how strongly the channel is lit on data, relative to the others along its axis."""
    strength = np.zeros_like(scores)
    seen = np.zeros_like(scores)
    for name, known in means.items():
        labels = (solution.found.axes.get(name) or ())[known.axis]
        if labels is not None and known.magnitude.mean() > 0:
            np.add.at(strength, solution.classes.root[labels], known.magnitude / known.magnitude.mean())
            np.add.at(seen, solution.classes.root[labels], 1)
    found: Scores = scores * np.where(seen > 0, strength / np.maximum(seen, 1), 1.0)
    return found
