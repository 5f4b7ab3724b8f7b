"""Integer grids: value = scale · (integer − zero point)."""

import math
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnxsparse.ir.weights import Array

Floats = NDArray[np.float64]

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""The smallest normal float32; onnxruntime flushes smaller scales to zero."""


@dataclass(frozen=True)
class Grid:
    """The integers of a tensor, and the constraints on its scale and zero point.

    `symmetric`: the zero point is 0. `narrow`: the lowest integer is unused, so that the range is symmetric around 0.
    `power_of_two`: scales are 2^−exponent.
    """

    bits: int = 8
    signed: bool = True
    symmetric: bool = True
    narrow: bool = False
    power_of_two: bool = False

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type in which the integers are stored, of 4, 8 or 16 bits; numpy gives an element of 4 bits a byte."""
        stored = next(bits for bits in (4, 8, 16) if self.bits <= bits)
        name = f"{'int' if self.signed else 'uint'}{stored}"
        found: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, name) if stored == 4 else name)
        return found

    @property
    def low(self) -> int:
        """The lowest integer."""
        return (-(1 << self.bits - 1) + self.narrow) if self.signed else 0

    @property
    def high(self) -> int:
        """The highest integer."""
        return (1 << self.bits - 1) - 1 if self.signed else (1 << self.bits) - 1

    def wider(self, bits: int) -> "Grid":
        """The same grid with `bits` bits."""
        return replace(self, bits=bits)

    def parameters(self, low: float, high: float) -> tuple[float, int]:
        """(scale, zero point) for values from `low` to `high`; the range is extended to include 0, so that 0 is exact."""
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        if low == high:
            high = 1.0  # a value that is always zero gives no range; any scale represents it
        if self.symmetric:
            return float(self.scales(np.array(max(-low, high)))), 0
        scale = float(self.rounded(np.array((high - low) / (self.high - self.low))))
        return scale, int(np.clip(round(self.low - low / scale), self.low, self.high))

    def scales(self, largest: Floats) -> Floats:
        """Scales of a symmetric grid whose highest integer represents `largest`, of the same shape."""
        return self.rounded(np.asarray(largest, np.float64) / self.high)

    def rounded(self, scale: Floats) -> Floats:
        """Scales as stored: rounded to float32 and at least SMALLEST_SCALE; with `power_of_two`, rounded up to a power of two."""
        stored = np.maximum(np.asarray(scale, np.float32), SMALLEST_SCALE).astype(np.float64)
        return np.exp2(np.ceil(np.log2(stored))) if self.power_of_two else stored

    def integers(self, values: Array, scale: Floats | float, zero_point: int = 0) -> Array:
        """The integers of `values` as QuantizeLinear computes them: halves round to even, values out of range saturate."""
        found = np.rint(np.asarray(values, np.float64) / scale) + zero_point
        clipped: Array = np.clip(found, self.low, self.high).astype(self.dtype)
        return clipped

    def span(self, scale: float, zero_point: int) -> tuple[float, float]:
        """The real values of the lowest and the highest integer."""
        return (self.low - zero_point) * scale, (self.high - zero_point) * scale

    @staticmethod
    def exponent(scale: float) -> int | None:
        """e of a scale 2^−e; None if the scale is not a power of two."""
        mantissa, exponent = math.frexp(scale)
        return 1 - exponent if mantissa == 0.5 else None
