"""Cross-layer equalization: give the channels of an activation similar ranges by moving a factor into the next layer.

    W2 · f(W1 x + b1)  =  (W2 · s) · f((W1 x + b1) / s)        where f(x / s) = f(x) / s

All channels of an activation share one scale, so a channel with a tenth of the range uses a tenth of the integers.

1. Find pairs of layers with nothing between them but ops through which a factor per channel passes (`find_pairs`).
2. Measure the largest magnitude of every channel between them on data.
3. s = √(activation range) / √(range of the weights that read it) divides the difficulty between the activation and the second
   layer's weights (`factors`). The first layer's weights have a scale per output and are unaffected.
4. Divide the first layer's weight and bias by s and multiply the second layer's weight by s (`move`).

Source: Data-Free Quantization through Weight Equalization and Bias Correction (ICCV 2019), with SmoothQuant's choice of s
(ICML 2023).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxsparse.calibration.channels import Channels, channel_magnitudes
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.plan.units import Anatomy, Unit
from onnxsparse.quantization.write.grid import Floats
from onnxsparse.quantization.write.weights import Sharing, magnitudes
from onnxsparse.runtime.probe import prefix
from onnxsparse.runtime.samples import Samples

LARGEST_FACTOR = 1e3
"""Bound on s and 1/s, so that a channel that is hardly ever activated is not amplified without limit."""


@dataclass(frozen=True)
class Pair:
    """Two units; the second is the only reader of the first one's output. `axis`: input channels in the second one's weight."""

    first: Unit
    second: Unit
    axis: int


def equalize(placement: Placement, data: Samples) -> int:
    """Equalize all pairs, in place in the weights of the placement's model; returns the number of pairs."""
    model = placement.anatomy.model
    pairs = list(find_pairs(placement))
    if not pairs:
        return 0
    values = [Channels(p.first.exit, len(model.weights.shape(p.first.weights[0].stored.name))) for p in pairs]
    largest = channel_magnitudes(prefix(model, [v.name for v in values]), values, data)
    for pair in pairs:
        reading = model.weights[pair.second.weights[0].stored.name]
        move(placement.anatomy, pair, factors(largest[pair.first.exit], magnitudes(reading, Sharing(pair.axis))))
    return len(pairs)


def factors(activation: Floats, weight: Floats) -> Floats:
    """The divisor s of each channel, given the largest magnitudes of both sides per channel.

    Normalised to a geometric mean of 1 over the channels that are used; 1 for a channel in which either side is all zeros.
    """
    used = (activation > 0) & (weight > 0)
    found = np.ones_like(activation)
    found[used] = np.sqrt(activation[used] / weight[used])
    if used.any():
        found[used] /= np.exp(np.log(found[used]).mean())
    return np.clip(found, 1 / LARGEST_FACTOR, LARGEST_FACTOR)


def move(anatomy: Anatomy, pair: Pair, factor: Floats) -> None:
    """Divide the first layer's output channels by `factor` and multiply the second one's input channels by it, in place."""
    weights = anatomy.model.weights
    made, read, bias = pair.first.weights[0], pair.second.weights[0], anatomy.bias_name(pair.first)
    for name, axis, by in ((made.stored.name, made.axis, 1 / factor), (read.stored.name, pair.axis, factor)):
        values = weights[name]
        weights[name] = (values.astype(np.float64) * Sharing(axis).along(by, values.ndim)).astype(values.dtype)
    if bias is not None:
        values = weights[bias]
        weights[bias] = (values.astype(np.float64) / factor).astype(values.dtype)


def find_pairs(placement: Placement) -> Iterator[Pair]:
    """Pairs of consecutive layers between which there are only ops with f(x / s) = f(x) / s per channel."""
    anatomy = placement.anatomy
    layers = {unit.root: unit for unit in placement.units if is_plain(anatomy, unit)}
    for first in layers.values():
        index, value = reader(anatomy, first)
        second = layers.get(index) if index is not None else None
        if second is None or anatomy.nodes[second.root].input[second.activations[0]] != value:
            continue
        if not all(anatomy.is_homogeneous(node) for node in first.nodes[1:]):
            continue
        channels = anatomy.outputs_of(first.weights[0])
        axis = anatomy.input_axis(second)
        if axis is not None and anatomy.model.weights.shape(second.weights[0].stored.name)[axis] == channels:
            yield Pair(first, second, axis)


def is_plain(anatomy: Anatomy, unit: Unit) -> bool:
    """Whether a unit is a layer with channels on axis 1, one stored weight and at most a stored bias, both unused elsewhere."""
    spec = anatomy.specs[unit.root]
    if not unit.computes or len(unit.weights) != 1 or spec is None or spec.fold.absorb is None:
        return False
    weight, bias, inputs = unit.weights[0], anatomy.bias_name(unit), anatomy.nodes[unit.root].input
    has_bias = spec.fold.absorb.bias_at < len(inputs) and bool(inputs[spec.fold.absorb.bias_at])
    own = [weight.stored.name, *([] if bias is None else [bias])]
    alone = all(anatomy.readers(name) == [unit.root] and name not in anatomy.outputs for name in own)
    return alone and has_bias == (bias is not None) and weight.axis is not None


def reader(anatomy: Anatomy, unit: Unit) -> tuple[int | None, str]:
    """The only reader of a unit's output and the value it reads, after following ops through which a factor passes.

    The index is None if there are several readers or none, or if the value is an output of the model or read by a body.
    """
    value = unit.exit
    while True:
        readers = anatomy.readers(value)
        if len(readers) != 1 or value in anatomy.outputs or value in anatomy.captured:
            return None, value
        index = readers[0]
        if not anatomy.is_homogeneous(index):
            return index, value
        value = anatomy.nodes[index].output[0]
