"""Factors that make the ranges of activations fit scales that are powers of two.

A scale of 2^−e that holds a range is up to twice as coarse as the range needs. A factor f on an activation moves its range, and
changes nothing else if it is taken from what makes the activation and given back to what reads it:

    W2 · relu(W1 x + b1)  =  (W2 / f) · relu(f W1 x + f b1)

1. Divide the values of the graph into groups through which a common factor passes: ReLU, MaxPool, Reshape, additions of two
   activations, Clip with scaled bounds. Layers have groups of their own before and behind them. Groups with a value that anything
   else touches, and inputs and outputs of the model, have the factor 1 (`Groups`).
2. Choose the factor of each group, from 1/√2 to √2, for which the outputs have least noise from its activations and the weights
   around it, in a few rounds, since a weight is between two groups (`chosen`). What each tensor costs the outputs is measured
   with the factor 1; from there, noise grows and falls as the square of the step.
3. Scale weights, biases and bounds (`apply`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxsparse.calibration.methods import Range
from onnxsparse.ir.model import Model
from onnxsparse.ir.new_tensors import Additions
from onnxsparse.quantization.accuracy.channel_factors import is_plain
from onnxsparse.quantization.accuracy.output_noise import Tensor
from onnxsparse.quantization.plan.placement import Placement, place
from onnxsparse.quantization.plan.units import Anatomy, Unit
from onnxsparse.quantization.write.grid import Floats
from onnxsparse.quantization.write.weights import Sharing, magnitudes

TRIED = np.exp2(np.arange(-8, 8) / 16)
"""Factors that are tried; those a power of two apart are the same."""

ROUNDS = 3


@dataclass
class Groups:
    """Values through which a common factor passes, as a union-find forest. `fixed`: values with the factor 1."""

    anatomy: Anatomy
    layers: Mapping[int, Unit]
    parents: dict[str, str] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, placement: Placement) -> "Groups":
        """The groups of a placement's model."""
        anatomy = placement.anatomy
        found = cls(anatomy, {unit.root: unit for unit in placement.units if is_plain(anatomy, unit)})
        for index, node in enumerate(anatomy.nodes):
            read = anatomy.activation_inputs(index)
            made = [name for name in node.output if name and anatomy.is_float(name)]
            if not read or not (index in found.layers or found.passes(index)):
                found.fixed.update(read, made)
            elif index not in found.layers:
                found.parents |= {found.root(name): found.root(read[0]) for name in (*read[1:], *made)}
        found.fixed |= {value.name for value in anatomy.graph.proto.input} | anatomy.outputs | anatomy.captured
        return found

    def passes(self, index: int) -> bool:
        """Whether a positive factor on the activations of a node appears on its results, Clip's bounds being scaled."""
        anatomy = self.anatomy
        return anatomy.passes_factors(index) or (anatomy.reads_one(index) and self.has_bounds(index))

    def has_bounds(self, index: int) -> bool:
        """Whether a node limits its first input to constant bounds."""
        spec, node = self.anatomy.specs[index], self.anatomy.nodes[index]
        if spec is None or not spec.quant.bounds:
            return False
        names = [node.input[at] for at, _ in spec.quant.bounds if at < len(node.input) and node.input[at]]
        return all(self.anatomy.resolver.constant(self.anatomy.graph, name) is not None for name in names)

    def root(self, name: str) -> str:
        """The value that stands for the group of a value."""
        while self.parents.get(name, name) != name:
            name = self.parents[name]
        return name

    def ends(self, unit: Unit) -> tuple[str, str]:
        """The groups before and behind a layer."""
        node = self.anatomy.nodes[unit.root]
        return self.root(node.input[unit.activations[0]]), self.root(node.output[0])


def fitted(placement: Placement, ranges: Mapping[str, Range], tensors: Sequence[Tensor]) -> tuple[Placement, dict[str, float]]:
    """The placement of a model with scaled activations, and activation → its factor.

    `ranges`: activation → its best range. `tensors`: what activations and weights cost the outputs, with powers of two. Changes
    the placement's model, whose outputs stay the same up to the rounding of floats.
    """
    groups = Groups.of(placement)
    factors = chosen(groups, [*value_steps(placement, groups, ranges, tensors), *weight_steps(placement, groups, tensors)])
    if not factors:
        return placement, {}
    apply(groups, factors)
    found = place(placement.anatomy.model, placement.anatomy.target, placement.kept)
    return found, {name: factors.get(groups.root(name), 1.0) for name in ranges}


