"""Rounding of weights by what it does to the outputs of their layers, in the order of the model.

The float model and the quantized model as rounded so far run side by side. At each layer:

1. Sum the moments of both inputs, at the same positions; the wanted outputs are the float layer's.
2. Below 8 bits, choose scales: clipping the largest weights may cost the outputs less than coarse steps.
3. Find integers that are best for the layer's own weights, and integers that are best for weights that make up for the error of
   earlier layers (`second_order`). The bias takes the mean of the layer's own error, or of all error.
4. On samples that nothing was learned from, compute the outputs with each of these and with the nearest integers; the best stays.

Without step 4, few samples mislead: EfficientNet-Lite0 has 58 samples for the 1280 columns of its last layer, and a model that
makes up for all earlier error has 17 dB there, where the nearest integers have 21 and the choice on held-out samples has 24.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from threadpoolctl import threadpool_limits

from onnxsparse.calibration.positions import Inputs
from onnxsparse.ir.array_types import Floats, Indices, Singles
from onnxsparse.progress import tell
from onnxsparse.quantization.accuracy.rounded_layers import Layer, Pair, find_layers
from onnxsparse.quantization.accuracy.second_order import Steps, rounded
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.plan.scales import Choices, ValueScale
from onnxsparse.quantization.write.qdq import write_integers
from onnxsparse.quantization.write.weights import Quantized, quantize_bias
from onnxsparse.runtime.samples import Samples

POSITIONS = 24_000
"""Output positions of a layer from which its moments are summed, over all samples."""

MOST_BYTES = 32 * 10**6
"""Largest size of the sampled inputs of one layer, in bytes."""

PARTS = 16
"""Parts of a layer's positions that are float64 one after the other."""

JUDGED_POSITIONS = 4_000
"""Output positions of a layer at which integers are judged, over all samples."""

FEWEST_JUDGED = 3
"""Held-out samples from which on weights may make up for the error of earlier layers."""

RIDGE = 1e-3
"""Pull of refitted weights to the layer's own, as a share of the mean second moment; more with few positions."""

CLIPPED = np.array([1.0, 0.9, 0.8, 0.7])
"""Shares of the range that are tried below 8 bits."""


@dataclass(frozen=True)
class Moments:
    """What a layer's inputs say: means (groups × columns × 1) and products of deviations (groups × columns × columns).

    `wanted`: in the float model, `given`: in the quantized one, `own`: in the float model, but rounded. Means are 0 where no bias
    can take them. `ridge`: the pull of refitted weights, groups × 1 × 1; `h` has it on its diagonal.
    """

    wanted: Floats
    given: Floats
    own: Floats
    h: Floats
    cross: Floats
    ridge: Floats

    @classmethod
    def of(cls, layer: Layer, pair: Pair, each: int) -> "Moments":
        """From the sampled positions of a pair."""
        sampled = list(pair.inputs(layer, each))
        shifts = layer.bias is not None
        own = None if layer.source is None or not shifts else rounded_mean(layer.source, sampled[0])
        # both versions of all columns are not held twice
        given, wanted = (Inputs.of(sampled.pop(), centre=shifts) for _ in range(2))
        h = given.moments()
        width = h.shape[1]
        few = max(1.0, 2 * width / given.count)
        level = np.diagonal(h, axis1=1, axis2=2).mean(1)
        ridge = RIDGE * few * np.where(level > 0, level, 1.0)[:, None]
        h[:, range(width), range(width)] += ridge
        means = [
            mean.swapaxes(1, 2).astype(np.float64) for mean in (wanted.mean, given.mean, wanted.mean if own is None else own)
        ]
        return cls(means[0], means[1], means[2], h, wanted.times(given), ridge[..., None])

    def refitted(self, weight: Floats) -> Floats:
        """The weights whose outputs, on the given inputs, are closest to those of `weight` on the wanted ones."""
        right = weight @ self.cross + weight * self.ridge
        found: Floats = np.linalg.solve(self.h, right.swapaxes(1, 2)).swapaxes(1, 2).astype(np.float64)
        return found


@dataclass(frozen=True)
class Candidate:
    """Integers and a scale (flat) of a layer's weight, the values for which they stand, and the addend of the bias, by row."""

    integers: Floats
    scale: Floats
    values: Floats
    shift: Floats


