"""Ops on integers written out: DequantizeLinear of operands, the float op that they stand for, QuantizeLinear of its result.

What they compute stays the same up to one step of the result's integers; which op that is, `ops` knows (`OpSpec.form`).
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnxsparse.additions import Additions
from onnxsparse.constants import Resolver
from onnxsparse.graph import Graph
from onnxsparse.model import Model
from onnxsparse.ops import FloatForm, Operand, OpView, find
from onnxsparse.passbase import Skip
from onnxsparse.protos import replace_all
from onnxsparse.weights import Array


class StaysInteger(Exception):  # noqa: N818 - not an error: the op is left as it is
    """Why an op on integers is not written out."""


@dataclass(frozen=True)
class Unfolded:
    """`floats`: float result → the integers that were the op's. `skipped`: ops that stay."""

    floats: dict[str, str]
    skipped: tuple[Skip, ...]


def unfold(model: Model) -> Unfolded:
    """Write out what the main graph computes on integers; bodies and functions stay."""
    return Unfolder(model).run()


class Unfolder:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.graph = Graph(model.proto.graph)
        self.resolver = Resolver(model.weights, {})
        self.additions = Additions(model)
        self.floats: dict[str, str] = {}
        self.parameters: dict[tuple[tuple[str, ...], str, bool], list[str]] = {}

    def run(self) -> Unfolded:
        written: list[onnx.NodeProto] = []
        skipped = []
        for index, node in enumerate(self.graph.proto.node):
            spec = find(node.domain, node.op_type, self.model.opset(node.domain))
            made = [node]
            if spec is not None and spec.form is not None:
                try:
                    made = self._unfold(node, spec.form)
                except StaysInteger as reason:
                    skipped.append(Skip(self.graph.names[index], f"keeps its scales: {reason}"))
            elif spec is not None and spec.dynamic:
                why = "the scales of its activations follow from each input, and none was chosen that could go"
                skipped.append(Skip(self.graph.names[index], f"keeps its integers: {why}"))
            written += made
        read = {name for node in written for name in node.input}
        self.additions.made = {name: values for name, values in self.additions.made.items() if name in read}
        if len(written) > len(self.graph.proto.node):
            replace_all(self.graph.proto.node, written)
            self.additions.write()
        return Unfolded(self.floats, tuple(skipped))

    def _unfold(self, node: onnx.NodeProto, form: FloatForm) -> list[onnx.NodeProto]:
        op = OpView(node, (), ())
        if not form.when(op, self.model.opset()):
            raise StaysInteger(f"there is no {form.op_type} with its attributes")
        scale, zero_point = form.result
        result = self._result(op, scale, zero_point)
        before: list[onnx.NodeProto] = []
        inputs = [self._read(op, operand, before) for operand in form.operands(op)]
        while inputs and not inputs[-1]:
            inputs.pop()
        own = onnx.NodeProto()
        own.CopyFrom(node)
        own.op_type, own.domain = form.op_type, ""
        own.input[:] = inputs
        replace_all(own.attribute, [a for a in node.attribute if a.name not in form.without])
        if not result:
            return [*before, own]
        integers = node.output[0]
        own.output[0] = self.additions.fresh(f"{integers}_float")
        self.floats[own.output[0]] = integers
        name = self.additions.fresh(f"{integers}_QuantizeLinear")
        return [*before, own, helper.make_node("QuantizeLinear", [own.output[0], *result], [integers], name=name)]

    def _result(self, op: OpView, scale: int, zero_point: int) -> list[str]:
        """The scale and zero point of the result; none where it is a float."""
        return self._parameters(op, (scale,), zero_point, None) if op.has_input(scale) else []

    def _read(self, op: OpView, operand: Operand, before: list[onnx.NodeProto]) -> str:
        """What the float op reads in the place of an operand."""
        if not op.has_input(operand.at) or not operand.scales:
            return op.node.input[operand.at] if op.has_input(operand.at) else ""
        name = op.node.input[operand.at]
        stored = self.resolver.constant(self.graph, name) is not None
        parameters = self._parameters(op, operand.scales, operand.zero_point, operand.axis if stored else None)
        result = self.additions.fresh(f"{name}_dequantized")
        reading = helper.make_node(
            "DequantizeLinear", [name, *parameters], [result], name=self.additions.fresh(f"{name}_DequantizeLinear")
        )
        if operand.axis is not None and self._scale(parameters[0]).ndim:
            reading.attribute.append(helper.make_attribute("axis", operand.axis))
        before.append(reading)
        return result

    def _parameters(self, op: OpView, scales: tuple[int, ...], zero_point: int | None, axis: int | None) -> list[str]:
        """Scale and zero point as DequantizeLinear wants them: both one number, or both one for each index of `axis`."""
        names = tuple(op.node.input[at] for at in scales)
        point_name = op.node.input[zero_point] if zero_point is not None and op.has_input(zero_point) else ""
        key = (names, point_name, axis is None)
        if key not in self.parameters:
            self.parameters[key] = self._fitted(names, point_name, axis)
        return self.parameters[key]

    def _fitted(self, names: tuple[str, ...], point_name: str, axis: int | None) -> list[str]:
        values = [self._stored(name) for name in names]
        scale: Array = values[0]
        for other in values[1:]:
            scale = np.multiply(scale.reshape(-1), other.reshape(-1))
        scale = self._flat(scale, axis)
        fits = len(names) == 1 and scale.shape == values[0].shape
        found = [names[0] if fits else self.additions.constant(f"{names[-1]}_flat" if len(names) == 1 else "bias_scale", scale)]
        if point_name:
            point = self._stored(point_name)
            flat = np.broadcast_to(self._flat(point, axis), scale.shape)
            found.append(point_name if flat.shape == point.shape else self.additions.constant(f"{point_name}_flat", flat.copy()))
        return found

    def _flat(self, values: Array, axis: int | None) -> Array:
        if values.size == 1:
            return values.reshape(())
        if axis is None or values.ndim > 1:
            raise StaysInteger("an activation has several scales")
        return values

    def _scale(self, name: str) -> Array:
        made = self.additions.made.get(name)
        return made if isinstance(made, np.ndarray) else self._stored(name)

    def _stored(self, name: str) -> Array:
        key = self.resolver.constant(self.graph, name)
        if key is None:
            raise StaysInteger(f"its scale or zero point '{name}' is computed")
        return self.model.weights[key]
