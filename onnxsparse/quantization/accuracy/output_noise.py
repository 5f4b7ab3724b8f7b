"""What quantizing each tensor alone costs the outputs of a model.

1. Run the float model over a few samples, segment by segment (`calibration.walk`).
2. Behind the node that makes a scaled activation, round the activation to its 8-bit integers, and run the rest in floats. Before
   the first node that reads a weight, do the same with the weight. Biases are corrected for the mean error of this tensor.
3. The noise of the outputs over their power, for each output and each slice that is judged, is what the tensor alone costs.

Noise of small, unrelated errors adds up, so that the sums over tensors predict the whole model.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxsparse.calibration.methods import Range
from onnxsparse.calibration.walk import Values, Walk
from onnxsparse.ir.weights import Array
from onnxsparse.progress import tell
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.plan.scales import Choices, WeightScale, value_scales
from onnxsparse.quantization.plan.units import Unit
from onnxsparse.quantization.write.grid import Floats
from onnxsparse.quantization.write.qdq import write_integers
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.slices import Slices, judged

LARGEST_RATIO = 1e6
"""Ratio of noise to power that stands for outputs that are not finite."""

Ratios = NDArray[np.float64]

Probe = tuple[int, str, WeightScale | None]
"""The node before which an activation is known or a weight is read first, its name, and a weight's scale."""

Folds = Sequence[tuple[Sequence[int], Mapping[str, Range]]]
"""Numbers of samples, and ranges that were found without them, so that it is felt what they clip."""

