"""What the integers of a placement's values and weights are to mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxsparse.calibration.methods import Range
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.write.grid import Floats, Grid

HEADROOM = 2.0
"""How far the range of 16 bits reaches beyond what calibration data lit."""


@dataclass(frozen=True)
class ValueScale:
    """What the integers of an activation mean."""

    grid: Grid
    scale: float
    zero_point: int


@dataclass(frozen=True)
class Choices:
    """What is free once a placement is made.

    `extremes`: what was seen, for values of 16 bits, which have range to spare. `wide`: units of 16 bits, with what they read and
    make. `bias_shifts`: unit → what is added to its bias.
    """

    ranges: Mapping[str, Range]
    extremes: Mapping[str, Range] = field(default_factory=dict)
    wide: frozenset[int] = frozenset()
    bias_shifts: Mapping[int, Floats] = field(default_factory=dict)

    def range_of(self, name: str, grid: Grid) -> Range:
        """What a value's integers are to cover: with 16 bits more than was seen, since clipping costs more than coarser steps.

        A range that was given is taken as it is.
        """
        seen = self.extremes.get(name)
        if grid.bits == 8 or seen is None:
            return self.ranges[name]
        return Range(seen.low * HEADROOM, seen.high * HEADROOM)


@dataclass(frozen=True)
class WeightScale:
    """What the integers of a weight mean: one scale, or one for each index along `axis`."""

    grid: Grid
    scale: Floats
    axis: int | None


def value_scales(placement: Placement, choices: Choices) -> dict[str, ValueScale]:
    """The scale of every value of a placement: of the union of the ranges that it is to cover."""
    anatomy, grid, wide = placement.anatomy, placement.anatomy.target.activations.grid, choices.wide
    read = {anatomy.nodes[u.root].input[at] for u in placement.units if u.root in wide for at in u.activations}
    wider = {placement.scaled.get(n) for n in (*read, *(u.exit for u in placement.units if u.root in wide))}
    found = {}
    for root, names in placement.sources.items():
        own = grid.wider(16) if root in wider else grid
        covered = [choices.range_of(name, own) for name in names]
        low, high = min(r.low for r in covered), max(r.high for r in covered)
        found[root] = ValueScale(own, *own.parameters(low, high))
    return {name: found[root] for name, root in placement.scaled.items()}
