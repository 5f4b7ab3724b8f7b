"""Integers that stand for real values: value = scale · (integer − zero point)."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ir.weights import Array

Floats = NDArray[np.float64]

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""onnxruntime flushes smaller scales to zero."""


@dataclass(frozen=True)
class Grid:
    """How integers are chosen for a tensor.

    `symmetric`: zero point 0, and where `narrow`, as many integers below as above. `power_of_two`: scales are 2^−exponent.
    """

    bits: int = 8
    signed: bool = True
    symmetric: bool = True
    narrow: bool = False
    power_of_two: bool = False

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return np.dtype(f"{'int' if self.signed else 'uint'}{8 if self.bits <= 8 else 16}")

    @property
    def low(self) -> int:
        return (-(1 << self.bits - 1) + self.narrow) if self.signed else 0

    @property
    def high(self) -> int:
        return (1 << self.bits - 1) - 1 if self.signed else (1 << self.bits) - 1

    def wider(self, bits: int) -> "Grid":
        return replace(self, bits=bits)

    def parameters(self, low: float, high: float) -> tuple[float, int]:
        """(scale, zero point) for values from `low` to `high`, zero included: zero is exact on every grid."""
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        if low == high:
            high = 1.0  # a value that was always zero has no range to go by
        if self.symmetric:
            return float(self.scales(np.array(max(-low, high)))), 0
        scale = float(self.rounded(np.array((high - low) / (self.high - self.low))))
        return scale, int(np.clip(round(self.low - low / scale), self.low, self.high))

    def scales(self, largest: Floats) -> Floats:
        """The scale of a symmetric grid that reaches magnitudes `largest`."""
        return self.rounded(np.asarray(largest, np.float64) / self.high)

    def rounded(self, scale: Floats) -> Floats:
        """Scales as they are stored: float32, none of them zero; powers of two that are no smaller, if those are asked for."""
        stored = np.maximum(np.asarray(scale, np.float32), SMALLEST_SCALE).astype(np.float64)
        return np.exp2(np.ceil(np.log2(stored))) if self.power_of_two else stored

    def integers(self, values: Array, scale: Floats | float, zero_point: int = 0) -> Array:
        """As QuantizeLinear computes them: halves to even, saturated."""
        found = np.rint(np.asarray(values, np.float64) / scale) + zero_point
        clipped: Array = np.clip(found, self.low, self.high).astype(self.dtype)
        return clipped

    def reals(self, values: Array, scale: float, zero_point: int) -> Floats:
        """`values` through integers and back."""
        found: Floats = np.clip(np.rint(np.asarray(values, np.float64) / scale) + zero_point, self.low, self.high)
        return (found - zero_point) * scale

    def span(self, scale: float, zero_point: int) -> tuple[float, float]:
        """The real values of the lowest and the highest integer."""
        return (self.low - zero_point) * scale, (self.high - zero_point) * scale

    @staticmethod
    def exponent(scale: float) -> int | None:
        """e of a scale 2^−e, None for one that is no power of two."""
        mantissa, exponent = math.frexp(scale)
        return 1 - exponent if mantissa == 0.5 else None
