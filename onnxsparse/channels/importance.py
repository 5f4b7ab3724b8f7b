"""Importance of channels: from the weights that produce and consume them, or from activations on data."""

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
from onnxsparse.pruning.items import float32_values

Scores = NDArray[np.float64]
"""One score per label; a channel's score is at its class."""

Norm = Callable[[Array, tuple[int, ...]], Scores]


def l1(values: Array, axes: tuple[int, ...]) -> Scores:
    """Mean magnitude over `axes`, the axes other than the channels'."""
    found: Scores = np.abs(values).mean(axes, dtype=np.float64)
    return found


def l2(values: Array, axes: tuple[int, ...]) -> Scores:
    """Root mean square over `axes`."""
    found: Scores = np.sqrt(np.square(values, dtype=np.float64).mean(axes))
    return found


NORMS: Mapping[str, Norm] = {"l1": l1, "l2": l2}
"""Option value → norm of a channel's slices. Other values use l1."""

ROLES = {
    "l1": (Role.PRODUCES, Role.CONSUMES),
    "l2": (Role.PRODUCES, Role.CONSUMES),
    "bn-scale": (Role.PER_CHANNEL,),
}
"""Option value → roles of the axes that count."""


def weight_importance(model: Model, solution: Solution, measure: str) -> Scores:
    """Scores by weights: for each channel the sum of the norms of its slices over all tensors.

    Each tensor's slices are divided by their mean, so that no tensor outweighs another. Packed weights and integers without a
    scale do not count.
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
            values = float32_values(weight, model.weights)
            slices = norm(values, tuple(i for i in range(values.ndim) if i != axis))
            model.weights.release(use.tensor)
            mean = slices.mean()
            if mean > 0:
                np.add.at(total, solution.classes.root[labels], slices / mean)
    return total


def activation_importance(scores: Scores, solution: Solution, means: Mapping[str, ChannelMeans]) -> Scores:
    """`scores` times each channel's mean magnitude on data, relative to the other channels along its axis. A channel without
    data keeps its score.
    """
    strength = np.zeros_like(scores)
    seen = np.zeros_like(scores)
    for name, known in means.items():
        labels = (solution.found.axes.get(name) or ())[known.axis]
        if labels is not None and known.magnitude.mean() > 0:
            np.add.at(strength, solution.classes.root[labels], known.magnitude / known.magnitude.mean())
            np.add.at(seen, solution.classes.root[labels], 1)
    found: Scores = scores * np.where(seen > 0, strength / np.maximum(seen, 1), 1.0)
    return found
