"""Which samples say most about the outputs: those on which they have power, each output and slice in turn.

On quiet samples, a detector finds next to nothing. What its outputs feel there, and their SQNR, says nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxsparse.ir.array_types import Floats
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array
from onnxsparse.runtime.samples import HELD_OUT, Samples, hold_out
from onnxsparse.runtime.session import runner
from onnxsparse.runtime.slices import SIGNAL_SHARE, JudgedSlices, Slices, judged

MOST_HEARD = 32
"""Samples, evenly spaced, that are compared."""

PROBED = 4
"""Samples on which each tensor is probed; the rest of the model runs once for each of them and each tensor."""

JUDGED = 12
"""Samples, at most, on which a change that follows from probing is judged."""

QUIET = 12
"""Other samples, at most, on which ranges are found that are judged on the probed ones."""


@dataclass(frozen=True)
class Heard:
    """Some samples, and their indices in an order in which few of them say most."""

    samples: Samples
    order: Sequence[int]

    @classmethod
    def of(cls, model: Model, data: Samples) -> "Heard":
        """MOST_HEARD of the data.

        In turn, the sample comes next that adds most power to the outputs and slices that have little of it so far (the largest
        sum of square roots).
        """
        heard = data.every(max(1, -(-len(data) // MOST_HEARD)))
        running, whole, each = runner(model), dict[str, Slices](), list[dict[str, Slices]]()
        totals: list[dict[str, float]] = []
        for feeds in heard:
            each.append({})
            outputs = running.run(feeds)
            totals.append({name: total_power(array) for name, array in outputs.items()})
            for name, array in outputs.items():
                for sums in (whole.setdefault(name, Slices()), each[-1].setdefault(name, Slices())):
                    sums.add(array, array)
        parts = judged(whole)
        return cls(heard, covering(np.array([powers(own, parts, total) for own, total in zip(each, totals, strict=True)])))

    @property
    def loudest(self) -> Samples:
        """As many as are judged, of those that say most."""
        return self.samples.pick(self.order[:JUDGED])

    @property
    def probed(self) -> Samples:
        """The samples on which tensors are probed."""
        return self.samples.pick(self._probed)

    @property
    def judged(self) -> Samples:
        """The next ones."""
        return self.samples.pick(self._judged)

    @property
    def others(self) -> Samples:
        """All but those that are judged on."""
        return self.samples.pick([index for index in range(len(self.samples)) if index not in self._judged])

    @property
    def _judged(self) -> list[int]:
        return [index for index in self.order if index not in self._probed][:JUDGED]

    @property
    def _probed(self) -> list[int]:
        """Every second one of those that say most, so that the others can be judged on; the first ones of few."""
        return list(self.order[: 2 * PROBED : 2] if len(self.order) >= 2 * PROBED else self.order[:PROBED])

    def halves(self) -> Iterator[tuple[list[int], Samples]]:
        """Half of the probed samples, by number, and samples without them on which to find ranges; nothing if they are few."""
        probed = self._probed
        if len(probed) < PROBED:
            return
        others = [index for index in self.order if index not in probed]
        quiet = others[:: max(1, -(-len(others) // QUIET))]
        for half in (0, 1):
            yield list(range(half, PROBED, 2)), self.samples.pick(sorted([*probed[1 - half :: 2], *quiet]))


def powers(sample: Mapping[str, Slices], parts: Mapping[str, JudgedSlices], totals: Mapping[str, float]) -> Floats:
    """The power of one sample in each output, and in each slice that carries signal. `totals`: output → its power."""
    found: list[Floats] = []
    for name, slices in sample.items():
        found.append(np.atleast_1d(totals[name]))
        part = parts.get(name)
        if part is not None:
            known = slices.axes.get(part.axis)
            found.append(np.where(part.carries, 0.0 if known is None else known.power, 0.0))
    return np.concatenate([np.zeros(0), *found])


def total_power(array: Array) -> float:
    """The sum of the squares of an output of floats; 0 for another."""
    return float(np.square(array, dtype=np.float64).sum()) if array.dtype.kind == "f" else 0.0


def covering(power: Floats) -> list[int]:
    """All samples, in the order of `Heard.of`. `power`: samples × outputs and slices; what is not finite counts as none."""
    known: Floats = np.nan_to_num(power, nan=0.0, posinf=0.0)
    shares = known / np.maximum(known.sum(0), np.finfo(np.float64).tiny)
    covered, order = np.zeros(shares.shape[1]), list[int]()
    while len(order) < len(shares):
        gains = np.sqrt(covered + shares).sum(1)
        gains[order] = -1
        best = int(gains.argmax())
        order.append(best)
        covered = covered + shares[best]
    return order


def hold_out_heard(model: Model, data: Samples) -> tuple[Samples, Samples, list[str]]:
    """The samples to learn from, one in HELD_OUT to judge on, and notes: those of `hold_out`, if they have signal."""
    return with_signal(model, *hold_out(data))


def with_signal(model: Model, learned: Samples, judged: Samples) -> tuple[Samples, Samples, list[str]]:
    """The samples to learn from and to judge on: as given, or others to judge on, if an output has hardly any power on those.

    Power is compared with that on the samples to learn from. Of these, every second one of those that say most is judged on, so
    that the others can be learned from: one in HELD_OUT, at least one. A note says so.
    """
    some = learned.every(max(1, -(-len(learned) // MOST_HEARD)))
    here, there = (mean_power(model, samples) for samples in (judged, some))
    silent = [name for name in here if here[name] < SIGNAL_SHARE * there.get(name, 0.0)]
    if not silent or len(learned) < 2:
        return learned, judged, []
    heard = Heard.of(model, learned)
    first = [*heard.order[1::2], *heard.order[2::2]][: max(1, len(learned) // HELD_OUT)]
    held = {heard.samples.places[index] for index in first}
    inside = [number for number, place in enumerate(learned.places) if place in held]
    others = replace(learned.pick(inside), notes=())
    note = f"judged on {len(others)} other samples: on those held out, '{silent[0]}' has no signal"
    return learned.pick([number for number in range(len(learned)) if number not in inside]), others, [note]


def mean_power(model: Model, samples: Samples) -> dict[str, float]:
    """Output → power per element, of outputs of floats."""
    running, sums = runner(model), dict[str, list[float]]()
    for feeds in samples:
        for name, array in running.run(feeds).items():
            if array.dtype.kind == "f" and array.size:
                sums.setdefault(name, []).append(total_power(array) / array.size)
    return {name: float(np.mean(found)) for name, found in sums.items()}
