"""Integer ops written out in float ops, in two variants:

1. To remove scales (`unfold`): an op with scales becomes DequantizeLinear of its operands, the float op that it stands for, and
   QuantizeLinear of the result (`QuantRules.form`). Results differ by at most one step of the result's integers.
2. To run a model as written on every processor (`write_exactly`): an op that sums products of integers becomes float nodes that
   compute the same numbers (`QuantRules.exact`).

For each node of a graph, bodies first in the second variant:

1. Look up its rule in the op table. A node without one stays.
2. Bring scales and zero points into the form that DequantizeLinear takes: one number, or one for each index of an axis.
3. Replace the node by the nodes of its rule. Its output keeps its name.
4. If the rule does not apply (StaysInteger, UnknownFact), the node stays, and is reported with the reason.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxsparse.analysis.context import GraphContext, main_context
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.model import Model
from onnxsparse.ir.new_tensors import Additions
from onnxsparse.ir.protos import replace_all
from onnxsparse.ir.weights import Array
from onnxsparse.ops import FloatForm, Operand, OpSpec, OpView, UnknownFact
from onnxsparse.ops.exact import Exact
from onnxsparse.ops.spelling import PER_CHANNEL_OPSET
from onnxsparse.records import Skip


class StaysInteger(Exception):  # noqa: N818 - not an error: the op is left as it is
    """Why an integer op stays as it is; the text ends a sentence about the op."""


@dataclass(frozen=True)
class Unfolded:
    """What `unfold` did.

    `floats`: new float value → the integer value that it is quantized to. `skipped`: ops that stay, and why.
    """

    floats: dict[str, str]
    skipped: tuple[Skip, ...]


def unfold(model: Model) -> Unfolded:
    """Write out the ops with scales in the main graph, in place, so that the scales can be removed.

    The result may have scales per channel at an opset that does not allow them; it is not meant to be run before they are
    removed.
    """
    return Unfolder(main_context(model)).run()


def write_exactly(model: Model) -> tuple[Skip, ...]:
    """Write out, in place, every op whose integer kernel may give different results on different processors; in bodies too.

    Returns the nodes that multiply integers and cannot be written out, with the reason. Values of the model keep their names.
    """
    return Unfolder(main_context(model), exactly=True).run().skipped


class Unfolder:
    """Writes out the integer ops of one model; `exactly`: the second variant.

    `parameters`: scales and zero points that were already brought into the right form, so that several ops share them.
    """

    def __init__(self, context: GraphContext, *, exactly: bool = False) -> None:
        self.main = context
        self.model = context.model
        self.exactly = exactly
        self.graph = context.graph
        self.resolver = context.resolver
        self.additions = Additions(context.model)
        self.floats: dict[str, str] = {}
        self.skipped: list[Skip] = []
        self.parameters: dict[tuple[str, tuple[str, ...], str, bool], list[str]] = {}
        self.changed = False

    def run(self) -> Unfolded:
        """Change the model. Returns what was done."""
        self._rewrite(self.main)
        if self.exactly:
            for function in self.model.proto.functions:
                self.skipped += self._inside(function)
        if self.changed:
            self._drop_unused()
            self.additions.write()
        return Unfolded(self.floats, tuple(self.skipped))

    def _rewrite(self, context: GraphContext) -> None:
        """Write out the ops of a graph and, in the second variant, of its bodies."""
        if self.exactly:
            for body in (body for inner in context.bodies for body in inner.values()):
                self._rewrite(body)
        graph = self.graph = context.graph
        written: list[onnx.NodeProto] = []
        for node, spec, name in zip(context.nodes, context.specs, graph.names, strict=True):
            made = self._written(node, spec, name)
            self.changed = self.changed or made[-1] is not node
            written += made
        if self.changed:
            replace_all(graph.proto.node, written)

    def _written(self, node: onnx.NodeProto, spec: OpSpec | None, name: str) -> list[onnx.NodeProto]:
        """The node itself, or the nodes that replace it."""
        if spec is None:
            return [node]
        try:
            if self.exactly and (spec.quant.exact is not None or spec.quant.form is None):
                return self._exactly(node, spec)
            if spec.quant.form is not None:
                return self._unfold(node, spec.quant.form)
            if spec.quant.dynamic:
                why = "the scales of its activations follow from each input, and none was chosen that could go"
                self.skipped.append(Skip(name, f"keeps its integers: {why}"))
        except StaysInteger as reason:
            if not self.exactly or spec.computes_integers:
                self.skipped.append(Skip(name, f"{node.op_type}: {reason}" if self.exactly else f"keeps its scales: {reason}"))
        return [node]

    def _exactly(self, node: onnx.NodeProto, spec: OpSpec) -> list[onnx.NodeProto]:
        if spec.quant.exact is None:
            if spec.computes_integers:
                raise StaysInteger("it multiplies integers inside of one kernel")
            return [node]
        made: list[onnx.NodeProto] = []
        writing = Writing(self, node, made)
        shapes = tuple(self._shape(given) for given in node.input)
        try:
            spec.quant.exact(writing.of(OpView(node, shapes, ()), self.model.opset()))
        except UnknownFact as fact:
            raise StaysInteger(f"its float form is not known: {fact}") from None
        return made

    def _shape(self, name: str) -> tuple[int, ...] | None:
        key = self.resolver.constant(self.graph, name) if name else None
        return None if key is None else self.model.weights.shape(key)

    def _inside(self, function: onnx.FunctionProto) -> Iterable[Skip]:
        """A Skip for each op of a model-local function that would be written out in the main graph."""
        where = f"{function.domain}:{function.name}"
        for node, name in zip(function.node, Graph(onnx.GraphProto(node=function.node)).names, strict=True):
            spec = self.main.spec(node)
            if spec is not None and spec.computes_integers:
                yield Skip(f"{where}/{name}", f"{node.op_type}: it is inside of a function")

    def _drop_unused(self) -> None:
        """Drop the new constants that nothing uses: those of an op that stayed after all."""
        read = {name for context in main_context(self.model).with_bodies() for node in context.nodes for name in node.input}
        self.additions.made = {name: values for name, values in self.additions.made.items() if name in read}

    def _unfold(self, node: onnx.NodeProto, form: FloatForm) -> list[onnx.NodeProto]:
        op = OpView(node, (), ())
        if not form.when(op, self.model.opset()):
            raise StaysInteger(f"there is no {form.op_type} with its attributes")
        result = [] if form.result is None else self._result(op, *form.result)
        before: list[onnx.NodeProto] = []
        inputs = [self._read(op, operand, before) for operand in form.operands(op)]
        while inputs and not inputs[-1]:
            inputs.pop()
        own = onnx.NodeProto()
        own.CopyFrom(node)
        own.op_type, own.domain = form.op_type, form.domain
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
        """Names of the result's scale and zero point; empty if the result is a float."""
        return self._parameters(op, (scale,), zero_point, None) if op.has_input(scale) else []

    def _read(self, op: OpView, operand: Operand, before: list[onnx.NodeProto]) -> str:
        """The name of the float value that replaces an operand. Its DequantizeLinear is appended to `before`."""
        if not op.has_input(operand.at) or not operand.scales:
            return op.node.input[operand.at] if op.has_input(operand.at) else ""
        name = op.node.input[operand.at]
        stored = self.resolver.constant(self.graph, name) is not None
        parameters = self._parameters(op, operand.scales, operand.zero_point, operand.axis if stored else None)
        result = self.additions.fresh(f"{name}_dequantized")
        reading = helper.make_node(
            "DequantizeLinear", [name, *parameters], [result], name=self.additions.fresh(f"{name}_DequantizeLinear")
        )
        if operand.axis is not None and stored and self._scale(parameters[0]).ndim:
            if self.exactly and self.model.opset() < PER_CHANNEL_OPSET:
                raise StaysInteger(f"it has scales per channel, which opset {self.model.opset()} has no DequantizeLinear for")
            reading.attribute.append(helper.make_attribute("axis", operand.axis))
        before.append(reading)
        return result

    def _parameters(self, op: OpView, scales: tuple[int, ...], zero_point: int | None, axis: int | None) -> list[str]:
        """Names of scale and zero point in the form that DequantizeLinear takes: one number, or one for each index of `axis`."""
        names = tuple(op.node.input[at] for at in scales)
        point_name = op.node.input[zero_point] if zero_point is not None and op.has_input(zero_point) else ""
        if self.exactly and axis is None and len(names) == 1 and self.resolver.constant(self.graph, names[0]) is None:
            return [*names, *filter(None, [point_name])]  # a scale computed from the data is a single number
        key = (self.graph.scope, names, point_name, axis is None)
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


