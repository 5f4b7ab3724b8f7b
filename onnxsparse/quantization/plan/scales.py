"""Scales and zero points of a placement's values and weights, computed from ranges."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxsparse.calibration.methods import Range
from onnxsparse.ir.weights import Array
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.write.grid import Floats, Grid
from onnxsparse.quantization.write.weights import Quantized, Sharing, quantize_weight

HEADROOM = 2.0
"""Factor between a 16-bit range and the observed extremes, since clipping unseen values costs more than one of 16 bits.

SQNR of nudenet's scores: 16 dB with the 8-bit range, 30 dB with the extremes, 60 dB with twice the extremes."""


@dataclass(frozen=True)
class ValueScale:
    """Scale and zero point of an activation: value = scale · (integer − zero point)."""

    grid: Grid
    scale: float
    zero_point: int

    def rounded(self, values: Array) -> Array:
        """The values that the integers stand for."""
        integers = self.grid.integers(values, self.scale, self.zero_point).astype(np.float64)
        found: Array = ((integers - self.zero_point) * self.scale).astype(values.dtype)
        return found


@dataclass(frozen=True)
class Choices:
    """The free choices once a placement is made; units are given by their root node."""

    ranges: Mapping[str, Range]
    """Activation → its 8-bit range."""
    extremes: Mapping[str, Range] = field(default_factory=dict)
    """Activation → observed minimum and maximum, from which a 16-bit range is made."""
    wide_values: frozenset[str] = frozenset()
    """Activations of 16 bits, by the value that stands for their scale."""
    wide_weights: Mapping[str, int] = field(default_factory=dict)
    """Stored weight → its width in bits, of those with more bits than others."""
    rounded: Mapping[str, Quantized] = field(default_factory=dict)
    """Stored weight → its integers, of other weights than the nearest ones."""
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
    """Scale of a weight: one number, or one for each index or block along an axis, as `sharing` says.

    `integers`: those that were chosen; None: the nearest ones.
    """

    grid: Grid
    scale: Floats
    sharing: Sharing
    integers: Array | None = None

    def rounded(self, values: Array) -> Array:
        """The weights that the integers stand for."""
        chosen = self.integers
        integers = quantize_weight(values, self.scale, self.sharing, self.grid).integers if chosen is None else chosen
        found: Array = self.sharing.times(integers, self.scale).astype(values.dtype)
        return found


def value_scales(placement: Placement, choices: Choices) -> dict[str, ValueScale]:
    """Value → scale, for all scaled values of a placement; a shared scale covers the union of the ranges of its sources."""
    grid, found = placement.anatomy.target.activations.grid, {}
    for root, names in placement.sources.items():
        own = grid.wider(16) if root in choices.wide_values else grid
        covered = [choices.range_of(name, own) for name in names]
        low, high = min(r.low for r in covered), max(r.high for r in covered)
        found[root] = ValueScale(own, *own.parameters(low, high))
    return {name: found[root] for name, root in placement.scaled.items()}
