"""Removal of scales: turns a quantized model back into a float one, so that other scales can be chosen.

1. Replace ops on integers (QLinearConv, …) by float ops between DequantizeLinear and QuantizeLinear (`analysis.unfolding`).
2. For every QuantizeLinear, collect the region of its integers: the nodes that move them (Reshape, MaxPool, …) and the
   DequantizeLinear nodes at its end (`_region`). If all have the same scale and nothing else reads the integers, let the region
   move the float values instead (`_strip_pair`). A weight that is quantized in the graph (QAT) keeps its stored floats.
3. For every remaining DequantizeLinear of stored integers, store the floats that they stand for (`_strip_stored`).
4. Integers clip, and onnxruntime's quantizer removes a Relu or Clip that the integers imply. If the integers of a value that can
   be negative start at zero, insert a Relu; if they also end at six, a Clip. Any other end is taken for a calibrated range
   (`_clipped`).
5. Scales that cannot be removed stay, each with the reason. Bodies and functions are not changed (`_elsewhere`).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxsparse.analysis.context import GraphContext, main_context
from onnxsparse.analysis.stored_weights import real_values
from onnxsparse.analysis.unfolding import unfold
from onnxsparse.analysis.value_signs import Signs
from onnxsparse.ir.model import Model
from onnxsparse.ir.node_removal import Removal
from onnxsparse.ir.weights import bodies
from onnxsparse.ops import OpView, Quant, find
from onnxsparse.ops.spelling import clip_from_zero
from onnxsparse.quantization.strip.read_scale import Scale, Stays, read_scale
from onnxsparse.records import Skip

RELU6_END = 6.0
"""The only upper bound of a Clip that is common in networks (ReLU6); calibrated ranges rarely end exactly there."""

NEWEST = 1 << 30
"""Opset of functions, which import their own: an op is a quantizer in all versions."""


@dataclass(frozen=True)
class Stripped:
    """`quantizers`: number of activations and stored tensors without a scale now. `skipped`: nodes that keep theirs, and why."""

    quantizers: int = 0
    skipped: tuple[Skip, ...] = ()


def strip_scales(model: Model) -> Stripped:
    """Remove the scales from a model's main graph, in place; bodies and functions stay as they are."""
    unfolded = unfold(model)
    stripper = Stripper(main_context(model))  # the graph has changed
    stripper.removal.wanted = unfolded.floats
    count = stripper.run()
    return Stripped(count, (*unfolded.skipped, *stripper.skipped))


@dataclass
class Region:
    """The readers of integers of one scale: the nodes that move them, and those that dequantize them, as indices."""

    movers: list[int] = field(default_factory=list)
    dequantizers: list[int] = field(default_factory=list)


