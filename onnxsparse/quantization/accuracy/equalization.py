"""Cross-layer equalization: give the channels of an activation similar ranges by moving a factor into the layers that read it.

    W2 · f(W1 x + b1)  =  (W2 · s) · f((W1 x + b1) / s)        where f(x / s) = f(x) / s

All channels of an activation share one scale, so a channel with a tenth of the range uses a tenth of the integers.

1. Find the channels that can have a factor, and those that must have a common one (`ChannelFactors`).
2. Measure the largest magnitude of every channel on data.
3. s = √(activation range) / √(range of the weights that read it) divides the difficulty between activations and the weights that
   read them (`factors`). The weights of layers that make them have a scale per output and are unaffected.
4. Divide the outputs of layers by s and multiply their inputs by it, in weights and biases; where a function is in the way,
   divide its result (`move`).

Source: Data-Free Quantization through Weight Equalization and Bias Correction (ICCV 2019), with SmoothQuant's choice of s
(ICML 2023).
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import helper

from onnxsparse.calibration.channels import CHANNELS, Channels, channel_magnitudes
from onnxsparse.ir.array_types import Indices
from onnxsparse.ir.model import Model
from onnxsparse.ir.new_tensors import Additions
from onnxsparse.quantization.accuracy.channel_factors import FACTOR, ChannelFactors, Finding
from onnxsparse.quantization.plan.placement import Placement, place
from onnxsparse.quantization.plan.units import Anatomy
from onnxsparse.quantization.write.grid import Floats
from onnxsparse.quantization.write.weights import Sharing, magnitudes
from onnxsparse.runtime.probe import prefix
from onnxsparse.runtime.samples import Samples

AS_IT_IS = "as it is"
WAYS = {"equalized": False, "equalized with a Mul behind each function": True}
"""What was done → whether results of functions through which no factor passes are divided."""

NOTHING = "channels were not equalized: in this model, none can have a factor"

LARGEST_FACTOR = 1e3
"""Bound on s and 1/s, so that a channel that is hardly ever activated is not amplified without limit."""


def best_equalized(placement: Placement, data: Samples, level: Callable[[Placement], float]) -> tuple[Placement, str]:
    """A placement as it is, or equalized in one of two ways on `data`, by which has the highest level; and a note.

    `level`: SQNR in dB in integers, of the worst output or slice.
    """
    tried = {AS_IT_IS: placement}
    for said, split in WAYS.items():
        made = equalized(placement, data, split=split)
        tried.update({} if made is None else {said: made})
    if len(tried) == 1:
        return placement, NOTHING
    levels = {said: level(each) for said, each in tried.items()}
    best = max(levels, key=lambda said: levels[said])
    told = ", ".join(f"{each:.1f} dB {said}" for said, each in levels.items())
    verdict = "not equalized" if best == AS_IT_IS else best
    return tried[best], f"channels were {verdict}: the worst output or slice of some samples has {told}"


def equalized(placement: Placement, data: Samples, *, split: bool) -> Placement | None:
    """The placement of an equalized copy of a model; None if no channel can have a factor.

    `split`: whether results of functions through which no factor passes are multiplied by constants; if none can be, None.
    """
    anatomy = placement.anatomy
    found = Finding(placement, split).run()
    if split and all(found.of(name) is None for name in found.splits):
        return None
    names = [name for name in placement.calibrated if found.of(name) is not None]
    read = [unit for unit in found.layers.values() if found.of(anatomy.nodes[unit.root].input[unit.activations[0]]) is not None]
    if not names or not read:
        return None
    values = [Channels(name, found.ranks[name]) for name in names]
    largest = channel_magnitudes(prefix(anatomy.model, names), values, data)
    return move(placement, found, factors(anatomy, found, largest))


def factors(anatomy: Anatomy, found: ChannelFactors, largest: Mapping[str, Floats]) -> Floats:
    """The divisor s of each class of channels. `largest`: activation → largest magnitude of each channel.

    Magnitudes count as shares of the largest one of their activation or weight. s is 1 for a class in which either side is all
    zeros, and for frozen ones.
    """
    activation, weight = np.zeros(found.classes.root.size), np.zeros(found.classes.root.size)
    for name, own in largest.items():
        raise_to_shares(activation, found.of(name), own)
    for unit in found.layers.values():
        stored, axis = unit.weights[0].stored.name, anatomy.input_axis(unit)
        classes = found.of(anatomy.nodes[unit.root].input[unit.activations[0]])
        if classes is not None:
            raise_to_shares(weight, classes, magnitudes(anatomy.model.weights[stored], Sharing(axis)))
    used = (activation > 0) & (weight > 0) & ~found.classes.frozen
    made = np.ones_like(activation)
    made[used] = np.sqrt(activation[used] / weight[used])
    return np.clip(made, 1 / LARGEST_FACTOR, LARGEST_FACTOR)


def raise_to_shares(so_far: Floats, classes: Indices | None, own: Floats) -> None:
    """Raise the entries of classes to the shares that magnitudes of channels have in the largest of them."""
    if classes is not None and own.any():
        np.maximum.at(so_far, classes, own / own.max())


def move(placement: Placement, found: ChannelFactors, divisors: Floats) -> Placement:
    """The placement of a copy of a model with its activations divided. `divisors`: one for each class of channels."""
    anatomy, model = placement.anatomy, placement.anatomy.model.copy()
    for unit in found.layers.values():
        node = anatomy.nodes[unit.root]
        made, read = (divisor(found, divisors, name) for name in (node.output[0], node.input[unit.activations[0]]))
        stored, bias = unit.weights[0], anatomy.bias_name(unit)
        if read is not None:
            multiply(model, stored.stored.name, read, anatomy.input_axis(unit))
        if made is not None:
            multiply(model, stored.stored.name, 1 / made, stored.axis)
        if made is not None and bias is not None:
            multiply(model, bias, 1 / made, 0)
    at = divide(model, {name: own for name in found.splits if (own := divisor(found, divisors, name)) is not None}, found)
    kept = {index + bisect_left(at, index): reason for index, reason in placement.kept.items()}
    return place(model, anatomy.target, kept)


def divisor(found: ChannelFactors, divisors: Floats, name: str) -> Floats | None:
    """The divisor of each channel of a value; None if all are 1."""
    classes = found.of(name)
    own = None if classes is None else divisors[classes]
    return None if own is None or (own == 1).all() else own


def multiply(model: Model, name: str, factor: Floats, axis: int | None) -> None:
    """Multiply a stored tensor by a factor along an axis, in its own type."""
    held = model.weights[name]
    model.weights[name] = (held.astype(np.float64) * Sharing(axis).along(factor, held.ndim)).astype(held.dtype)


def divide(model: Model, divided: Mapping[str, Floats], found: ChannelFactors) -> list[int]:
    """Divide the channels of values for all nodes that read them; returns the indices of the nodes that make them, in order.

    The nodes that divide come directly behind those.
    """
    additions, behind = Additions(model), dict[int, onnx.NodeProto]()
    results = {name: additions.fresh(f"{name}_equalized") for name in divided}
    for node in model.proto.graph.node:
        for at, read in enumerate(node.input):
            node.input[at] = results.get(read, read)
    for name, own in divided.items():
        factor = Sharing(CHANNELS).along(1 / own, found.ranks[name]).astype(np.float32)
        constant = additions.constant(f"{name}_factor", factor)
        behind[found.splits[name]] = helper.make_node(
            FACTOR, [name, constant], [results[name]], name=additions.fresh(f"{name}_equalizing")
        )
    for index in sorted(behind, reverse=True):
        model.proto.graph.node.insert(index + 1, behind[index])
    additions.write()
    return sorted(behind)
