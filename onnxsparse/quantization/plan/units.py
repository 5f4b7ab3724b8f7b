"""Units of quantization: a node that the target computes in integers, with the nodes fused into it.

1. A unit starts at a layer, an activation function, arithmetic, or a Concat that is among the target's `integer_ops` and has no
   `obstacle` (unknown type, computed weight, division by activations, …).
2. It absorbs the following nodes that the target fuses (`absorbs`), as long as they read only values of the unit and constants
   (`_absorbed`). Of all prefixes with a single result, it takes the longest; that result is its `exit`.
3. No quantizer is placed inside of a unit: only its inputs, weights, bias and exit have scales.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from onnxsparse.analysis.context import GraphContext
from onnxsparse.analysis.stored_weights import StoredWeight
from onnxsparse.ir.model import Model
from onnxsparse.ir.protos import STANDARD_DOMAINS
from onnxsparse.ops import OpSpec, OpView, Quant, UnknownFact
from onnxsparse.quantization.plan.target import Target

LONGEST_UNIT = 12
"""Most nodes that a unit absorbs or tries to absorb, which bounds the search."""

MASKED = 1e4
"""Magnitude from which an added constant stands for infinity: exporters write masks as -1e4, -1e9 or the lowest float."""

DEFAULTS = "its weights are inputs, which callers may override; fold --constant-defaults makes them constants"
"""Why a node that reads initializers with a default stays float."""

ELEMENTWISE = (Quant.ACTIVATION, Quant.ARITHMETIC)


@dataclass(frozen=True)
class UnitWeight:
    """A stored weight that a unit multiplies by.

    `at`: the input of the unit's first node. `axis`: output channels in the stored tensor; None if unknown, or for one output.
    """

    at: int
    stored: StoredWeight
    axis: int | None


@dataclass(frozen=True)
class Unit:
    """A node with the nodes fused into it. Nodes are indices in the main graph, inputs are positions of the first node."""

    root: int
    """The first node."""
    nodes: tuple[int, ...]
    """All nodes, the first one included."""
    exit: str
    """The only value that nodes outside of the unit read."""
    activations: tuple[int, ...]
    """Inputs that are activations."""
    weights: tuple[UnitWeight, ...] = ()
    constants: tuple[int, ...] = ()
    """Inputs of arithmetic that are constants."""
    bias_at: int | None = None
    """The input that is a stored bias; None without one."""
    computes: bool = False
    """Whether the unit is a layer, that is, multiplies and accumulates."""


class Anatomy:
    """A model's main graph, divided into units for a target.

    `constant`: values that follow from constants. `already`: values that are quantized already → the dequantized value.
    """

    def __init__(self, context: GraphContext, target: Target) -> None:
        self.context = context
        self.target = target
        self.model, self.graph = context.model, context.graph
        self.nodes, self.specs, self.types, self.resolver = context.nodes, context.specs, context.types, context.resolver
        self.outputs, self.captured = context.outputs, context.captured
        self.constant = context.follow_constants(bodies=True)
        self.already = self._quantized_values()

    def quant(self, index: int) -> Quant:
        """The role of a node in quantization; FLOAT for an unknown op."""
        spec = self.specs[index]
        return Quant.FLOAT if spec is None else spec.quant.role

    def is_float(self, name: str) -> bool:
        """Whether a value is known to be float32."""
        return self.types.get(name) == onnx.TensorProto.FLOAT

    def activation_inputs(self, index: int) -> list[str]:
        """The float32 values that a node reads and that depend on the model's inputs."""
        return [i for i in self.nodes[index].input if i and i not in self.constant and self.is_float(i)]

    def readers(self, name: str) -> list[int]:
        """The nodes that read a value, as indices; bodies are not included."""
        return self.context.readers(name)

    def _quantized_values(self) -> dict[str, str]:
        """Value with an existing quantizer → the result of its DequantizeLinear; that result → itself."""
        found: dict[str, str] = {}
        for index, node in enumerate(self.nodes):
            spec = self.specs[index]
            if spec is None or not spec.dequantizes or node.input[0] in self.constant:
                continue
            before = self.graph.producers.get(node.input[0])
            maker = None if before is None else self.specs[before]
            if before is not None and maker is not None and maker.quantizes:
                found[self.nodes[before].input[0]] = node.output[0]
                found[node.output[0]] = node.output[0]
        return found

    def units(self, kept: set[int]) -> Iterator[Unit]:
        """All units, in graph order, without the nodes in `kept`; no node is part of two units."""
        owned: set[int] = set(kept)
        for index, node in enumerate(self.nodes):
            quant = self.quant(index)
            if index in owned or not self.is_integer(node) or quant not in (*ELEMENTWISE, Quant.COMPUTE, Quant.JOIN):
                continue
            unit = self._unit(index, owned)
            if unit is not None:
                owned.update(unit.nodes)
                yield unit

    def is_integer(self, node: onnx.NodeProto) -> bool:
        """Whether the target computes this op in integers."""
        return node.domain in STANDARD_DOMAINS and node.op_type in self.target.integer_ops

    def _unit(self, index: int, owned: set[int]) -> Unit | None:
        """The unit that starts at a node; None if the node has an `obstacle`."""
        if self.obstacle(index) is not None:
            return None
        node, quant = self.nodes[index], self.quant(index)
        inputs = [(at, name) for at, name in enumerate(node.input) if name]
        activations = self.activations(index)
        nodes, leaving = self._absorbed(index, owned)
        if quant is not Quant.COMPUTE:
            read = tuple(at for at in activations if self.is_float(node.input[at]))
            divisor = self._divisor(index)
            constants = tuple(
                at for at, name in inputs if name in self.constant and quant is not Quant.ACTIVATION and at != divisor
            )
            return Unit(index, nodes, leaving, read, constants=constants)
        weights = tuple(self._weights(index))
        return Unit(index, nodes, leaving, activations, weights, bias_at=self._bias(index, weights), computes=True)

    def obstacle(self, index: int) -> str | None:
        """Why a node of a kind that the target has as integers stays float all the same; None if it need not."""
        node, activations = self.nodes[index], self.activations(index)
        results = [name for name in node.output if name]
        if self.reads_defaults(index):
            return DEFAULTS
        if not activations:
            return "it computes on constants alone"
        if len(results) != 1:
            return f"it has {len(results)} outputs"
        for name in (results[0], node.input[activations[0]]):
            if self.types.get(name) is None:
                return f"the type of '{name}' is unknown"
            if not self.is_float(name):
                return f"the type of '{name}' is not float32"
        if self._divisor(index) in activations:
            return "it divides by computed values, and small ones would become zero in integers"
        return self._odd_operand(index) if self.quant(index) is Quant.COMPUTE else None

    def _odd_operand(self, index: int) -> str | None:
        """What is wrong with an operand that is neither an activation nor a stored weight."""
        node = self.nodes[index]
        taken = {*self.activations(index), *(w.at for w in self._weights(index))}
        for at, name in enumerate(node.input[:2]):
            if name and at not in taken and self.resolver.resolve(self.graph, name) is None:
                return "its weight is computed in the graph, not stored"
            if name and at not in taken:
                return f"its operand '{name}' is a constant, which the op does not take as a weight"
        return None

    def activations(self, index: int) -> tuple[int, ...]:
        """The inputs that follow from the model's."""
        return tuple(at for at, name in enumerate(self.nodes[index].input) if name and name not in self.constant)

    def reads_defaults(self, index: int) -> bool:
        """Whether a node reads an initializer that callers may override, and which integers therefore must not replace."""
        return not self.graph.overridable.isdisjoint(self.nodes[index].input)

    def _divisor(self, index: int) -> int | None:
        spec = self.specs[index]
        return None if spec is None else spec.quant.divisor_at

    def _weights(self, index: int) -> Iterator[UnitWeight]:
        spec, node = self.specs[index], self.nodes[index]
        assert spec is not None
        for slot in spec.weights:
            if slot.at >= len(node.input) or node.input[slot.at] not in self.constant:
                continue
            stored = self.resolver.resolve(self.graph, node.input[slot.at])
            if stored is not None:
                yield UnitWeight(slot.at, stored, self._output_axis(index, slot.at, spec, stored))

    def _output_axis(self, index: int, at: int, spec: OpSpec, stored: StoredWeight) -> int | None:
        if stored.axes is None:
            return None
        op = self._weight_view(index, at, stored.axes, stored.name)
        slot = next(s for s in spec.weights if s.at == at)
        try:
            axes = slot.axes(op)
        except UnknownFact:
            return None
        one_axis = axes.output == axes.input  # a vector, which produces a single output
        return None if one_axis else stored.axes[axes.output]

    def _weight_view(self, index: int, at: int, axes: tuple[int, ...], stored: str) -> OpView:
        """A view of a node in which only the shape of the weight at input `at` is known."""
        shape = self.model.weights.shape(stored)
        seen = tuple(shape[axis] for axis in axes)
        node = self.nodes[index]
        return OpView(node, tuple(seen if i == at else None for i in range(len(node.input))), (None,))

    def outputs_of(self, weight: UnitWeight) -> int:
        """Number of output channels of a weight."""
        return 1 if weight.axis is None else self.model.weights.shape(weight.stored.name)[weight.axis]

    def bias_name(self, unit: Unit) -> str | None:
        """The name of a unit's stored bias in the weights; None without one."""
        return None if unit.bias_at is None else self.resolver.constant(self.graph, self.nodes[unit.root].input[unit.bias_at])

    def passes_factors(self, index: int) -> bool:
        """Whether positive factors on the channels of a node's activations appear on its result: f(x / s) = f(x) / s.

        If it reads several activations, all have the factor of the result.
        """
        read, spec, node = self.activation_inputs(index), self.specs[index], self.nodes[index]
        if spec is None or spec.body is not None or self.reads_defaults(index):
            return False
        rules = spec.quant
        if rules.common_factor:
            return all(name in read for name in node.input if name)
        return self.reads_one(index) and (rules.homogeneous or rules.role is Quant.FOLLOW)

    def reads_one(self, index: int) -> bool:
        """Whether a node computes on its first input alone, adding no elements of another number than 0 around it."""
        read, spec, node = self.activation_inputs(index), self.specs[index], self.nodes[index]
        if spec is None or len(read) != 1 or node.input[0] != read[0]:
            return False
        rules = spec.quant
        fills = rules.fill_at is not None and rules.fill_at < len(node.input) and bool(node.input[rules.fill_at])
        return not fills and not any(held.name == rules.fill_attribute and held.f != 0 for held in node.attribute)

    def input_axis(self, unit: Unit) -> int | None:
        """The axis of the input channels in a unit's stored weight; None if it is unknown, or differs between groups.

        In a depthwise convolution, input and output channels share one axis.
        """
        weight, spec = unit.weights[0], self.specs[unit.root]
        if spec is None or weight.stored.axes is None:
            return None
        op = self._weight_view(unit.root, weight.at, weight.stored.axes, weight.stored.name)
        slot = next(s for s in spec.weights if s.at == weight.at)
        try:
            if spec.depthwise is not None and spec.depthwise(op):
                return weight.axis
            return weight.stored.axes[slot.axes(op).input] if spec.group_count(op) == 1 else None
        except UnknownFact:
            return None

    def _bias(self, index: int, weights: tuple[UnitWeight, ...]) -> int | None:
        """The input that is a bias: a stored vector, added unscaled, with one number per output of the weight; None without."""
        spec, node = self.specs[index], self.nodes[index]
        if spec is None or spec.fold.absorb is None or not spec.fold.absorb.when(OpView(node, (), ())):
            return None
        at = spec.fold.absorb.bias_at
        if at >= len(node.input) or any(w.at != spec.fold.absorb.weight_at for w in weights):
            return None
        name = self.resolver.constant(self.graph, node.input[at])
        shape = () if name is None else self.model.weights.shape(name)
        # outputs of groups share the weight's scales
        return at if len(shape) == 1 and all(shape[0] % self.outputs_of(w) == 0 for w in weights) else None

    def _absorbed(self, root: int, owned: set[int]) -> tuple[tuple[int, ...], str]:
        """The nodes of the unit that starts at `root`, and its exit; nodes in `owned` are part of other units."""
        inside, made = [root], {self.nodes[root].output[0]}
        best: tuple[tuple[int, ...], str] = ((root,), self.nodes[root].output[0])
        for _ in range(LONGEST_UNIT):
            following = self._next(inside, made, owned)
            if following is None:
                break
            inside.append(following)
            made.update(self.nodes[following].output)
            leaving = [name for name in sorted(made) if self._leaves(name, inside)]
            if len(leaving) == 1:
                best = (tuple(inside), leaving[0])
        return best

    def _next(self, inside: list[int], made: set[str], owned: set[int]) -> int | None:
        """The next node to absorb: it reads only values made inside and constants; None if there is none."""
        around = sorted({user for name in made for user in self.readers(name)} - set(inside) - owned)
        for index in around:
            node = self.nodes[index]
            fits = self.quant(index) in ELEMENTWISE and node.op_type in self.target.absorbs and node.domain in STANDARD_DOMAINS
            if fits and set(self.activation_inputs(index)) <= made and len(node.output) == 1 and not self._masks(index):
                return index
        return None

    def _masks(self, index: int) -> bool:
        """Whether a node adds a mask before a Softmax; no scale holds both the mask's infinities and other values."""
        if self.quant(index) is not Quant.ARITHMETIC:
            return False
        names = (self.resolver.constant(self.graph, name) for name in self.nodes[index].input if name in self.constant)
        return any(name is not None and not (np.abs(self.model.weights[name]) < MASKED).all() for name in names)

    def _leaves(self, name: str, inside: list[int]) -> bool:
        return name in self.outputs or name in self.captured or any(user not in inside for user in self.readers(name))


def is_float_weight(model: Model, stored: StoredWeight) -> bool:
    """Whether a weight is stored as float32 and not quantized, neither in storage nor by nodes that read it."""
    quantized = stored.scale is not None or stored.quantized_later
    return not quantized and model.weights.proto(stored.name).data_type == onnx.TensorProto.FLOAT


def is_finite(model: Model, name: str) -> bool:
    """Whether all elements of a stored tensor are finite."""
    return bool(np.isfinite(model.weights[name]).all())