class Stripper:
    """Decides what to remove, on the unchanged graph; `removal` writes all changes at the end."""

    def __init__(self, context: GraphContext) -> None:
        self.model, self.graph = context.model, context.graph
        self.nodes, self.specs, self.types, self.resolver = context.nodes, context.specs, context.types, context.resolver
        self.removal = Removal(context.model, outer=context.outputs | context.captured)
        self.signs = Signs(context)
        self.skipped: list[Skip] = []

    def run(self) -> int:
        """Steps 2 to 5 of the head of this file; returns the number of scales removed."""
        count = 0
        for index, spec in enumerate(self.specs):
            if spec is not None and spec.quantizes:
                count += self._try(self._strip_pair, index)
        for index, spec in enumerate(self.specs):
            if spec is not None and spec.dequantizes and index not in self.removal.removed:
                count += self._try(self._strip_stored, index)
        self.skipped += self._elsewhere()
        if count:
            self.removal.write()
        return count

    def _try(self, strip: Callable[[int], bool], index: int) -> bool:
        try:
            return strip(index)
        except Stays as reason:
            self.skipped.append(Skip(self.graph.names[index], f"keeps its scale: {reason}"))
            return False

    def _strip_pair(self, index: int) -> bool:
        """Remove a QuantizeLinear with its region; True if that succeeded. Raises Stays if it has to stay."""
        node = self.nodes[index]
        source, integers = node.input[0], node.output[0]
        scale = self._scale(index, integers)
        region = self._region(integers, scale)
        if not region.dequantizers:
            raise Stays("no DequantizeLinear reads its integers")
        made = {self.types.get(self.nodes[at].output[0]) for at in region.dequantizers}
        kind = made.pop()
        if kind is None or made or self.types.get(source, kind) != kind:
            raise Stays("it quantizes another float type than its DequantizeLinear returns")
        self.removal.remove(index, self._clipped(index, scale, kind))
        self._free(region, scale, kind)
        if scale.starts_at_zero:
            self.signs.nonnegative.add(integers)
        return True

    def _strip_stored(self, index: int) -> bool:
        """Replace stored integers by floats, in place if they have no other use; False if `_strip_pair` handled them.

        Raises Stays if they have to stay.
        """
        node = self.nodes[index]
        name = self._stored_source(node.input[0])
        if name is None:
            return False
        stored = self.resolver.resolve(self.graph, node.output[0])
        kind = self.types.get(node.output[0])
        if stored is None or stored.scale is None or kind is None:
            raise Stays("it dequantizes integers that are computed")
        scale = self._scale(index, node.input[0])
        floats = partial(real_values, stored, self.model.weights)
        try:
            region = self._region(name, scale)
        except Stays:
            if name != node.input[0]:
                raise
            # other nodes read the integers: the floats become a new tensor under the name of the DequantizeLinear's result
            self.removal.remove(index, None)
            self.removal.additions.made[node.output[0]] = floats
            return True
        self.model.weights[stored.name] = floats()
        self.model.weights.release(stored.name)
        self.removal.retyped[name] = kind
        self._free(region, scale, kind)
        return True

    def _stored_source(self, name: str) -> str | None:
        """The constant upstream of `name`, through nodes that move it; None if a QuantizeLinear lies between.

        Raises Stays for integers that are computed.
        """
        while True:
            if self.resolver.constant(self.graph, name) is not None:
                return name
            index = self.graph.producers.get(name)
            spec = None if index is None else self.specs[index]
            if index is None or spec is None or not (spec.quantizes or spec.quant.role is Quant.FOLLOW):
                raise Stays("it dequantizes integers that are computed")
            if spec.quantizes:
                return None
            name = self.nodes[index].input[0]

    def _scale(self, index: int, integers: str) -> Scale:
        node, spec = self.nodes[index], self.specs[index]
        assert spec is not None and spec.quant.scaling is not None
        at = spec.quant.scaling.zero_point
        zero_point = node.input[at] if len(node.input) > at else ""
        kind = self.types.get(zero_point) or self.types.get(integers)
        if kind is None:
            raise Stays("the type of its integers is not known")
        return read_scale(self.resolver, self.graph, node, spec.quant.scaling, kind)

    def _region(self, integers: str, scale: Scale) -> Region:
        """The region of `integers`. Raises Stays if something else reads them, or reads them with another scale."""
        found, pending = Region(), [integers]
        while pending:
            value = pending.pop()
            if value in self.removal.outer:
                raise Stays("its integers leave the graph")
            for reader in self.graph.consumers.get(value, []):
                pending += self._add_reader(found, reader, value, scale)
        return found

    def _add_reader(self, region: Region, reader: int, value: str, scale: Scale) -> list[str]:
        """Add a reader of integers to their region; returns the integers that it moves on.

        Raises Stays if the node needs the values as integers.
        """
        spec, node, name = self.specs[reader], self.nodes[reader], self.graph.names[reader]
        if spec is None or node.input[0] != value or list(node.input).count(value) > 1:
            raise Stays(f"{name} reads its integers")
        if spec.dequantizes:
            if not self._scale(reader, value).equals(scale):
                raise Stays(f"{name} reads its integers with another scale")
            region.dequantizers.append(reader)
            return []
        if not self._moves(reader, scale):
            raise Stays(f"{name} reads its integers")
        region.movers.append(reader)
        return self._moved(reader, value)

    def _moves(self, index: int, scale: Scale) -> bool:
        """Whether a node moves integers of one scale such that it would move the floats in the same way."""
        spec, node = self.specs[index], self.nodes[index]
        if spec is None or spec.quant.role is not Quant.FOLLOW or not scale.is_single:
            return False
        kind = self.types.get(node.input[0])
        typed = [at for at, name in enumerate(node.input) if at and name and self.types.get(name) == kind]
        stored = [self.resolver.constant(self.graph, node.input[at]) is not None for at in typed]
        return set(typed) <= {spec.quant.fill_at} and all(stored)

    def _moved(self, index: int, value: str) -> list[str]:
        """The outputs that hold the moved integers, not indices or masks."""
        first, *others = self.nodes[index].output
        return [first, *(o for o in others if o and self.types.get(o) == self.types.get(value))]

    def _free(self, region: Region, scale: Scale, kind: int) -> None:
        """Let a region move floats of type `kind`, and remove its DequantizeLinear nodes."""
        for index in region.movers:
            self._fill(index, scale, kind)
            self.removal.retyped |= dict.fromkeys(self._moved(index, self.nodes[index].input[0]), kind)
        for index in region.dequantizers:
            self.removal.remove(index, self.nodes[index].input[0])

    def _fill(self, index: int, scale: Scale, kind: int) -> None:
        """Convert the integer with which a node fills (Pad) to the float of type `kind` that it stands for."""
        spec, node = self.specs[index], self.nodes[index]
        if spec is None or spec.quant.fill_at is None:
            return
        op = OpView(node, (), ())
        key = self.resolver.constant(self.graph, node.input[spec.quant.fill_at]) if op.has_input(spec.quant.fill_at) else None
        value = scale.real(0 if key is None else int(self.model.weights[key].reshape(-1)[0]))
        if key is not None or value:
            node.input.extend([""] * (spec.quant.fill_at + 1 - len(node.input)))
            self.removal.loose.add(node.input[spec.quant.fill_at])
            node.input[spec.quant.fill_at] = self._number(f"{node.output[0]}_fill", value, kind)

    def _number(self, wanted: str, value: float, kind: int) -> str:
        return self.removal.additions.constant(wanted, np.array(value, helper.tensor_dtype_to_np_dtype(kind)))

    def _clipped(self, index: int, scale: Scale, kind: int) -> str:
        """The value that a QuantizeLinear reads, after a Relu or Clip if its integers imply one."""
        source = self.nodes[index].input[0]
        constant = self.resolver.constant(self.graph, source) is not None
        if constant or not scale.starts_at_zero or not self.signs.may_be_negative(source):
            return source
        end = RELU6_END if math.isclose(scale.end, RELU6_END, rel_tol=1e-5) else None
        clip = clip_from_zero(end, self.model.opset())
        bounds = [self._number(f"{source}_{what}", value, kind) for what, value in clip.inputs.items()]
        return self._insert(index, clip.op_type, [source, *bounds], **clip.attributes)

    def _insert(self, index: int, op_type: str, inputs: list[str], **attributes: Any) -> str:
        """Insert a node in place of a removed one; returns the name of its output."""
        fresh = self.removal.additions.fresh
        name, result = fresh(f"{inputs[0]}_{op_type}"), fresh(f"{inputs[0]}_clipped")
        node = helper.make_node(op_type, inputs, [result], name=name, **attributes)
        self.removal.behind.setdefault(index, []).append(node)
        return result

    def _elsewhere(self) -> Iterator[Skip]:
        """A reason for every node with quantizers in its bodies, and every function with quantizers."""
        for index, name in enumerate(self.graph.names):
            if any(self._holds_quantizers(list(body.proto.node)) for body in self.graph.bodies(index).values()):
                yield Skip(name, "quantizers in its bodies keep their scales")
        for function in self.model.proto.functions:
            if self._holds_quantizers(list(function.node)):
                yield Skip(f"{function.domain}:{function.name}", "quantizers in functions keep their scales")

    def _holds_quantizers(self, nodes: list[onnx.NodeProto]) -> bool:
        specs = [find(node.domain, node.op_type, NEWEST) for node in nodes]
        inner = [body for node in nodes for attribute in node.attribute for body in bodies(attribute)]
        boundary = any(spec is not None and spec.quant.role is Quant.BOUNDARY for spec in specs)
        return boundary or any(self._holds_quantizers(list(body.node)) for body in inner)
