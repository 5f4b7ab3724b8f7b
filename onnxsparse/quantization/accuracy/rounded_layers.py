"""Layers whose weights can be rounded by what it does to their outputs, and their inputs in both models."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from onnxsparse.analysis.layers import Survey
from onnxsparse.analysis.linear_sites import Site, sites_of
from onnxsparse.calibration.positions import gather
from onnxsparse.calibration.walk import Walk
from onnxsparse.ir.array_types import Floats, Indices, Singles
from onnxsparse.ir.weights import Array
from onnxsparse.ops import UnknownFact
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.plan.scales import ValueScale, WeightScale
from onnxsparse.quantization.plan.units import Unit
from onnxsparse.quantization.write.qdq import Written
from onnxsparse.runtime.samples import Samples

MOST_WORK = 20_000_000_000
"""Largest product of elements and columns of a layer, to which the time of its rounding is proportional."""

MOST_MOMENTS = 5000**2
"""Largest number of second moments of a layer's inputs; they take 200 MB, several times."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer with one weight of at most 8 bits, which nothing else uses.

    `source`: the scale of the activation that it multiplies; None if it was quantized before. `scale`: of the weight.
    `site`: in the float model, `integer_site`: in the quantized one. `bias`: the stored bias if it has 32-bit integers.
    """

    unit: Unit
    scale: WeightScale
    source: ValueScale | None
    site: Site
    integer_site: Site
    held: Array
    bias: Array | None

    @property
    def name(self) -> str:
        """The stored weight."""
        return self.unit.weights[0].stored.name

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the stored weight in the order in which the layer reads them."""
        axes = self.unit.weights[0].stored.axes
        assert axes is not None  # `find_layers` leaves others out
        return axes

    @property
    def weight(self) -> Floats:
        """The float weight as groups × rows × columns."""
        return self.matrix(self.held)

    def matrix(self, held: Array) -> Floats:
        """A tensor of the stored weight's shape as groups × rows × columns."""
        found: Floats = self.site.form.matrix(held.transpose(self.axes)).astype(np.float64)
        return found

    def tensor(self, matrix: Floats) -> Array:
        """The inverse of `matrix`, as integers."""
        shape = tuple(self.held.shape[axis] for axis in self.axes)
        values = self.site.form.weight(matrix, shape).transpose(np.argsort(self.axes))
        return np.ascontiguousarray(values.astype(self.scale.grid.dtype))

    @property
    def scale_places(self) -> Indices:
        """The place in the flat scale of each element, groups × rows × columns; one column where all of a row share a scale."""
        places = np.arange(self.scale.scale.size, dtype=np.float64).reshape(self.scale.scale.shape)
        spread = self.scale.sharing.times(np.ones(self.held.shape), places)
        found = self.matrix(spread) if self.scale.sharing.block is not None else self.matrix(spread)[..., :1]
        return found.astype(np.int64)

    def bias_scale(self, scale: Floats) -> Floats:
        """What the scale of the bias takes from scales of the weight."""
        return self.scale.sharing.of_outputs(scale, self.unit.weights[0].axis)


@dataclass(frozen=True)
class Pair:
    """The float model and the quantized model as rounded so far, side by side over the same samples."""

    floats: Walk
    integers: Walk

    @classmethod
    def over(cls, samples: Samples, placement: Placement, written: Written, budget_bytes: int) -> "Pair":
        """Both at their start."""
        walks = (Walk(model, samples, budget_bytes // 2) for model in (placement.anatomy.model, written.model))
        return cls(*walks)

    def advance(self, layer: Layer, written: Written) -> None:
        """Run both up to a layer; the dequantization of its weight has not run yet."""
        self.floats.advance(layer.unit.root)
        self.integers.advance(written.starts[layer.unit.root])

    def inputs(self, layer: Layer, each: int) -> tuple[Singles, Singles]:
        """The layer's columns in both models, at the same positions of all samples; at most `each` of a sample."""
        return gather(self.floats, layer.site, 0, each), gather(self.integers, layer.integer_site, 0, each)


def find_layers(placement: Placement, written: Written, correct_bias: bool) -> Iterator[Layer]:
    """The layers that can be rounded, in the order of the model. `correct_bias`: whether their biases may change."""
    anatomy, survey = placement.anatomy, Survey(placement.anatomy.model)
    units = sorted(placement.units, key=lambda unit: unit.root)
    uses = [weight.stored.name for unit in units for weight in unit.weights]
    for unit in units:
        names = [weight.stored.name for weight in unit.weights if weight.stored.axes is not None]
        scale = written.weights.get(names[0]) if len(names) == 1 == len(unit.weights) else None
        if scale is None or scale.grid.bits > 8 or uses.count(names[0]) > 1:
            continue
        try:
            sites = list(sites_of(survey, names[0], unit.root))
        except UnknownFact:
            continue  # how its op multiplies is not known as a matrix: the nearest integers stay
        held = anatomy.model.weights[names[0]]
        bias = anatomy.bias_name(unit) if correct_bias and unit.root in written.biases else None
        source = written.scales.get(anatomy.nodes[unit.root].input[sites[0].form.data_at])
        reads = integer_input(unit, sites[0], placement, written)
        layer = Layer(
            unit,
            scale,
            source,
            sites[0],
            replace(sites[0], data=reads),
            held,
            None if bias is None else anatomy.model.weights[bias],
        )
        if len(sites) == 1 and is_small(layer):
            yield layer


def is_small(layer: Layer) -> bool:
    """Whether time and memory for the layer's rounding stay within bounds."""
    groups, rows, columns = map(int, layer.weight.shape)
    return groups * rows * columns**2 <= MOST_WORK and groups * columns**2 <= MOST_MOMENTS


def integer_input(unit: Unit, site: Site, placement: Placement, written: Written) -> str:
    """The value that a layer's op multiplies in the quantized model."""
    made = written.written_name(placement.anatomy.nodes[unit.root].output[0])
    nodes = written.model.proto.graph.node
    node = next(nodes[at] for at in count(written.starts[unit.root]) if made in nodes[at].output)
    return node.input[site.form.data_at]
