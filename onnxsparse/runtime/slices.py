"""SQNR of the slices of an output: one index along the axis that counts its channels, classes or box attributes.

The SQNR of a whole output hides a small part of it that is lost: beside boxes in pixels, scores have hardly any power.

1. Sum up noise and power per index of every axis but the batch (axis 0), sample by sample (`Slices.add`).
2. Choose the axis whose parts differ most in power (`slice_axis`); positions have parts of like power, or change smoothly.
3. Decide which slices carry signal: those with 1 % of the output's power per element, and a detector's scores (`judged`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ir.weights import Array
from onnxsparse.runtime.distance import BLOCK_ELEMENTS, Distance, sqnr_db

Vector = NDArray[np.float64]

MOST_SLICES = 512
"""Indices of the longest axis that is sliced."""

LONG_AXIS_FACTOR = 4.0
"""A longer axis counts positions, unless its parts differ this many times as much as those of the axes that could be sliced."""

SMOOTH_AXIS = 32
"""Fewest indices of an axis whose smoothness is judged."""

SMOOTH = 0.15
"""Largest ratio of von Neumann, by which neighbours differ less than distant parts, of an axis of positions; unordered parts
have 2, and 4 box coordinates before 80 classes 0.26."""

FEWEST_ELEMENTS = 8
"""Fewest elements of a slice over all samples; the SQNR of fewer is a matter of chance."""

SIGNAL_SHARE = 0.01
"""Least power per element of a slice that carries signal, as a share of the output's."""

SCORE = 0.1
"""Least maximum of a slice of scores that carries signal: detectors drop boxes with lower scores."""


@dataclass(frozen=True)
class WorstSlice:
    """The slice with the lowest SQNR among those of an output that carry signal. `index` counts along `axis`."""

    output: str
    axis: int
    index: int
    sqnr_db: float

    @property
    def label(self) -> str:
        """The output's name with the slice in numpy's notation: `scores[:, 3]`."""
        return slice_label(self.output, self.axis, self.index)

    def to_json(self) -> dict[str, object]:
        """The value of `worst_slice`; it is finite, or −∞ for noise alone, which is null."""
        return {"axis": self.axis, "index": self.index, "sqnr_db": self.sqnr_db if math.isfinite(self.sqnr_db) else None}


def slice_label(output: str, axis: int, index: int) -> str:
    """A slice in numpy's notation: `scores[:, 3]`."""
    return f"{output}[{', '.join([':'] * axis + [str(index)])}]"


@dataclass
class Sums:
    """Sums per index of one axis: elements, squared differences (noise); squares (power) and extremes of the first version."""

    elements: Vector
    noise: Vector
    power: Vector
    low: Vector
    high: Vector

    @classmethod
    def zeros(cls, size: int) -> "Sums":
        """Sums over no sample yet."""
        return cls(np.zeros(size), np.zeros(size), np.zeros(size), np.full(size, np.inf), np.full(size, -np.inf))

    def add(self, part: slice, axis: int, a: Vector, squares: Vector, noise: Vector) -> None:
        """Add a block whose indices along `axis` are `part`. NaN and infinite values stay in the sums."""
        others = tuple(at for at in range(a.ndim) if at != axis)
        self.elements[part] += a.size // a.shape[axis]
        self.noise[part] += noise.sum(others)
        self.power[part] += squares.sum(others)
        self.low[part] = np.minimum(self.low[part], a.min(others))
        self.high[part] = np.maximum(self.high[part], a.max(others))

    @property
    def mean_power(self) -> Vector:
        """Power per element of each index."""
        return self.power / np.maximum(self.elements, 1)

    def distance(self, index: int) -> Distance:
        """Elements, noise and power of one index, with its problem if it has NaN or infinite values."""
        noise, power, elements = float(self.noise[index]), float(self.power[index]), int(self.elements[index])
        if math.isfinite(noise) and math.isfinite(power):
            return Distance(elements, noise=noise, power=power)
        return Distance(problem="it has NaN or infinite values", broken=math.isfinite(power))


