"""The ranges of a placement's activations: from data, or as a file gives them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from onnxsparse.calibration.data import CalibrationData
from onnxsparse.calibration.methods import METHODS, Levels, Method, Range, choose_ranges
from onnxsparse.calibration.observe import observe
from onnxsparse.errors import ModelError
from onnxsparse.quantization.plan.placement import Placement, place

FEW_SAMPLES = 8
"""Ranges that rest on fewer are said to."""


@dataclass(frozen=True)
class Calibrated:
    """A placement with the range of every activation that sets a scale.

    `placement`: without the activations that reach infinity. `extremes`: what was seen, of activations whose range was not given.
    `samples`: how many were seen, 0 where no data were needed.
    """

    placement: Placement
    ranges: Mapping[str, Range]
    extremes: Mapping[str, Range] = field(default_factory=dict)
    samples: int = 0
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """The activations that set a scale and have no range yet."""
        return [name for name in self.placement.calibrated if name not in self.ranges]


@dataclass(frozen=True)
class Calibration:
    """How ranges are found. `given`: ranges that need no data."""

    data: CalibrationData | None
    method: Method
    percentile: float
    budget_bytes: int
    given: Mapping[str, Range] = field(default_factory=dict)

    def run(self, placement: Placement, known: Calibrated | None = None) -> Calibrated:
        """The ranges of a placement; `known`: of another placement of the same model, whose ranges stay.

        Raises ModelError for an activation that has no range and no data to find it with.
        """
        if known is None:
            found = Calibrated(placement, self.given, notes=tuple(self._unknown(placement)))
        else:
            found = replace(known, placement=placement)
        while found.missing:
            found = self._observed(found)
        return found

    def _observed(self, found: Calibrated) -> Calibrated:
        """With the ranges that were missing, and without the activations that have none."""
        model, wanted = found.placement.anatomy.model, found.missing
        if self.data is None:
            some = f"'{wanted[0]}'" + (f" and {len(wanted) - 1} more" if len(wanted) > 1 else "")
            raise ModelError(f"--ranges has none for activation {some} of {model.name}; give --data as well")
        seen = observe(model, wanted, self.data, bins=METHODS[self.method].bins, budget_bytes=self.budget_bytes)
        grid = found.placement.anatomy.target.activations.grid
        ranges = choose_ranges(seen, self.method, Levels(1 << grid.bits, grid.symmetric, grid.power_of_two), self.percentile)
        extremes = {name: Range(own.low, own.high) for name, own in seen.ranges.items() if own.is_finite}
        few = "; that is few, 32 to 512 are usual" if seen.samples < FEW_SAMPLES else ""
        note = f"ranges of {len(wanted)} activations by {self.method} over {seen.samples} samples{few}"
        return Calibrated(
            without(found.placement, {name for name in wanted if name not in ranges}),
            {**found.ranges, **ranges},
            {**found.extremes, **extremes},
            seen.samples,
            (*found.notes, note),
        )

    def _unknown(self, placement: Placement) -> Iterator[str]:
        """Which given ranges no activation has: their names may be misspelt."""
        unknown = [name for name in self.given if name not in placement.anatomy.graph.defined]
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            yield f"--ranges has '{unknown[0]}'{more}, which the model does not make"


def without(placement: Placement, unbounded: set[str]) -> Placement:
    """A placement in which no unit uses or makes integers for values that have no finite range."""
    if not unbounded:
        return placement
    anatomy = placement.anatomy
    kept = dict(placement.kept)
    for unit in placement.units:
        touched = {unit.exit, *(anatomy.nodes[unit.root].input[at] for at in unit.activations)}
        if touched & unbounded:
            kept[unit.root] = "it reads or makes values that are not finite"
    return place(anatomy.model, anatomy.target, kept)
