"""What each input of a model gets from data: shape, range, mean, and what is odd about it. Samples are read one by one."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from onnxsparse.calibration.data import check_first
from onnxsparse.calibration.images import CHANNEL_AXES, CHANNEL_COUNTS, ImageFiles
from onnxsparse.ir.binding import Shape
from onnxsparse.ir.weights import Array
from onnxsparse.progress import tell
from onnxsparse.runtime.samples import Samples

INSPECTED = 256
"""Largest number of samples that are read."""

MOST_CHANNELS = 16
"""Largest number of channels that are shown one by one."""

LARGEST_NORMALISED = 16.0
"""Normalised pixels are below this; pixels from 0 to 255 are above it somewhere."""


@dataclass(frozen=True)
class Spread:
    """Extremes, mean and standard deviation of the finite values; None if there are none, or doubles cannot hold them."""

    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None


@dataclass(frozen=True)
class Moments:
    """What a spread is computed from: number of finite values, mean, sum of squared distances from it, extremes."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def __add__(self, other: "Moments") -> "Moments":
        """Those of both sets of values. Source: Chan, Golub, LeVeque 1979."""
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        squares = self.squares + other.squares + apart * apart * (self.count * other.count / count)
        return Moments(count, mean, squares, min(self.low, other.low), max(self.high, other.high))

    @property
    def spread(self) -> Spread:
        """The same for people."""
        if not self.count:
            return Spread(None, None, None, None)
        found = (self.low, self.high, self.mean, math.sqrt(self.squares / self.count))
        return Spread(*(value if math.isfinite(value) else None for value in found))


def moments(values: Array) -> Moments:
    """The moments of the finite values of a float64 array."""
    kept = values[np.isfinite(values)]
    if not kept.size:
        return Moments()
    with np.errstate(over="ignore", invalid="ignore"):  # doubles near their largest: the spread is then None
        mean = kept.mean()
        return Moments(kept.size, float(mean), float(np.square(kept - mean).sum()), float(kept.min()), float(kept.max()))


@dataclass(frozen=True)
class InputFacts:
    """What one input gets.

    `shape`: of each sample; None where samples differ. `values`: over all elements; `channels`: the same for each channel, empty
    for an input without channels or with too many. `nan_share`, `infinite_share`: shares of the elements. `equal_to_first`:
    number of samples that equal the first, which is not counted. `hints`: what is odd, in words.
    """

    name: str
    shape: Shape
    dtype: str
    samples: int
    values: Spread
    channels: tuple[Spread, ...]
    nan_share: float
    infinite_share: float
    equal_to_first: int
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataFacts:
    """What data gives to a model. `source`: where it is from. `samples`: their number; `inspected`: how many were read."""

    source: str
    samples: int
    inspected: int
    inputs: tuple[InputFacts, ...]

    def to_json(self) -> dict[str, object]:
        """The facts for a JSON document."""
        return asdict(self)


@dataclass
class Tally:
    """Facts about one input, as samples come. `axis`: of the channels, None for an input without any."""

    first: Array
    axis: int | None
    sizes: list[int | None] = field(init=False)
    channels: list[Moments] = field(init=False)
    samples: int = 0
    elements: int = 0
    nans: int = 0
    infinite: int = 0
    equal: int = 0

    def __post_init__(self) -> None:
        self.sizes = list(self.first.shape)
        self.channels = [Moments()] * (1 if self.axis is None else self.first.shape[self.axis])

    def add(self, array: Array) -> None:
        """Count one more sample."""
        values = array.astype(np.float64)
        if self.axis is not None and array.shape[self.axis] != len(self.channels):  # where the model takes any number of them
            self.channels, self.axis = [sum(self.channels, Moments())], None
        rows = [values] if self.axis is None else np.moveaxis(values, self.axis, 0)
        self.channels = [sum_ + moments(row) for sum_, row in zip(self.channels, rows, strict=True)]
        self.sizes = [size if size == new else None for size, new in zip(self.sizes, array.shape, strict=True)]
        # bits and not values: NaN equals NaN
        self.equal += bool(self.samples) and array.shape == self.first.shape and array.tobytes() == self.first.tobytes()
        self.samples += 1
        self.elements += values.size
        self.nans += int(np.isnan(values).sum())
        self.infinite += int(np.isinf(values).sum())

    def facts(self, name: str) -> InputFacts:
        """What was counted."""
        each = tuple(one.spread for one in self.channels) if self.axis is not None else ()
        every = sum(self.channels, Moments()).spread
        return InputFacts(
            name=name,
            shape=tuple(self.sizes),
            dtype=str(self.first.dtype),
            samples=self.samples,
            values=every,
            channels=each,
            nan_share=self.nans / max(self.elements, 1),
            infinite_share=self.infinite / max(self.elements, 1),
            equal_to_first=self.equal,
            hints=tuple(self._hints(every)),
        )

    def _hints(self, values: Spread) -> list[str]:
        found = []
        if self.samples > 1 and self.equal == self.samples - 1:
            found.append(f"all {self.samples} samples are equal")
        for count, what in ((self.nans, "NaN"), (self.infinite, "infinite")):
            if count:
                found.append(f"{count} of {self.elements} values are {what}")
        if self._like_pixels(values):
            found.append(f"floats up to {values.maximum:g} look like pixels; most models take 0 to 1, or values around 0")
        return found

    def _like_pixels(self, values: Spread) -> bool:
        image = self.axis is not None and self.first.shape[self.axis] in CHANNEL_COUNTS
        if not image or self.first.dtype.kind != "f" or values.minimum is None or values.maximum is None:
            return False
        return values.minimum >= 0 and LARGEST_NORMALISED < values.maximum <= 255


def inspect_data(samples: Samples) -> DataFacts:
    """What each input gets from the first INSPECTED samples.

    Raises ModelError if there are no samples, or one of them cannot be read or does not fit the model.
    """
    check_first(samples)
    inspected = min(len(samples), INSPECTED)
    tallies: dict[str, Tally] = {}
    for number, feeds in enumerate(samples.pick(range(inspected))):
        tell("reading samples", number, inspected)
        for name, array in feeds.items():
            if name not in tallies:
                tallies[name] = Tally(array, channel_axis(samples, array.shape))
            tallies[name].add(array)
    facts = tuple(tally.facts(name) for name, tally in tallies.items())
    return DataFacts(samples.source, len(samples), inspected, facts)


def channel_axis(samples: Samples, shape: Sequence[int]) -> int | None:
    """Axis of the channels of an input of this shape, at most MOST_CHANNELS; None for an input without any.

    Images know it. Of arrays, axis 1 is taken if it has the channels of an image, then axis 3, then any of both with few
    channels.
    """
    if isinstance(samples.whole, ImageFiles):
        return CHANNEL_AXES[samples.whole.layout]
    if len(shape) != 4:
        return None
    for counts in (CHANNEL_COUNTS, range(1, MOST_CHANNELS + 1)):
        for axis in CHANNEL_AXES.values():
            if shape[axis] in counts:
                return axis
    return None
