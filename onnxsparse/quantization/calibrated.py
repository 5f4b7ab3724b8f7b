"""The ranges of a placement's activations: from data, or as a file gives them."""

from dataclasses import dataclass, field

from onnxsparse.calibration.data import CalibrationData
from onnxsparse.calibration.methods import Levels, Method, Range, bins_of, choose_ranges
from onnxsparse.calibration.observe import Observation, observe
from onnxsparse.errors import ModelError
from onnxsparse.quantization.placement import Placement, place

FEW_SAMPLES = 8
"""Ranges that rest on fewer are said to."""


@dataclass
class Calibration:
    """How ranges are found. `given`: ranges that need no data. `notes` and `samples` tell what was found."""

    data: CalibrationData | None
    method: Method
    percentile: float
    budget_bytes: int
    given: dict[str, Range] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    samples: int = 0
    extremes: dict[str, Range] = field(default_factory=dict)

    def run(self, placement: Placement) -> tuple[Placement, dict[str, Range]]:
        """The range of every activation that sets a scale, and the placement without those that reach infinity.

        Raises ModelError for an activation that has no range and no data to find it with.
        """
        wanted = [name for name in placement.calibrated if name not in self.given]
        if not wanted:
            return placement, self.given
        if self.data is None:
            some = f"'{wanted[0]}'" + (f" and {len(wanted) - 1} more" if len(wanted) > 1 else "")
            raise ModelError(f"--ranges has none for activation {some} of {placement.anatomy.model.name}; give --data as well")
        seen = self._observe(placement, wanted)
        grid = placement.anatomy.target.activations.grid
        ranges = choose_ranges(seen, self.method, Levels(1 << grid.bits, grid.symmetric, grid.power_of_two), self.percentile)
        self.given |= ranges
        unbounded = {name for name in wanted if name not in ranges}
        return self.run(without(placement, unbounded)) if unbounded else (placement, self.given)

    def tell_unknown(self, placement: Placement) -> None:
        """Say which ranges of the file no activation has: their names may be misspelt."""
        unknown = [name for name in self.given if name not in placement.anatomy.graph.defined]
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            self.notes.append(f"--ranges has '{unknown[0]}'{more}, which the model does not make")

    def _observe(self, placement: Placement, wanted: list[str]) -> Observation:
        assert self.data is not None
        seen = observe(placement.anatomy.model, wanted, self.data, bins=bins_of(self.method), budget_bytes=self.budget_bytes)
        self.samples = seen.samples
        self.extremes |= {name: Range(found.low, found.high) for name, found in seen.ranges.items() if found.is_finite}
        few = "; that is few, 32 to 512 are usual" if seen.samples < FEW_SAMPLES else ""
        self.notes.append(f"ranges of {len(wanted)} activations by {self.method} over {seen.samples} samples{few}")
        return seen


def without(placement: Placement, unbounded: set[str]) -> Placement:
    """A placement in which nobody reads or makes integers for values that have no finite range."""
    anatomy = placement.anatomy
    kept = dict(placement.kept)
    for unit in placement.units:
        touched = {unit.exit, *(anatomy.nodes[unit.root].input[at] for at in unit.activations)}
        if touched & unbounded:
            kept[unit.root] = "it reads or makes values that are not finite"
    return place(anatomy.model, anatomy.target, kept)
