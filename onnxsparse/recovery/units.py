"""Weights that can be repaired: where they multiply which activation, and as which matrix."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxsparse.analysis.layers import Survey
from onnxsparse.analysis.linear_sites import Site, sites_of
from onnxsparse.ir.array_types import Floats
from onnxsparse.ir.model import Model
from onnxsparse.ops import UnknownFact
from onnxsparse.ops.linear_forms import LinearForm
from onnxsparse.pruning.candidates import Candidate
from onnxsparse.records import Skip

MOST_WORK = 20_000_000_000
"""Largest product of elements and columns of a layer, to which the time of a repair is proportional."""


@dataclass(frozen=True)
class Unit:
    """One weight tensor with all nodes that use it, in order.

    `bias`: the stored tensor that is added to each output row and used by nothing else. `takes_bias`: whether the node has no
    bias and can get one.
    """

    candidate: Candidate
    sites: tuple[Site, ...]
    size: tuple[int, int, int]
    """Groups, rows and columns of its matrix."""
    bias: str | None = None
    takes_bias: bool = False

    @property
    def form(self) -> LinearForm:
        """The linear form, whose matrices are the same at all sites."""
        return self.sites[0].form

    @property
    def at(self) -> int:
        """The first node that uses it."""
        return self.sites[0].index

    @property
    def inputs(self) -> int:
        """Input channels of a group."""
        return self.size[2] // self.form.taps

    @property
    def shifts(self) -> bool:
        """Whether a constant may be added to its outputs, so that means of its inputs need not be matched by weights."""
        return self.bias is not None or self.takes_bias

    def matrix(self, model: Model) -> Floats:
        """Its values as groups × rows × columns."""
        return self.form.matrix(seen(self.candidate, model)).astype(np.float64)

    def store(self, model: Model, matrix: Floats) -> None:
        """Replace its values."""
        axes = self.candidate.stored.axes
        assert axes is not None  # `find_units` leaves others out
        held = model.weights[self.candidate.name]
        shape = tuple(held.shape[axis] for axis in axes)
        values = self.form.weight(matrix, shape).transpose(np.argsort(axes))
        model.weights[self.candidate.name] = np.ascontiguousarray(values.astype(held.dtype))


def seen(candidate: Candidate, model: Model) -> NDArray[np.generic]:
    """A weight as its op reads it."""
    held = model.weights[candidate.name]
    return held.transpose(candidate.stored.axes)


def find_units(model: Model, candidates: Sequence[Candidate]) -> tuple[list[Unit], list[Skip]]:
    """The candidates that can be repaired, in the order of their first use, and why the others cannot."""
    survey = Survey(model)
    nodes = {name: index for index, name in enumerate(survey.context.graph.names)}
    found: list[Unit] = []
    skipped: list[Skip] = []
    for candidate in candidates:
        try:
            found.append(unit_of(survey, candidate, nodes))
        except UnknownFact as reason:
            skipped += [Skip(node, str(reason)) for node in candidate.nodes]
    return sorted(found, key=lambda unit: unit.at), skipped


def unit_of(survey: Survey, candidate: Candidate, nodes: dict[str, int]) -> Unit:
    """The unit of a candidate. Raises UnknownFact for one that cannot be repaired."""
    stored = candidate.stored
    if stored.scale is not None or stored.zero_point is not None or stored.quantized_later:
        raise UnknownFact("it is quantized")
    if stored.axes is None or sorted(stored.axes) != list(range(len(survey.model.weights.shape(stored.name)))):
        raise UnknownFact("a Reshape is between the stored weight and its op")
    if any(node not in nodes for node in candidate.nodes):
        raise UnknownFact("it is in a body or a function")
    sites = tuple(site for node in candidate.nodes for site in sites_of(survey, stored.name, nodes[node]))
    if len({(type(site.form), site.form.bias_at is None) for site in sites}) > 1:
        raise UnknownFact("ops of several kinds use it")
    groups, rows, columns = sites[0].form.matrix(seen(candidate, survey.model)).shape
    if groups * rows * columns**2 > MOST_WORK:
        raise UnknownFact(f"its matrix of {rows} × {columns} is too large")
    bias, takes = None, False
    if len(sites) == 1:
        bias, takes = bias_of(survey, sites[0])
    return Unit(candidate, sites, (groups, rows, columns), bias, takes)


def bias_of(survey: Survey, site: Site) -> tuple[str | None, bool]:
    """The stored bias of a node that nothing else uses; and whether the node has none and can get one."""
    context, node, at = survey.context, survey.context.nodes[site.index], site.form.bias_at
    if at is None:
        return None, False
    if at >= len(node.input) or not node.input[at]:
        return None, True
    name = node.input[at]
    key = context.resolver.constant(context.graph, name)
    alone = len(context.readers(name)) == 1 and name not in context.outputs and not context.graph.is_default(name)
    return (key if key is not None and alone and key == name else None), False
