"""The distance of two versions of a tensor: absolute differences, SQNR and cosine similarity."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ir.weights import Array

BLOCK_ELEMENTS = 1 << 20
"""Elements that are converted to float64 at a time, so that a large tensor is not held twice: 8 MB."""


@dataclass
class Distance:
    """Differences of two versions of a tensor, as sums over samples in float64. The samples are not kept.

    `noise`: sum of squared differences. `power`, `other_power`: sums of squares of the first and the second version.
    `problem`: why some samples do not count. `mismatch`: why the versions are not comparable at all. `broken`: whether the second
    version is the cause.
    """

    elements: int = 0
    max_difference: float = 0.0
    sum_difference: float = 0.0
    noise: float = 0.0
    power: float = 0.0
    other_power: float = 0.0
    dot: float = 0.0
    problem: str | None = None
    broken: bool = False
    mismatch: str | None = None

    def add(self, a: Array, b: Array) -> bool:
        """Add one sample of both versions. Returns whether all of its values are finite and comparable."""
        if a.dtype.kind not in "fiubV" or b.dtype.kind not in "fiubV":
            self.mismatch = f"has type {a.dtype}"
        elif a.shape != b.shape:
            self.mismatch = f"has shape {list(a.shape)} in one model and {list(b.shape)} in the other"
            self.broken = True
        else:
            flat = a.reshape(-1), b.reshape(-1)
            blocks = (slice(start, start + BLOCK_ELEMENTS) for start in range(0, a.size, BLOCK_ELEMENTS))
            return all(self._add_values(*(v[block].astype(np.float64) for v in flat)) for block in blocks)
        return False

    def _add_values(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
        if not np.isfinite(a).all() or not np.isfinite(b).all():
            self.problem = "it has NaN or infinite values"
            self.broken = self.broken or bool(np.isfinite(a).all())
            return False
        difference = np.abs(a - b)
        self.elements += a.size
        self.max_difference = max(self.max_difference, float(difference.max()))
        self.sum_difference += float(difference.sum())
        self.noise += float((difference**2).sum())
        self.power += float((a**2).sum())
        self.other_power += float((b**2).sum())
        self.dot += float((a * b).sum())
        return True

    @property
    def sqnr_db(self) -> float:
        """The SQNR in dB of what was added."""
        return sqnr_db(self.power, self.noise)

    @property
    def level_db(self) -> float | None:
        """The SQNR in dB; None if something was not comparable, or nothing was added."""
        return self.sqnr_db if self.elements and self.problem is None and self.mismatch is None else None

    @property
    def cosine(self) -> float | None:
        """Cosine similarity; None if one version is zero."""
        return self.dot / math.sqrt(self.power * self.other_power) if self.power and self.other_power else None


def sqnr_db(power: float, noise: float) -> float:
    """10·log10(signal power / noise power) in dB: infinite without noise, −infinite for noise on a zero signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(power / noise) if power else -math.inf


def finite(value: float | None) -> float | None:
    """`value` if it is finite, else None: JSON has no infinity."""
    return value if value is not None and math.isfinite(value) else None
