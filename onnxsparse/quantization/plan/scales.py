"""Scales and zero points of a placement's values and weights, computed from ranges."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxsparse.calibration.methods import Range
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.write.grid import Floats, Grid

HEADROOM = 2.0
"""Factor between a 16-bit range and the observed extremes, since clipping unseen values costs more than one of 16 bits.

SQNR of nudenet's scores: 16 dB with the 8-bit range, 30 dB with the extremes, 60 dB with twice the extremes."""


@dataclass(frozen=True)
class ValueScale:
    """Scale and zero point of an activation: value = scale · (integer − zero point)."""

    grid: Grid
    scale: float
    zero_point: int


@dataclass(frozen=True)
class Choices:
    """The free choices once a placement is made; units are given by their root node."""

    ranges: Mapping[str, Range]
    """Activation → its 8-bit range."""
    extremes: Mapping[str, Range] = field(default_factory=dict)
    """Activation → observed minimum and maximum, from which a 16-bit range is made."""
    wide: frozenset[int] = frozenset()
    """Units that compute in 16 bits, with the values that they read and produce."""
    bias_shifts: Mapping[int, Floats] = field(default_factory=dict)
    """Unit → addend of its bias, one number per output channel."""

    def range_of(self, name: str, grid: Grid) -> Range:
        """The range that the integers of value `name` cover on `grid`.

        In 8 bits: the chosen range. In 16 bits: HEADROOM times the observed extremes, since clipping costs more than coarser
        steps. A range that the user gave is taken as it is.
        """
        seen = self.extremes.get(name)
        if grid.bits == 8 or seen is None:
            return self.ranges[name]
        return Range(seen.low * HEADROOM, seen.high * HEADROOM)


@dataclass(frozen=True)
class WeightScale:
    """Scale of a weight: one number, or one for each index along `axis` (None: one number)."""

    grid: Grid
    scale: Floats
    axis: int | None


def value_scales(placement: Placement, choices: Choices) -> dict[str, ValueScale]:
    """Value → scale, for all scaled values of a placement; a shared scale covers the union of the ranges of its sources."""
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
