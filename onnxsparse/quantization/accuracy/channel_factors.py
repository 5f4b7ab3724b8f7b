"""Which channels of which activations can have a common factor without changing an output of the model.

1. Every channel of the result of a layer has a label of its own. Layers take a factor on their outputs, and one on their inputs,
   into their weights, so that no label passes through them (`is_plain`).
2. ReLU, pooling, additions, Concat, Reshape and all other ops through which factors pass tie the labels of their inputs and
   results, as their channel rules say (`Coupling`). A product of two activations passes the factors of the larger one, and the
   smaller one has none.
3. Everything else freezes the labels that it reads: a frozen channel has the factor 1.
4. The result of a unit that ends in a function through which no factor passes (HardSwish, Clip, SiLU) starts anew if the target
   absorbs a multiplication by constants: its integers are of the result times these (`splits`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from onnxsparse.analysis.layers import Survey
from onnxsparse.calibration.channels import CHANNELS
from onnxsparse.ir.weights import Array
from onnxsparse.ops import UnknownFact
from onnxsparse.ops.coupling import Coupling
from onnxsparse.ops.labels import Axes, Classes, Labels, LabelSpace
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.plan.units import LONGEST_UNIT, Anatomy, Unit

FACTOR = "Mul"
"""The op that multiplies by constants."""


@dataclass(frozen=True)
class ChannelFactors:
    """Labels of channels, and the classes in which channels have a common factor.

    `layers`: root → unit, for units whose weights take factors. `labels`: value → labels of its channels. `splits`: values whose
    factors are those of a multiplication behind the node that makes them, given by its index.
    `ranks`: value → number of its axes.
    """

    layers: Mapping[int, Unit]
    labels: Mapping[str, Labels]
    splits: Mapping[str, int]
    ranks: Mapping[str, int]
    classes: Classes

    def of(self, name: str) -> Labels | None:
        """The class of each channel of a value; None if no channel may have a factor."""
        labels = self.labels.get(name)
        return None if labels is None or self.classes.is_frozen(labels).all() else self.classes.root[labels]


@dataclass
class Finding:
    """Walks a placement's model in order, by the steps at the head of this file. `split`: whether step 4 is taken."""

    placement: Placement
    split: bool
    space: LabelSpace = field(default_factory=LabelSpace)
    axes: dict[str, Axes] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)

    def run(self) -> ChannelFactors:
        """All labels, tied and frozen."""
        anatomy = self.placement.anatomy
        self.survey = Survey(anatomy.model)
        self.layers = {unit.root: unit for unit in self.placement.units if is_plain(anatomy, unit)}
        self.ends = dict(self._ends()) if self.split else {}
        for index, node in enumerate(anatomy.nodes):
            if index in self.layers:
                self._layer(self.layers[index])
            elif anatomy.passes_factors(index) or self._is_product(index):
                self._couple(index)
            else:
                self._freeze(*node.input)
            if index in self.ends:
                self._start(self.ends[index])
        self._freeze(*anatomy.outputs, *anatomy.captured)
        for grid in self.space.grids:  # its factors have labels that nothing ties to those of the axis
            for labels in (grid.merged, *grid.factors):
                self._keep(labels)
        found = {name: labels for name in self.axes if (labels := self._channels(name)) is not None}
        ranks = {name: len(self.axes[name]) for name in found}
        return ChannelFactors(self.layers, found, self.splits, ranks, self.space.settled())

    def _ends(self) -> Iterator[tuple[int, str]]:
        """The node that makes the exit of a unit, and the exit, for units that can end in another multiplication."""
        anatomy = self.placement.anatomy
        for unit in self.placement.units:
            index, absorbs = anatomy.graph.producers[unit.exit], FACTOR in anatomy.target.absorbs
            is_alone = unit.root == index and (index in self.layers or self._is_product(index))
            is_seen = unit.exit in anatomy.outputs or unit.exit in anatomy.captured
            if absorbs and not is_alone and not is_seen and not anatomy.passes_factors(index) and len(unit.nodes) < LONGEST_UNIT:
                yield index, unit.exit

    def _fresh(self, name: str) -> Labels | None:
        """New labels for the channels of a value, which become those as it is read; None if their number is unknown."""
        shape = self.survey.shapes.get("", name) or ()
        size = shape[CHANNELS] if len(shape) > CHANNELS else None
        if size is None or size == 1:
            return None
        labels = self.space.fresh(size)
        self.axes[name] = tuple(labels if axis == CHANNELS else None for axis in range(len(shape)))
        return labels

    def _layer(self, unit: Unit) -> None:
        """A layer reads labels along its channel axis alone, and its result has new ones."""
        anatomy = self.placement.anatomy
        read, result = anatomy.nodes[unit.root].input[unit.activations[0]], anatomy.nodes[unit.root].output[0]
        for axis, labels in enumerate(self.axes.get(read, ())):
            if axis != CHANNELS or not self._takes(unit, labels):
                self._keep(labels)
        made = self._fresh(result)
        if made is not None and made.size != anatomy.outputs_of(unit.weights[0]):
            self._keep(made)

    def _takes(self, unit: Unit, labels: Labels | None) -> bool:
        """Whether the weight of a layer has an axis for the channels of what it reads."""
        anatomy = self.placement.anatomy
        node, spec = anatomy.nodes[unit.root], anatomy.specs[unit.root]
        weight, axis = unit.weights[0], anatomy.input_axis(unit)
        if labels is None or axis is None or anatomy.model.weights.shape(weight.stored.name)[axis] != labels.size:
            return False
        if axis == weight.axis or spec is None or spec.channels.couple is None:
            return axis == weight.axis  # depthwise: one axis for both
        view = self.survey.view(anatomy.graph, node)
        apart: list[Axes | None] = [(None,) * len(shape or ()) for shape in view.inputs]
        coupling = Coupling(view, node.name, LabelSpace(), apart, lambda at: None, cut_norms=True)
        try:
            spec.channels.couple(coupling)
        except UnknownFact:
            return False
        return (unit.activations[0], CHANNELS) in coupling.contracted

    def _channels(self, name: str) -> Labels | None:
        axes = self.axes.get(name, ())
        return axes[CHANNELS] if len(axes) > CHANNELS else None

    def _keep(self, labels: Labels | None) -> None:
        if labels is not None:
            self.space.freeze(labels, "has no factor", "")

    def _freeze(self, *names: str) -> None:
        for name in names:
            for labels in self.axes.get(name, ()):
                self._keep(labels)

    def _is_product(self, index: int) -> bool:
        """Whether a node multiplies two activations."""
        anatomy = self.placement.anatomy
        spec = anatomy.specs[index]
        read = anatomy.activation_inputs(index)
        return spec is not None and spec.quant.bilinear and len(set(read)) == 2 == len(anatomy.nodes[index].input)

    def _couple(self, index: int) -> None:
        """Tie the labels of a node's inputs and results as its channel rule says; freeze them if it lacks a fact."""
        anatomy = self.placement.anatomy
        spec, node = anatomy.specs[index], anatomy.nodes[index]
        view = self.survey.view(anatomy.graph, node)
        inputs: list[Axes | None] = [self._labels(name) for name in node.input]
        coupling = Coupling(view, node.name, self.space, inputs, lambda at: self._constant(node.input[at]), cut_norms=False)
        try:
            if spec is None or spec.channels.couple is None:
                raise UnknownFact("no factor passes")
            if self._is_product(index):
                self._product(coupling)
            else:
                spec.channels.couple(coupling)
        except UnknownFact:
            self._freeze(*node.input)
            return
        for at, axis in coupling.contracted:  # a sum over channels has no factor of any of them
            self._keep(coupling.axes(at)[axis])
        found = {name: axes for name, axes in zip(node.output, coupling.outputs, strict=False) if name and axes is not None}
        self.axes.update(found)

    def _labels(self, name: str) -> Axes:
        """Labels of the axes of an input; a constant, such as the slopes of a PRelu, has its own, which anything may join."""
        shape = self.survey.shapes.get("", name) or ()
        if name in self.placement.anatomy.constant:
            return tuple(self.space.fresh(size) if size is not None and size > 1 else None for size in shape)
        return self.axes.get(name, (None,) * len(shape))

    def _product(self, coupling: Coupling) -> None:
        """The result has the factors of the input of its own shape, the other none; none has any if both have that shape."""
        shapes, result = coupling.op.inputs, coupling.op.outputs[0]
        for at, other in ((0, 1), (1, 0)):
            axes = coupling.inputs[at]
            if result is not None and axes is not None and shapes[at] == result != shapes[other]:
                coupling.freeze_all(other, "is a factor itself")
                coupling.emit(axes)
                return
        raise UnknownFact("the larger one is not known")

    def _constant(self, name: str) -> Array | None:
        anatomy = self.placement.anatomy
        found = anatomy.resolver.constant(anatomy.graph, name)
        return None if found is None else anatomy.model.weights[found]

    def _start(self, name: str) -> None:
        """Step 4: what reads a unit's result sees labels that have nothing to do with those of what makes it."""
        if self._fresh(name) is not None:
            self.splits[name] = self.placement.anatomy.graph.producers[name]


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
