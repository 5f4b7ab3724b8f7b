"""What quantizing each tensor alone costs the outputs of a model.

1. Run the float model over a few samples, segment by segment (`calibration.walk`).
2. Behind the node that makes a scaled activation, round the activation to its 8-bit integers, and run the rest in floats. Before
   the first node that reads a weight, do the same with the weight. Biases are corrected for the mean error of this tensor.
3. The noise of the outputs over their power, for each output and each slice that is judged, is what the tensor alone costs.

Noise of small, unrelated errors adds up, so that the sums over tensors predict the whole model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxsparse.calibration.walk import Values, Walk
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array
from onnxsparse.progress import tell
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.plan.scales import Choices, WeightScale, value_scales
from onnxsparse.quantization.plan.units import Unit
from onnxsparse.quantization.write.grid import Floats
from onnxsparse.quantization.write.qdq import write_integers
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import runner
from onnxsparse.runtime.slices import Slices, judged

PROBED_SAMPLES = 4
"""Samples on which each tensor is probed; the rest of the model runs once for each of them and each tensor."""

HEARD_SAMPLES = 32
"""Samples among which those are chosen, evenly spaced."""

LARGEST_RATIO = 1e6
"""Ratio of noise to power that stands for outputs that are not finite."""

Ratios = NDArray[np.float64]

Probe = tuple[int, str, WeightScale | None]
"""The node before which an activation is known or a weight is read first, its name, and a weight's scale."""

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


def loudest(model: Model, samples: Samples) -> Samples:
    """The PROBED_SAMPLES samples whose outputs have most power, each output alike, in their order.

    On the others, a detector finds next to nothing, and what it feels there says nothing.
    """
    heard = samples.every(max(1, -(-len(samples) // HEARD_SAMPLES)))
    running, rows = runner(model), []
    for feeds in heard:
        found = running.run(feeds)
        rows.append([float(np.square(a, dtype=np.float64).sum()) for a in found.values() if a.dtype.kind == "f"])
    power = finite(np.array(rows))
    level = (power / np.maximum(power.sum(0), np.finfo(np.float64).tiny)).sum(1)
    return heard.pick(sorted(np.argsort(-level, kind="stable")[:PROBED_SAMPLES].tolist()))


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

    `choices`: of 8 bits, biases corrected. `weight_shifts`: addends of biases that correct for the weights alone. `folds`:
    numbers of samples, and choices with ranges that were found without them, so that what clips unseen values is seen.
    """

    placement: Placement
    choices: Choices
    weight_shifts: Mapping[int, Floats]
    samples: Samples
    budget_bytes: int
    folds: Sequence[tuple[Sequence[int], Choices]]

    def run(self) -> list[Tensor]:
        """All tensors, in the order of their first use. Raises ModelError and BackendError as `Walk` does."""
        model = self.placement.anatomy.model
        self.walk = Walk(model, self.samples, self.budget_bytes)
        self.reference = Outputs.of(self.walk.outputs(model))
        self.scales = [(numbers, value_scales(self.placement, choices)) for numbers, choices in self.folds]
        probes: list[Probe] = sorted([*self._activations(), *self._weights()], key=lambda probe: probe[0])
        found: dict[tuple[str, bool], Tensor] = {}
        for number, (at, name, scale) in enumerate(probes):
            tell("noise of each tensor", number, len(probes))
            self.walk.advance(at)
            owner, readers, outputs = self._activation(name) if scale is None else self._weight(name, scale)
            key = (self.placement.scaled[name], False) if scale is None else (name, True)
            noise = self.reference.ratios(outputs)
            before = found.get(key)
            found[key] = (
                Tensor(*key, owner, noise, readers)
                if before is None
                else replace(before, noise=before.noise + noise, readers=before.readers + readers)
            )
        return list(found.values())

    def _activations(self) -> Iterator[Probe]:
        """Those whose own values are rounded; others follow."""
        producers = self.placement.anatomy.graph.producers
        for name in self.placement.calibrated:
            producer = producers.get(name)
            yield (0 if producer is None else producer + 1), name, None

    def _weights(self) -> Iterator[Probe]:
        """Those that are quantized here."""
        written = write_integers(self.placement, self.choices)
        for name, scale in written.weights.items():
            yield min(self.placement.anatomy.readers(name)), name, scale

    def _users(self, name: str) -> list[Unit]:
        return [unit for unit in self.placement.units if any(w.stored.name == name for w in unit.weights)]

    def _activation(self, name: str) -> tuple[int | None, tuple[int, ...], list[Values]]:
        """The owner and the readers of an activation, and the outputs if it alone is rounded."""
        nodes, changes = self.placement.anatomy.nodes, Changes()
        readers = [unit for unit in self.placement.units if name in (nodes[unit.root].input[at] for at in unit.activations)]
        for unit in readers:
            both, weights = self.choices.bias_shifts.get(unit.root), self.weight_shifts.get(unit.root)
            changes |= self._shifted(unit, None if both is None or weights is None else both - weights)
        makers = (unit.root for unit in self.placement.units if unit.exit == name)
        owner = next(makers, min((unit.root for unit in readers), default=None))
        last = max((unit.root for unit in readers), default=self.walk.at)
        outputs: dict[int, Values] = {}
        for numbers, scales in self.scales:
            outputs |= zip(numbers, self._outputs({**changes, name: scales[name].rounded}, last, numbers), strict=True)
        return owner, tuple(unit.root for unit in readers), [outputs[at] for at in sorted(outputs)]

    def _weight(self, name: str, scale: WeightScale) -> tuple[int, tuple[int, ...], list[Values]]:
        """The owner and the readers of a weight, and the outputs if it alone is rounded."""
        users = self._users(name)
        changes: Changes = {name: scale.rounded}
        for unit in users:
            changes |= self._shifted(unit, self.weight_shifts.get(unit.root))
        root = [unit.root for unit in users]
        return min(root), tuple(root), self._outputs(changes, max(root))

    def _outputs(self, changes: Changes, last: int, numbers: Sequence[int] | None = None) -> list[Values]:
        """The outputs of some samples with changed values and weights. `last`: the last node that reads a changed weight."""
        variant = self.walk.model.copy()
        for stored in changes.keys() - self.walk.values[0].keys():  # a bias that a node copies has been copied already
            variant.weights[stored] = changes.pop(stored)(variant.weights[stored])
        return self.walk.outputs(variant, numbers, changed=last, replaced=changes)

    def _shifted(self, unit: Unit, shift: Floats | None) -> Changes:
        """A unit's bias as its node reads it → that with a shift; empty without."""
        if shift is None or unit.bias_at is None:
            return {}

        def shifted(held: Array) -> Array:
            result: Array = (held.astype(np.float64) + shift.reshape(held.shape)).astype(held.dtype)
            return result

        return {self.placement.anatomy.nodes[unit.root].input[unit.bias_at]: shifted}