Changes = dict[str, Callable[[Array], Array]]
"""Activation, weight or bias → what takes its place."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """Activations that share a scale, by the value that stands for it, or one stored weight.

    `owner`: root of the unit that makes the activation or uses the weight first. An input or a result of a float op counts for
    its first reader; None without one. `readers`: roots of the units that read it.
    `noise`: noise over power of each output and judged slice if this tensor alone has 8 bits.
    """

    name: str
    is_weight: bool
    owner: int | None
    noise: Ratios
    readers: tuple[int, ...] = ()

    def beside(self, other: "Tensor") -> "Tensor":
        """Both as one, of activations that share a scale, or uses of a weight."""
        return replace(self, noise=self.noise + other.noise, readers=self.readers + other.readers)


@dataclass(frozen=True)
class Outputs:
    """The outputs of the float model by sample, and for each that counts the axis and indices of the slices that are judged.

    Float outputs count; integers and booleans do if there is no other: how many of their elements change.
    """

    values: Sequence[Values]
    parts: Mapping[str, tuple[int, NDArray[np.intp]] | None]

    @classmethod
    def of(cls, values: Sequence[Values]) -> "Outputs":
        """From what the float model says of each sample."""
        floats = [name for name, array in values[0].items() if array.dtype.kind == "f" and any(v[name].any() for v in values)]
        others = [name for name, array in values[0].items() if array.dtype.kind in "iub" and array.size]
        sums = {name: Slices() for name in floats or others}
        for each in values:
            for name, own in sums.items():
                own.add(each[name], each[name])
        found = judged(sums)
        kept = {name: np.flatnonzero(found[name].carries & (found[name].sums.power > 0)) for name in found}
        return cls(values, {name: (found[name].axis, kept[name]) if name in found else None for name in sums})

    def ratios(self, others: Sequence[Values]) -> Ratios:
        """Noise over power of each whole output and each judged slice, over all samples; 1 for an output of another shape."""
        found: list[Ratios] = []
        for name, part in self.parts.items():
            pairs = [as_numbers(a[name], b[name]) for a, b in zip(self.values, others, strict=True)]
            sliced = None if part is None else part[0]
            noise = np.sum([sums((a - b) ** 2, sliced) for a, b in pairs], axis=0)
            power = np.sum([sums(a**2, sliced) for a, _ in pairs], axis=0)
            found.append(np.atleast_1d(noise.sum() / power.sum()))
            if part is not None:
                found.append(noise[part[1]] / power[part[1]])
        return finite(np.concatenate([np.zeros(0), *found]))


def as_numbers(a: Array, b: Array) -> tuple[Floats, Floats]:
    """Both versions of an output; of integers, ones and where they agree. Zeros for a second one of another shape."""
    numbers = a.astype(np.float64) if a.dtype.kind == "f" else np.ones(a.shape)
    if a.shape != b.shape:
        return numbers, np.zeros(a.shape)
    return numbers, b.astype(np.float64) if a.dtype.kind == "f" else (a == b).astype(np.float64)


def finite(ratios: Ratios) -> Ratios:
    """LARGEST_RATIO in place of what is not finite."""
    found: Ratios = np.nan_to_num(ratios, nan=LARGEST_RATIO, posinf=LARGEST_RATIO)
    return found


def sums(squares: Ratios, axis: int | None) -> Ratios:
    """Sums for each index along `axis`, or one sum."""
    found: Ratios = squares.sum(tuple(at for at in range(squares.ndim) if at != axis)).reshape(-1)
    return found


@dataclass
class Measuring:
    """Measures every activation scale and every weight of a placement.

    `choices`: of 8 bits, biases corrected. `weight_shifts`: addends of biases that correct for the weights alone. `ranges`: one
    or more sets of ranges for activations. `values`: the activations to measure, by what stands for their scale; None: all.
    `weights`: whether weights are measured.
    """

    placement: Placement
    choices: Choices
    weight_shifts: Mapping[int, Floats]
    samples: Samples
    budget_bytes: int
    ranges: Sequence[Folds]
    values: Collection[str] | None = None
    weights: bool = True

    def run(self) -> list[list[Tensor]]:
        """For each set of ranges, all tensors in the order of their first use.

        Raises ModelError and BackendError as `Walk` does.
        """
        model = self.placement.anatomy.model
        self.walk = Walk(model, self.samples, self.budget_bytes)
        self.reference = Outputs.of(self.walk.outputs(model))
        choices = self.choices
        self.scales = [
            [
                (numbers, value_scales(self.placement, replace(choices, ranges={**choices.ranges, **own})))
                for numbers, own in folds
            ]
            for folds in self.ranges
        ]
        weights = self._weights() if self.weights else ()
        probes: list[Probe] = sorted([*self._activations(), *weights], key=lambda probe: probe[0])
        found: list[dict[tuple[str, bool], Tensor]] = [{} for _ in self.ranges]
        for number, (at, name, scale) in enumerate(probes):
            tell("noise of each tensor", number, len(probes))
            self.walk.advance(at)
            measured = self._activation(name) if scale is None else [self._weight(name, scale)] * len(found)
            for held, each in zip(found, measured, strict=True):
                key = (each.name, each.is_weight)
                held[key] = each if key not in held else held[key].beside(each)
        return [list(held.values()) for held in found]

    def _activations(self) -> Iterator[Probe]:
        """Those whose own values are rounded; others follow."""
        producers = self.placement.anatomy.graph.producers
        for name in self.placement.calibrated:
            if self.values is not None and self.placement.scaled[name] not in self.values:
                continue
            producer = producers.get(name)
            yield (0 if producer is None else producer + 1), name, None

    def _weights(self) -> Iterator[Probe]:
        """Those that are quantized here."""
        written = write_integers(self.placement, self.choices)
        for name, scale in written.weights.items():
            yield min(self.placement.anatomy.readers(name)), name, scale

    def _users(self, name: str) -> list[Unit]:
        return [unit for unit in self.placement.units if any(w.stored.name == name for w in unit.weights)]

    def _activation(self, name: str) -> list[Tensor]:
        """For each set of ranges, what it costs if an activation alone is rounded."""
        nodes, changes = self.placement.anatomy.nodes, Changes()
        readers = [unit for unit in self.placement.units if name in (nodes[unit.root].input[at] for at in unit.activations)]
        for unit in readers:
            both, weights = self.choices.bias_shifts.get(unit.root), self.weight_shifts.get(unit.root)
            changes |= self._shifted(unit, None if both is None or weights is None else both - weights)
        makers = (unit.root for unit in self.placement.units if unit.exit == name)
        owner = next(makers, min((unit.root for unit in readers), default=None))
        last = max((unit.root for unit in readers), default=self.walk.at)
        cases = [(number, scales[name]) for folds in self.scales for numbers, scales in folds for number in numbers]
        numbers = [number for number, _ in cases]
        outputs = iter(self._outputs(changes, last, numbers, [{name: scale.rounded} for _, scale in cases]))
        roots, found = tuple(unit.root for unit in readers), []
        for folds in self.scales:
            own = dict(zip((number for numbers, _ in folds for number in numbers), outputs, strict=False))
            noise = self.reference.ratios([own[number] for number in sorted(own)])
            found.append(Tensor(self.placement.scaled[name], False, owner, noise, roots))
        return found

    def _weight(self, name: str, scale: WeightScale) -> Tensor:
        """What it costs if a weight alone is rounded."""
        users = self._users(name)
        changes: Changes = {name: scale.rounded}
        for unit in users:
            changes |= self._shifted(unit, self.weight_shifts.get(unit.root))
        roots, numbers = tuple(unit.root for unit in users), range(len(self.walk.values))
        noise = self.reference.ratios(self._outputs(changes, max(roots), numbers, [{}] * len(numbers)))
        return Tensor(name, True, min(roots), noise, roots)

    def _outputs(self, changes: Changes, last: int, numbers: Sequence[int], replaced: Sequence[Changes]) -> list[Values]:
        """The outputs of some samples with changed values and weights. `last`: the last node that reads a changed weight.

        `replaced`: further values for each of the samples.
        """
        variant = self.walk.model.copy()
        for stored in changes.keys() - self.walk.values[0].keys():  # a bias that a node copies has been copied already
            variant.weights[stored] = changes.pop(stored)(variant.weights[stored])
        return self.walk.outputs(variant, numbers, changed=last, replaced=[{**changes, **own} for own in replaced])

    def _shifted(self, unit: Unit, shift: Floats | None) -> Changes:
        """A unit's bias as its node reads it → that with a shift; empty without."""
        if shift is None or unit.bias_at is None:
            return {}

        def shifted(held: Array) -> Array:
            result: Array = (held.astype(np.float64) + shift.reshape(held.shape)).astype(held.dtype)
            return result

        return {self.placement.anatomy.nodes[unit.root].input[unit.bias_at]: shifted}