@dataclass
class Rounding:
    """Rounds all layers of a placement. `choices`: ranges, widths and bias shifts for the nearest integers."""

    placement: Placement
    choices: Choices
    learned: Samples
    judged: Samples
    budget_bytes: int
    correct_bias: bool = True
    found: dict[str, Quantized] = field(default_factory=dict)
    shifts: dict[int, Floats] = field(default_factory=dict)

    def run(self) -> Choices:
        """The choices with integers for every layer that can be rounded, and new shifts of their biases."""
        self.written = write_integers(self.placement, self.choices)
        pairs = [
            Pair.over(samples, self.placement, self.written, self.budget_bytes // 16) for samples in (self.learned, self.judged)
        ]
        layers = list(find_layers(self.placement, self.written, self.correct_bias))
        for number, layer in enumerate(layers):
            tell("rounding weights", number, len(layers))
            for pair in pairs:
                pair.advance(layer, self.written)
            self._store(layer, self._best(layer, *pairs))
        return replace(self.choices, rounded=self.found, bias_shifts={**self.choices.bias_shifts, **self.shifts})

    def _best(self, layer: Layer, learned: Pair, judged: Pair) -> Candidate:
        """Steps 1 to 4 of the head of this file."""
        candidates = list(self._candidates(layer, Moments.of(layer, learned, positions_each(layer, learned, POSITIONS))))
        wanted, given = judged.inputs(layer, positions_each(layer, judged, JUDGED_POSITIONS))
        noise = np.zeros(len(candidates))
        for want, get in zip(
            *(np.array_split(columns.swapaxes(1, 2), PARTS, axis=2) for columns in (wanted, given)), strict=True
        ):
            target = layer.weight @ want
            noise += [float(((target - one.values @ get - one.shift) ** 2).sum()) for one in candidates]
        return candidates[int(np.argmin(noise))]

    def _candidates(self, layer: Layer, moments: Moments) -> Iterator[Candidate]:
        """The nearest integers first."""
        weight, places = layer.weight, layer.scale_places
        grid, scale = layer.scale.grid, layer.scale.scale.reshape(-1)
        steps = Steps(scale[places], grid.low, grid.high, weight != 0)
        rows = weight.shape[:2]
        before = self.choices.bias_shifts.get(layer.unit.root, np.zeros(rows)).reshape(*rows, 1)
        nearest = steps.nearest(weight)
        yield Candidate(nearest, scale, nearest * steps.scale, before)
        if grid.bits < 8:
            scale = grid.rounded(scale * best_share(weight, moments.h, steps, places, scale.size))
            steps = replace(steps, scale=scale[places])
        # weights that make up for earlier error follow the samples, which few held-out ones do not reveal
        follows = len(self.judged) >= FEWEST_JUDGED
        for target in (weight, moments.refitted(weight)) if follows else (weight,):
            integers = rounded(target, moments.h, steps)
            values = integers * steps.scale
            for mean in (moments.own, moments.given):
                shift = weight @ moments.wanted - values @ mean
                yield Candidate(integers, scale, values, shift if layer.bias is not None else np.zeros_like(shift))
                if layer.bias is None:
                    break

    def _store(self, layer: Layer, best: Candidate) -> None:
        """Record a layer's integers, and put them into the quantized model, whose later layers feel them."""
        root, scale = layer.unit.root, best.scale.reshape(layer.scale.scale.shape)
        found = self.found[layer.name] = Quantized(layer.tensor(best.integers), scale, layer.scale.sharing)
        self.written.replace(self.written.stored[layer.name], found)
        if layer.bias is not None and layer.source is not None:
            self.shifts[root] = best.shift.reshape(-1)
            bias = layer.bias.astype(np.float64) + best.shift.reshape(layer.bias.shape)
            self.written.replace(self.written.biases[root], quantize_bias(bias, layer.bias_scale(scale), layer.source.scale))


def positions_each(layer: Layer, pair: Pair, positions: int) -> int:
    """The number of positions of each sample, so that there are `positions` over all at most, and MOST_BYTES hold them."""
    groups, _, columns = layer.weight.shape
    most: int = min(positions, max(1, MOST_BYTES // (4 * groups * columns)))
    return max(1, -(-most // len(pair.floats.values)))


def rounded_mean(scale: ValueScale, columns: Singles) -> Floats:
    """The mean of rounded columns, groups × 1 × columns, in parts, since they are rounded as float64."""
    parts = np.array_split(columns, PARTS, axis=1)
    total: Floats = np.sum([scale.rounded(part).sum(1, keepdims=True, dtype=np.float64) for part in parts], axis=0)
    mean: Floats = total / columns.shape[1]
    return mean


def best_share(weight: Floats, h: Floats, steps: Steps, places: Indices, count: int) -> Floats:
    """The share of its range, for each of `count` scales, with which the nearest integers cost the outputs least.

    `places`: the scale of each element. What its error shares with others of the row counts half for each.
    """
    noise, spread = [], np.broadcast_to(places, weight.shape).reshape(-1)
    for share in CLIPPED:
        tried = replace(steps, scale=steps.scale * share)
        off = tried.nearest(weight) * tried.scale - weight
        noise.append(np.bincount(spread, ((off @ h) * off).reshape(-1), count))
    found: Floats = CLIPPED[np.argmin(noise, axis=0)]
    return found


def round_weights(
    placement: Placement, choices: Choices, learned: Samples, judged: Samples, budget_bytes: int, *, correct_bias: bool = True
) -> Choices:
    """The choices with integers that were rounded by what it does to the outputs of layers.

    `judged`: samples on which integers are compared, one or more. `correct_bias`: whether biases may change.
    """
    # sums depend on the number of threads
    with threadpool_limits(limits=1, user_api="blas"):
        return Rounding(placement, choices, learned, judged, budget_bytes, correct_bias).run()
