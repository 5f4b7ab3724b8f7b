"""Ranges of activations by what the outputs feel: of several ranges, the one that costs the outputs and slices least.

1. Of several rules for all activations, take the one with which the quantized model is best (`felt_rule`).
2. The noise that each activation alone adds to the outputs is known, with its range by that rule (`output_noise`).
3. The activations that add most where there is most of it are measured again, with each of the other ranges.
4. The loudest first, each takes the range with which the noise of all, squared and summed over outputs and slices, is least.

The ranges are judged on samples on which they were not found, so that it is felt what they clip.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxsparse.calibration.methods import RULES, Method, Range, RangeMethod, by_histogram, percentile_range, range_method
from onnxsparse.progress import tell
from onnxsparse.quantization.accuracy.heard import Heard
from onnxsparse.quantization.accuracy.output_noise import Folds, Measuring, Ratios, Tensor
from onnxsparse.quantization.activation_ranges import Calibration
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.plan.scales import Choices
from onnxsparse.quantization.write.grid import Floats
from onnxsparse.runtime.samples import Samples

RANGES = (
    RULES["minmax"],
    RULES["fourth power"],
    RangeMethod(by_histogram(lambda histogram, seen: percentile_range(histogram, 99.99, symmetric=seen.levels.symmetric))),
    RangeMethod(by_histogram(lambda histogram, seen: percentile_range(histogram, 99.9, symmetric=seen.levels.symmetric))),
)
"""The ranges that are tried, beside the one that an activation has: with more clipping, and with less."""

MOST_TRIED = 24
"""Activations that are tried with other ranges, at most."""

LEAST_SHARE = 0.002
"""Share of the noise of one of the worst outputs or slices from which on an activation is tried."""

ALIKE_DB = 2.0
"""Difference in SQNR of two rules that may be chance, since few samples are judged."""

WORST = 0.25
"""Share of the largest noise from which on an output or slice is one of the worst."""


@dataclass(frozen=True)
class Probing:
    """Measures what tensors cost the outputs of a placement.

    `choices`: of 8 bits, biases corrected. `weight_shifts`: addends of biases that correct for the weights alone.
    """

    calibration: Calibration
    placement: Placement
    choices: Choices
    weight_shifts: Mapping[int, Floats]
    heard: Heard

    def tensors(self, values: Collection[str] | None = None) -> list[Tensor]:
        """Weights, and activations by what stands for their scale (None: all), with ranges by the calibration's method."""
        found = [(own, replace(self.calibration, data=rest).run(self.placement).ranges) for own, rest in self._halves()]
        return self._measuring([found], values).run()[0]

    def felt(self, tensors: Sequence[Tensor]) -> tuple[dict[str, Range], list[Tensor]]:
        """Activation → its new range, for those that the outputs feel less with another one; and the tensors with them.

        Ranges that the user gave stay.
        """
        sources, data = self.placement.sources, self.calibration.data
        tried = [each for each in loudest_activations(tensors) if not self.calibration.given.keys() & {*sources[each.name]}]
        names = [name for each in tried for name in sources[each.name]]
        if not names or data is None:
            return {}, list(tensors)
        halves = [(own, self.calibration.choices(self.placement, names, RANGES, rest)) for own, rest in self._halves()]
        folds = [[(own, ranges[number]) for own, ranges in halves] for number in range(len(RANGES))]
        measured = replace(self._measuring(folds, {each.name for each in tried}), weights=False).run()
        others = [{each.name: each for each in found} for found in measured]
        chosen = felt_least(tensors, tried, [{name: each.noise for name, each in other.items()} for other in others])
        whole = self.calibration.choices(self.placement, names, RANGES, data)
        ranges = {name: whole[number][name] for root, number in chosen.items() for name in sources[root]}
        quieter = {name: others[number][name] for name, number in chosen.items()}
        return ranges, [each if each.is_weight else quieter.get(each.name, each) for each in tensors]

    def _halves(self) -> list[tuple[list[int], Samples]]:
        """Both halves of the probed samples and others on which ranges are found; all and all if they are few."""
        return list(self.heard.halves()) or [([*range(len(self.heard.probed))], self.heard.samples)]

    def _measuring(self, ranges: Sequence[Folds], values: Collection[str] | None) -> Measuring:
        budget_bytes = self.calibration.budget_bytes
        return Measuring(self.placement, self.choices, self.weight_shifts, self.heard.probed, budget_bytes, ranges, values)


def felt_rule(
    calibration: Calibration, placement: Placement, heard: Heard, quality: Callable[[Mapping[str, Range]], float | None]
) -> Calibration:
    """The calibration with another rule of RULES, if that is better on the judged samples, with ranges found on the others.

    `quality`: the SQNR in dB with some ranges, of the worst output or slice of those samples. Its own rule comes first, then
    those of RULES: the first one is taken that is at most ALIKE_DB below the best.
    """
    names = [name for name in placement.calibrated if name not in calibration.given]
    if not names or not len(heard.judged):
        return calibration
    rules = dict.fromkeys((calibration.method, *RULES))
    ranges = calibration.choices(placement, names, [range_method(rule) for rule in rules], heard.others)
    levels = dict[Method, float]()
    for number, (rule, found) in enumerate(zip(rules, ranges, strict=True)):
        tell("rules for ranges", number, len(rules))
        level = quality(found)
        levels[rule] = -math.inf if level is None else level
    best = max(levels.values())
    return replace(calibration, method=next(rule for rule, level in levels.items() if level >= best - ALIKE_DB))


def loudest_activations(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The activations that are tried, those first that add most to one of the worst outputs or slices."""
    total = noise_of_all(tensors)
    worst = (total > 0) & (total >= WORST * total.max(initial=0.0))
    shares = ((float((each.noise / total)[worst].max(initial=0.0)), each) for each in tensors if not each.is_weight)
    found = sorted((pair for pair in shares if pair[0] >= LEAST_SHARE), key=lambda pair: -pair[0])
    return [each for _, each in found[:MOST_TRIED]]


def noise_of_all(tensors: Sequence[Tensor]) -> Ratios:
    """The noise of each output and slice, if that of all tensors adds up."""
    found: Ratios = np.sum([each.noise for each in tensors], axis=0)
    return found


def felt_least(tensors: Sequence[Tensor], tried: Sequence[Tensor], others: Sequence[Mapping[str, Ratios]]) -> dict[str, int]:
    """Activation → the number of the range that it takes, for those of `tried` that do not keep their own.

    `others`: for each range, the noise of the activations of `tried` with it.
    """
    total, found = noise_of_all(tensors), dict[str, int]()
    for each in tried:
        left = [total - each.noise + noise[each.name] for noise in others]
        best = min(range(len(left)), key=lambda number: float(np.square(left[number]).sum()))
        if np.square(left[best]).sum() < np.square(total).sum():
            found[each.name], total = best, left[best]
    return found
