"""The masked reference of a cut: the original model, with removed channels left out where they are consumed.

For every node, in order:

1. If it sums over a cut axis, removed indices become zero (the zero point, in integers) in its constant weights; in its
   activations if it has none.
2. If it reduces over a cut axis in another way (mean, normalisation), its op's `masked` rule writes it over the kept channels.
3. Any other node stays as it is.

No tensor becomes smaller and no shape changes. The reference shares labels with the cutter, but no code.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxsparse.channels.groups import Removed, Solution
from onnxsparse.channels.known_values import Values
from onnxsparse.channels.labelled_graph import all_places
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.model import Model
from onnxsparse.ir.new_tensors import Additions
from onnxsparse.ir.protos import replace_all
from onnxsparse.ir.weights import Array
from onnxsparse.ops import WeightSlot
from onnxsparse.ops.masking import Masking
from onnxsparse.ops.spelling import has_axes_as_attribute


def masked_reference(model: Model, solution: Solution, removed: Removed) -> Model:
    """A copy of `model`, the model on which `solution` was found, that computes as if the channels in `removed` were absent."""
    return Reference(model.copy("the reference with masked channels"), solution, removed).build()


@dataclass
class Reference:
    """The state while a reference is built."""

    model: Model
    """The copy that becomes the reference."""
    solution: Solution
    """Labels and classes."""
    removed: Removed
    """Label → whether its class is cut."""
    ordered: list[onnx.NodeProto] = field(default_factory=list)
    """Nodes of the graph that is being written, in order."""
    count: int = 0
    """Number of new names."""

    def __post_init__(self) -> None:
        self.values = Values(self.solution.found)
        self.additions = Additions(self.model)

    def build(self) -> Model:
        """Write the reference; returns `model`."""
        places = list(all_places(Graph(self.model.proto.graph)))
        ordered: dict[int, list[onnx.NodeProto]] = {}
        for index, place in enumerate(places):
            self.ordered = ordered.setdefault(id(place.graph), [])
            self._sum(index, place.node)
            if not self._look_over(index, place.node):
                self.ordered.append(place.node)
        # inner graphs first, because copying a node copies its bodies
        for inner in {id(place.graph): place.graph for place in places}.values():
            replace_all(inner.proto.node, ordered[id(inner)])
        self.additions.write()
        return self.model

    def _gone(self, index: int, at: int, axis: int) -> Any:
        axes = self.solution.axes_at(index, at)
        labels = None if axes is None or axis >= len(axes) else axes[axis]
        return None if labels is None or not self.removed[labels].any() else self.removed[labels]

    def _sum(self, index: int, node: onnx.NodeProto) -> None:
        """Step 1: zeros in the weights of a sum, or in the activations if it has none."""
        pairs = [
            (at, axis) for at, axis in self.solution.found.contracted.get(index, []) if self._gone(index, at, axis) is not None
        ]
        weights = [at for at, _ in pairs if self.solution.found.tensor(index, at) is not None]
        for at in dict.fromkeys(weights or [at for at, _ in pairs]):
            axes = [axis for other, axis in pairs if other == at]
            node.input[at] = self._zeroed_weight(index, at, axes) if weights else self._zeroed_value(index, at, axes)

    def _zeroed_weight(self, index: int, at: int, axes: list[int]) -> str:
        node = self.solution.found.places[index].node
        tensor = self.solution.found.tensor(index, at)
        assert tensor is not None
        array = np.array(self.model.weights[tensor])
        zero = self._zero_point(index, at, array)
        for axis in axes:
            place = [slice(None)] * array.ndim
            place[axis] = self._gone(index, at, axis)
            array[tuple(place)] = np.broadcast_to(zero, array.shape)[tuple(place)]
        return self._constant(f"{node.output[0]}_masked{at}", array)

    def _zero_point(self, index: int, at: int, array: Array) -> Array:
        """What represents zero in a weight: 0, or the integers of its zero point, shaped to broadcast against the weight."""
        slot = self._quantized_slot(index, at)
        if slot is None or slot.zero_point is None:
            return np.zeros((), array.dtype)
        point = self.values.at(index, slot.zero_point)
        assert point is not None, "a weight's zero point is not constant"
        axes = slot.axes(self.solution.found.view(index))
        if point.size == 1:
            return point.reshape(())
        if point.ndim > 1:  # per direction and output
            return np.expand_dims(point, axes.input)
        shape = [1] * array.ndim
        shape[axes.output if array.shape[axes.output] == point.size else 0] = point.size  # else one per direction
        return point.reshape(shape)

    def _quantized_slot(self, index: int, at: int) -> WeightSlot | None:
        """The slot of an input that has a zero point. None for any other input."""
        spec, op = self.solution.found.spec(index), self.solution.found.view(index)
        slots = () if spec is None else spec.weights
        return next((s for s in slots if s.at == at and s.zero_point is not None and op.has_input(s.zero_point)), None)

    def _zeroed_value(self, index: int, at: int, axes: list[int]) -> str:
        node = self.solution.found.places[index].node
        mask = np.ones(1, np.bool_)
        rank = len(self.solution.axes_at(index, at) or ())
        for axis in axes:
            gone = self._gone(index, at, axis)
            shape = [1] * rank
            shape[axis] = gone.size
            mask = mask & ~gone.reshape(shape)
        slot = self._quantized_slot(index, at)
        if slot is not None and slot.zero_point is not None:
            return self._zeroed_bytes(node.input[at], mask, node.input[slot.zero_point], self.values.at(index, slot.zero_point))
        return self._add("Mul", [node.input[at], self._constant("mask", mask.astype(np.float32))])

    def _zeroed_bytes(self, value: str, mask: Array, point: str, known: Array | None) -> str:
        """Integers with removed elements at the zero point. They pass through int32, because onnxruntime's Where supports few
        types.

        A computed zero point is uint8, the only type that DynamicQuantizeLinear produces.
        """
        wide = [self._add("Cast", [name], to=TensorProto.INT32) for name in (value, point)]
        chosen = self._add("Where", [self._constant("mask", mask), *wide])
        narrow = np.dtype(np.uint8) if known is None else known.dtype
        return self._add("Cast", [chosen], to=helper.np_dtype_to_tensor_dtype(narrow))

    def _look_over(self, index: int, node: onnx.NodeProto) -> bool:
        """Step 2; returns whether the node was replaced."""
        spec = self.solution.found.spec(index)
        rank = len(self.solution.axes_at(index, 0) or ()) if node.input else 0
        if spec is None or spec.channels.masked is None or all(self._gone(index, 0, axis) is None for axis in range(rank)):
            return False
        finished: dict[int, str] = {}

        def again(first: str) -> str:
            """Add a copy of the node with another first input; returns its output's name."""
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[0] = first
            copy.output[0] = self._name()
            copy.name = copy.output[0]
            self.ordered.append(copy)
            return copy.output[0]

        spec.channels.masked(
            Masking(
                self.solution.found.view(index),
                keep=lambda at, axis: None if (gone := self._gone(index, at, axis)) is None else ~gone,
                value=lambda at: self.values.at(index, at),
                add=self._add,
                constant=lambda value: self._constant("masking", value),
                again=again,
                finish=lambda value, at=0: finished.update({at: value}),
            )
        )
        for at, value in finished.items():
            if at < len(node.output) and node.output[at]:
                self.ordered.append(helper.make_node("Identity", [value], [node.output[at]], name=self._name()))
        return bool(finished)

    def _add(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        if has_axes_as_attribute(op_type, self.model.opset()):
            axes = np.asarray(self.additions.made[inputs[1]]).tolist()
            inputs, attributes = inputs[:1], {**attributes, "axes": axes}
        name = self._name()
        self.ordered.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def _name(self) -> str:
        self.count += 1
        return f"onnxsparse_reference_{self.count}"

    def _constant(self, wanted: str, value: Array) -> str:
        return self.additions.constant(f"onnxsparse_{wanted}_{len(self.additions.made)}", np.asarray(value, order="C"))