@dataclass
class Slices:
    """One output of two models, summed over samples; no sample is kept.

    `shape`: of the first sample; None without any float sample. `axes`: axis → sums per index, for every axis but the batch that
    has the same size, over 1, in all samples.
    """

    shape: tuple[int, ...] | None = None
    axes: dict[int, Sums] = field(default_factory=dict)

    def add(self, a: Array, b: Array) -> None:
        """Add one sample of both versions. Tensors that are empty, not floats, or of different shapes are left out."""
        if a.dtype.kind not in "fV" or b.dtype.kind not in "fV" or a.shape != b.shape or not a.size:
            return
        if self.shape is None:
            self.shape = a.shape
            self.axes = {axis: Sums.zeros(size) for axis, size in enumerate(a.shape) if axis and size > 1}
        same_rank = len(a.shape) == len(self.shape)
        self.axes = {axis: s for axis, s in self.axes.items() if same_rank and a.shape[axis] == self.shape[axis]}
        if not self.axes:
            return
        longest = int(np.argmax(a.shape))
        step = max(1, BLOCK_ELEMENTS * a.shape[longest] // a.size)
        for start in range(0, a.shape[longest], step):
            part = slice(start, min(start + step, a.shape[longest]))
            at = (slice(None),) * longest + (part,)
            self._add_block(longest, part, a[at].astype(np.float64), b[at].astype(np.float64))

    def _add_block(self, longest: int, part: slice, a: Vector, b: Vector) -> None:
        with np.errstate(invalid="ignore", over="ignore"):
            squares, noise = a**2, (a - b) ** 2
            for axis, sums in self.axes.items():
                sums.add(part if axis == longest else slice(None), axis, a, squares, noise)

    @property
    def axis(self) -> int | None:
        """The axis of the slices; None if no axis counts channels, classes or attributes."""
        if self.shape is None:
            return None
        return slice_axis(self.shape, {axis: sums.mean_power for axis, sums in self.axes.items()})


def slice_axis(shape: Sequence[int], powers: Mapping[int, Vector]) -> int | None:
    """The axis whose indices are channels, classes or box attributes; None if none is, or the sizes do not tell.

    `powers`: power per element of each index, for the axes that may be sliced. Axis 0 is the batch.

    1. Only one axis has several indices: it is sliced in N×C, N×C×1×1 and N×1×1×C. In N×P×1 and the like it may count positions.
    2. An image of one channel, N×1×H×W or N×H×W×1, has no slices.
    3. Axes of SMOOTH_AXIS indices and more whose power changes smoothly count positions.
    4. Of the others with at most MOST_SLICES indices, it is the one along which the power varies most (standard deviation over
       mean). A longer axis that varies LONG_AXIS_FACTOR times as much holds the classes itself, and nothing is sliced.
    """
    last = len(shape) - 1
    live = [axis for axis in range(1, len(shape)) if shape[axis] > 1]
    if len(live) == 1 and (last == 2 or live[0] not in (1, last)):
        return None
    if last >= 3 and len(live) == 2 and 1 in (shape[1], shape[last]) and live[1] - live[0] == 1:
        return None
    spreads = {axis: spread(powers[axis]) for axis in live if axis in powers and not is_smooth(powers[axis])}
    short = [axis for axis in spreads if shape[axis] <= MOST_SLICES]
    found = max(short, key=lambda axis: spreads[axis], default=None)
    if found is None:
        return None
    longest = max((spreads[axis] for axis in spreads if axis not in short), default=0.0)
    return None if longest > LONG_AXIS_FACTOR * spreads[found] else found


def spread(power: Vector) -> float:
    """Standard deviation over mean; 0 for an axis without power, or with values that are not finite."""
    mean = float(power.mean())
    return float(power.std()) / mean if mean and math.isfinite(mean) else 0.0


def is_smooth(power: Vector) -> bool:
    """Whether neighbours are alike: their mean squared difference is at most SMOOTH of the variance."""
    if power.size < SMOOTH_AXIS or not np.isfinite(power).all() or not power.var():
        return False
    return float((np.diff(power) ** 2).mean() / power.var()) <= SMOOTH


@dataclass(frozen=True)
class JudgedSlices:
    """The slices of one output along `axis`: sums per index, and which of them carry signal."""

    output: str
    axis: int
    sums: Sums
    carries: NDArray[np.bool_]

    @property
    def worst(self) -> WorstSlice | None:
        """The slice with the lowest SQNR that carries signal; None if none does, or all of them are equal in both models."""
        indices = [int(i) for i in np.flatnonzero(self.carries) if math.isfinite(float(self.sums.noise[i] + self.sums.power[i]))]
        levels = {i: sqnr_db(float(self.sums.power[i]), float(self.sums.noise[i])) for i in indices}
        index = min(levels, key=lambda i: levels[i], default=None)
        if index is None or levels[index] == math.inf:
            return None
        return WorstSlice(self.output, self.axis, index, levels[index])


def judged(outputs: Mapping[str, Slices]) -> dict[str, JudgedSlices]:
    """Output → its slices, for each output of a model that has some.

    A slice carries signal if its power per element is at least SIGNAL_SHARE of the output's. So does a slice of a detector's
    scores: its values lie in 0..1 in the first model and reach SCORE, and either

    - the output is a table N×boxes×attributes or N×attributes×boxes, and other slices of it leave 0..1 (box coordinates); or
    - all values of the output lie in 0..1, and another output has 4, or a multiple of 4, values for each of its positions.

    NaN and infinite values carry signal too.
    """
    axes = {name: slices.axis for name, slices in outputs.items()}
    found = {}
    for name, axis in axes.items():
        slices = outputs[name]
        if axis is None or slices.shape is None or slices.axes[axis].elements[0] < FEWEST_ELEMENTS:
            continue
        sums = slices.axes[axis]
        boxed = any(has_boxes(other, slices.shape, axis) for key, other in outputs.items() if key != name)
        carries = sums.mean_power >= SIGNAL_SHARE * sums.power.sum() / sums.elements.sum()
        carries = (carries & (sums.power > 0)) | scores(sums, table=len(slices.axes) == 2 and len(slices.shape) == 3, boxed=boxed)
        found[name] = JudgedSlices(name, axis, sums, carries | ~np.isfinite(sums.noise + sums.power))
    return found


def scores(sums: Sums, *, table: bool, boxed: bool) -> NDArray[np.bool_]:
    """Which slices hold a detector's scores (`judged`). `table`: the output has a row per box. `boxed`: another has the boxes."""
    inside = (sums.low >= 0) & (sums.high <= 1)
    detects = boxed if inside.all() else table
    return inside & (sums.high >= SCORE) & detects


def has_boxes(other: Slices, shape: Sequence[int], axis: int) -> bool:
    """Whether `other` has 4 values, or a multiple of 4, for each position of an output whose classes are on `axis`."""
    if other.shape is None:
        return False
    positions = [size for at, size in enumerate(shape) if at != axis]
    return math.prod(positions) > 1 and any(
        size % 4 == 0 and [s for at, s in enumerate(other.shape) if at != attributes] == positions
        for attributes, size in enumerate(other.shape)
        if attributes
    )
