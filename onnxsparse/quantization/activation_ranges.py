"""The ranges of a placement's activations, from calibration data or from a file.

1. Take the ranges that the user gave.
2. Observe the other activations on the data, and choose their ranges by the method.
3. Keep the units float that read or produce values without a finite range, place again, and repeat step 2 for activations that
   need a range only now.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxsparse.calibration.histogram import BINS
from onnxsparse.calibration.methods import Levels, Method, Range, RangeMethod, choose_ranges, range_method
from onnxsparse.calibration.observe import observe
from onnxsparse.errors import ModelError
from onnxsparse.format import name_some
from onnxsparse.quantization.plan.placement import Placement, place
from onnxsparse.runtime.samples import Samples

FEW_SAMPLES = 8
"""With fewer calibration samples a note warns that they are few."""


@dataclass(frozen=True)
class Calibrated:
    """A placement with the range of every activation that sets a scale."""

    placement: Placement
    """The placement, without units that read or produce values without a finite range."""
    ranges: Mapping[str, Range]
    """Activation → range, chosen or given."""
    extremes: Mapping[str, Range] = field(default_factory=dict)
    """Activation → observed minimum and maximum; activations with a given range are left out."""
    samples: int = 0
    """Samples that were observed; 0 if all ranges were given."""
    method: str = "given"
    """The rule by which ranges were chosen."""
    notes: tuple[str, ...] = ()
    """Sentences for the user."""

    @property
    def missing(self) -> list[str]:
        """The activations that need a range and have none yet."""
        return [name for name in self.placement.calibrated if name not in self.ranges]


@dataclass(frozen=True)
class Calibration:
    """How ranges are found.

    `data`: None if all ranges are given. `percentile`: per cent of the elements, for that method. `budget_bytes`: memory for
    activations at a time. `given`: ranges by activation. `any_scale`: whether scales need not be powers of two.
    """

    data: Samples | None
    method: Method
    percentile: float
    budget_bytes: int
    given: Mapping[str, Range] = field(default_factory=dict)
    any_scale: bool = False

    def run(self, placement: Placement, known: Calibrated | None = None) -> Calibrated:
        """The ranges of a placement. `known`: the result for another placement of the same model; its ranges are kept.

        Raises ModelError for an activation without a given range if there is no data.
        """
        if known is None:
            found = Calibrated(placement, self.given, notes=tuple(self._unknown(placement)))
        else:
            found = replace(known, placement=placement)
        while found.missing:
            found = self._observed(found)
        return found

    def _observed(self, found: Calibrated) -> Calibrated:
        """`found` with the missing ranges, and without the units whose values have no finite range."""
        model, wanted = found.placement.anatomy.model, found.missing
        if self.data is None:
            some = name_some([f"'{name}'" for name in wanted], 1)
            raise ModelError(f"--ranges has none for activation {some} of {model.name}; give --data as well")
        seen = observe(model, wanted, self.data, bins=range_method(self.method).bins, budget_bytes=self.budget_bytes)
        ranges = choose_ranges(seen, self.method, self._levels(found.placement), self.percentile)
        extremes = {name: Range(own.low, own.high) for name, own in seen.ranges.items() if own.is_finite}
        few = "; that is few: use 32 to 512" if seen.samples < FEW_SAMPLES else ""
        note = f"ranges of {len(wanted)} activations by {self.method} over {seen.samples} samples{few}"
        return Calibrated(
            without(found.placement, {name for name in wanted if name not in ranges}),
            {**found.ranges, **ranges},
            {**found.extremes, **extremes},
            seen.samples,
            self.method,
            (*found.notes, note),
        )

    def choices(
        self, placement: Placement, names: Sequence[str], methods: Sequence[RangeMethod], data: Samples
    ) -> list[dict[str, Range]]:
        """The ranges of some activations by each of some methods, from `data` in place of this calibration's."""
        seen = observe(placement.anatomy.model, names, data, bins=BINS, budget_bytes=self.budget_bytes)
        return [choose_ranges(seen, method, self._levels(placement)) for method in methods]

    def _levels(self, placement: Placement) -> Levels:
        grid = placement.anatomy.target.activations.grid
        return Levels(1 << grid.bits, grid.symmetric, grid.power_of_two and not self.any_scale)

    def _unknown(self, placement: Placement) -> Iterator[str]:
        """A note on given ranges whose names match no value of the model."""
        unknown = [f"'{name}'" for name in self.given if name not in placement.anatomy.graph.defined]
        if unknown:
            yield f"--ranges has {name_some(unknown, 1)}, which the model does not produce"


def without(placement: Placement, unbounded: set[str]) -> Placement:
    """The placement with units kept float that read or produce one of the `unbounded` values."""
    if not unbounded:
        return placement
    anatomy = placement.anatomy
    kept = dict(placement.kept)
    for unit in placement.units:
        touched = {unit.exit, *(anatomy.nodes[unit.root].input[at] for at in unit.activations)}
        if touched & unbounded:
            kept[unit.root] = "it reads or produces values that are not finite"
    return place(anatomy.model, anatomy.target, kept)