@dataclass(frozen=True, eq=False)
class Steps:
    """The best steps of a tensor: of an activation, which grow with the factor of the group `over`, or of a weight.

    The steps of a weight grow with the factor of the group behind it (`over`), and fall with that of the one before (`under`).
    `noise`: what a coarseness of 1 costs the outputs.
    """

    steps: Floats
    noise: float
    over: str
    under: str | None = None

    @classmethod
    def measured(cls, steps: Floats, noise: float, over: str, under: str | None = None) -> "Steps":
        """From the noise with the factor 1."""
        return cls(steps, noise / float(coarseness(steps).mean()), over, under)

    def cost(self, group: str, factors: Mapping[str, float]) -> Floats:
        """The noise for each of TRIED as the factor of a group. `factors`: of the others."""
        ratios = TRIED / factors.get(self.under, 1.0) if self.under is not None else TRIED
        if group == self.under:
            ratios = factors.get(self.over, 1.0) / TRIED
        found: Floats = self.noise * coarseness(np.multiply.outer(ratios, self.steps)).mean(1)
        return found


def chosen(groups: Groups, tensors: Sequence[Steps]) -> dict[str, float]:
    """Group → its factor; those with the factor 1 are left out."""
    fixed = {groups.root(name) for name in groups.fixed}
    touched: dict[str, list[Steps]] = {}
    for each in tensors:
        for group in (each.over, each.under) if each.over != each.under else ():
            if group is not None and group not in fixed:
                touched.setdefault(group, []).append(each)
    found = dict.fromkeys(touched, 1.0)
    for _ in range(ROUNDS):
        for group, own in touched.items():
            costs = np.sum([each.cost(group, found) for each in own], axis=0)
            found[group] = float(TRIED[np.argmin(costs)]) if costs.min() < costs[TRIED == 1].min() else 1.0
    return {group: factor for group, factor in found.items() if factor != 1}


def value_steps(placement: Placement, groups: Groups, ranges: Mapping[str, Range], tensors: Sequence[Tensor]) -> Iterator[Steps]:
    """The best steps of activations that set scales; those that share one have equal parts of its noise."""
    noise = {tensor.name: float(tensor.noise.sum()) for tensor in tensors if not tensor.is_weight}
    for name, own in ranges.items():
        reach, root = max(-own.low, own.high), placement.scaled[name]
        if reach > 0:
            step = np.array([reach / placement.anatomy.target.activations.grid.high])
            yield Steps.measured(step, noise.get(root, 0.0) / len(placement.sources[root]), groups.root(name))


def weight_steps(placement: Placement, groups: Groups, tensors: Sequence[Tensor]) -> Iterator[Steps]:
    """The best steps of each layer's weight that can be scaled, if they have to be powers of two."""
    target, model = placement.anatomy.target, placement.anatomy.model
    noise = {tensor.name: float(tensor.noise.sum()) for tensor in tensors if tensor.is_weight}
    for unit in groups.layers.values() if target.weights.power_of_two else ():
        weight = unit.weights[0]
        sharing = Sharing(weight.axis if target.weights.per_channel else None)
        largest = np.atleast_1d(magnitudes(model.weights[weight.stored.name], sharing))
        if largest.any():
            before, behind = groups.ends(unit)
            steps = largest[largest > 0] / target.weights.grid.high
            yield Steps.measured(steps, noise.get(weight.stored.name, 0.0), behind, before)


def coarseness(steps: Floats) -> Floats:
    """The noise of the next power of two over that of the step itself, from 1 to 4."""
    exponents = np.log2(steps)
    found: Floats = 4.0 ** (np.ceil(exponents) - exponents)
    return found


def apply(groups: Groups, factors: Mapping[str, float]) -> None:
    """Step 3 of the head of this file."""
    anatomy = groups.anatomy
    model, additions = anatomy.model, Additions(anatomy.model)
    for unit in groups.layers.values():
        before, behind = (factors.get(group, 1.0) for group in groups.ends(unit))
        bias = anatomy.bias_name(unit)
        scale(model, unit.weights[0].stored.name, behind / before)
        if bias is not None:
            scale(model, bias, behind)
    for index in range(len(anatomy.nodes)):
        read = anatomy.activation_inputs(index)
        scale_bounds(groups, index, factors.get(groups.root(read[0]), 1.0) if read else 1.0, additions)
    additions.write()


def scale_bounds(groups: Groups, index: int, factor: float, additions: Additions) -> None:
    """Multiply the numbers to which a node limits its input by a factor; other nodes that read them see what they saw."""
    anatomy = groups.anatomy
    node, spec = anatomy.nodes[index], anatomy.specs[index]
    if factor == 1 or spec is None:
        return
    for at, attribute in spec.quant.bounds:
        if at < len(node.input) and node.input[at]:
            name = anatomy.resolver.constant(anatomy.graph, node.input[at])
            assert name is not None  # `Groups.has_bounds` says so
            node.input[at] = additions.constant(f"{node.input[at]}_scaled", scaled(anatomy.model, name, factor))
        for held in node.attribute:
            held.f *= factor if held.name == attribute else 1.0


def scale(model: Model, name: str, factor: float) -> None:
    """Multiply a stored tensor by a number."""
    if factor != 1:
        model.weights[name] = scaled(model, name, factor)


def scaled(model: Model, name: str, factor: float) -> Floats:
    """A stored tensor times a number, in its own type."""
    held = model.weights[name]
    found: Floats = (held.astype(np.float64) * factor).astype(held.dtype)
    return found