@dataclass
class Writing:
    """The interface between a rule of `ops/exact.py` and the Unfolder, for one op: `made` collects the nodes that replace it."""

    unfolder: Unfolder
    node: onnx.NodeProto
    made: list[onnx.NodeProto]

    def of(self, op: OpView, opset: int) -> Exact:
        """The op as its rule sees it."""
        return Exact(op, opset, self.stored, self.constant, self.add, self.add_several, self.finish)

    def stored(self, at: int) -> Array | None:
        """The value of input `at` if it is stored, else None."""
        name = self.node.input[at] if at < len(self.node.input) else ""
        key = self.unfolder.resolver.constant(self.unfolder.graph, name) if name else None
        return None if key is None else self.unfolder.model.weights[key]

    def constant(self, values: Array) -> str:
        """Add a constant, and return its name."""
        return self.unfolder.additions.constant(f"{self.node.output[0]}_zero_point", values)

    def add(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        return self.add_several(op_type, inputs, 1, **attributes)[0]

    def add_several(self, op_type: str, inputs: list[str], count: int, **attributes: Any) -> list[str]:
        """Add a node with `count` outputs, and return their names."""
        names = [self.unfolder.additions.fresh(f"{self.node.output[0]}_{op_type}") for _ in range(count)]
        self._append(op_type, inputs, names, **attributes)
        return names

    def finish(self, op_type: str, inputs: list[str], **attributes: Any) -> None:
        """Add the node that computes the op's own outputs."""
        self._append(op_type, inputs, list(self.node.output), **attributes)

    def _append(
        self,
        op_type: str,
        inputs: list[str],
        outputs: list[str],
        *,
        domain: str = "",
        attributes: Iterable[onnx.AttributeProto] = (),
        **own: Any,
    ) -> None:
        node = helper.make_node(op_type, inputs, outputs, domain=domain, name=self.unfolder.additions.fresh(outputs[0]), **own)
        node.attribute.extend(attributes)
        self.made.append(node)
