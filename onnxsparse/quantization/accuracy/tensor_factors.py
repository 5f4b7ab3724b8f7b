"""Factors that make the ranges of activations fit scales that are powers of two.

A scale of 2^−e that holds a range is up to twice as coarse as the range needs. A factor f on an activation moves its range, and
changes nothing else if it is taken from what makes the activation and given back to what reads it:

    W2 · relu(W1 x + b1)  =  (W2 / f) · relu(f W1 x + f b1)

1. Divide the values of the graph into groups through which a common factor passes: ReLU, MaxPool, Reshape, additions of two
   activations, Clip with scaled bounds. Layers have groups of their own before and behind them. Groups with a value that anything
   else touches, and inputs and outputs of the model, have the factor 1 (`Groups`).
2. Choose the factor of each group, from 1/√2 to √2, for which the steps of its activations and of the weights around it are least
   coarse, in a few rounds, since a weight is between two groups (`chosen`).
3. Scale weights, biases and bounds (`apply`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxsparse.calibration.methods import Range
from onnxsparse.ir.model import Model
from onnxsparse.ir.new_tensors import Additions
from onnxsparse.quantization.accuracy.channel_factors import is_plain
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


def fitted(placement: Placement, ranges: Mapping[str, Range]) -> tuple[Placement, dict[str, float]]:
    """The placement of a model with scaled activations, and activation → its factor. `ranges`: activation → its best range.

    Changes the placement's model, whose outputs stay the same up to the rounding of floats.
    """
    groups = Groups.of(placement)
    factors = chosen(placement, groups, ranges)
    if not factors:
        return placement, {}
    apply(groups, factors)
    found = place(placement.anatomy.model, placement.anatomy.target, placement.kept)
    return found, {name: factors.get(groups.root(name), 1.0) for name in ranges}


def chosen(placement: Placement, groups: Groups, ranges: Mapping[str, Range]) -> dict[str, float]:
    """Group → its factor; those with the factor 1 are left out."""
    target, fixed = placement.anatomy.target, {groups.root(name) for name in groups.fixed}
    steps: dict[str, list[float]] = {}
    for name, own in ranges.items():
        reach = max(-own.low, own.high)
        if groups.root(name) not in fixed and reach > 0:
            steps.setdefault(groups.root(name), []).append(reach / target.activations.grid.high)
    weights = list(weight_steps(placement, groups)) if target.weights.power_of_two else []
    found = dict.fromkeys(steps, 1.0)
    for _ in range(ROUNDS):
        for group, own_steps in steps.items():
            costs = coarseness(np.multiply.outer(TRIED, own_steps)).sum(1) + weight_costs(group, found, weights)
            found[group] = float(TRIED[np.argmin(costs)])
    return {group: factor for group, factor in found.items() if factor != 1}


def weight_costs(group: str, factors: Mapping[str, float], weights: Sequence[tuple[str, str, Floats]]) -> Floats:
    """The coarseness of the weights before and behind a group, for each of TRIED as its factor. `factors`: of the others."""
    found = np.zeros(TRIED.size)
    for before, behind, steps in weights:
        if before == behind or group not in (before, behind):
            continue
        ratios = TRIED / factors.get(before, 1.0) if group == behind else factors.get(behind, 1.0) / TRIED
        found += coarseness(np.multiply.outer(ratios, steps)).mean(1)
    return found


def weight_steps(placement: Placement, groups: Groups) -> Iterator[tuple[str, str, Floats]]:
    """(group before, group behind, best steps) of each layer whose weight can be scaled."""
    target, model = placement.anatomy.target, placement.anatomy.model
    for unit in groups.layers.values():
        weight = unit.weights[0]
        largest = np.atleast_1d(
            magnitudes(model.weights[weight.stored.name], Sharing(weight.axis if target.weights.per_channel else None))
        )
        if largest.any():
            yield *groups.ends(unit), largest[largest > 0] / target.weights.grid.high


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
