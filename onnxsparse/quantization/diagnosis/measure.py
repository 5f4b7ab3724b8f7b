"""Diagnosis of a quantized model: SQNR of every tensor and every slice of the outputs, worst first.

A slice is a channel, class or box attribute (`runtime.slices`), which can be broken while the SQNR of the whole is good.

1. Measure the noise that each unit adds by itself (`unit_noise`).
2. Run the float and the quantized model, in groups of tensors that fit the memory budget, and accumulate per tensor: error,
   extremes, and elements outside of the integers' range.
3. Compare the outputs, as a whole and per slice.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxsparse.ir.weights import Array
from onnxsparse.progress import tell
from onnxsparse.quantization.accuracy.unit_noise import own_noise
from onnxsparse.quantization.plan.scales import ValueScale
from onnxsparse.quantization.quantize_model import QuantizedModel
from onnxsparse.quantization.write.grid import Grid
from onnxsparse.records import TextTable, json_text
from onnxsparse.runtime.distance import Distance, finite, sqnr_db
from onnxsparse.runtime.probe import element_counts, groups_within, prefix
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import Execution, runner
from onnxsparse.runtime.slices import Slices, judged, slice_label

SAMPLES = 16
"""Samples of the calibration data that are used; a few suffice for an SQNR."""

SHOWN = 12
"""Rows of the printed tables; the JSON has all."""


@dataclass
class TensorDiagnosis:
    """One activation with a scale, accumulated over samples."""

    name: str
    node: str
    """The node that produces it; empty for an input of the model."""
    scale: ValueScale
    own_sqnr_db: float | None
    """SQNR in dB of the producing unit alone, on float inputs; None if no unit produces it or the unit's output is zero."""
    distance: Distance = field(default_factory=Distance)
    """Difference between the float and the quantized model, inherited noise included."""
    low: float = math.inf
    """Smallest value seen in the float model."""
    high: float = -math.inf
    """Largest value seen in the float model."""
    clipped: int = 0
    """Elements that lie more than half a step outside of the integers' range."""

    def add(self, before: Array, after: Array) -> None:
        """Add one sample: the tensor in the float model and in the quantized one."""
        low, high = self.scale.grid.span(self.scale.scale, self.scale.zero_point)
        half = self.scale.scale / 2
        values = before.astype(np.float64)
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.clipped += int(np.count_nonzero((values < low - half) | (values > high + half)))
        self.distance.add(before, after)

    @property
    def range_use(self) -> float:
        """Share of the integers' range that lies between the extremes, 0 to 1."""
        low, high = self.scale.grid.span(self.scale.scale, self.scale.zero_point)
        return max(0.0, min(self.high, high) - max(self.low, low)) / (high - low)

    @property
    def clipped_share(self) -> float:
        """Share of the elements that are clipped, 0 to 1."""
        return self.clipped / max(self.distance.elements, 1)

    def to_json(self) -> dict[str, object]:
        """An entry of `tensors` in the diagnosis (docs/json.md)."""
        exponent = Grid.exponent(self.scale.scale)
        return {
            "tensor": self.name,
            "node": self.node,
            "sqnr_db": finite(self.distance.level_db),
            "identical": self.distance.level_db == math.inf,
            "problem": problem(self.distance),
            "own_sqnr_db": finite(self.own_sqnr_db),
            "low": finite(self.low),
            "high": finite(self.high),
            "range_use": self.range_use,
            "clipped": self.clipped_share,
            "bits": self.scale.grid.bits,
            "scale": self.scale.scale,
            "exponent": exponent,
            "zero_point": self.scale.zero_point,
        }


@dataclass
class SliceDiagnosis:
    """One slice of an output, as `runtime.slices` chooses them; axis and index None: the whole output.

    `carries_signal`: whether it is judged; a slice that does not carry signal may be lost without harm.
    """

    output: str
    axis: int | None
    index: int | None
    distance: Distance
    carries_signal: bool = True

    @property
    def label(self) -> str:
        """The output's name with the slice in numpy's notation: `scores[:, 3]`."""
        if self.axis is None or self.index is None:
            return self.output
        return slice_label(self.output, self.axis, self.index)

    def to_json(self) -> dict[str, object]:
        """An entry of `slices` in the diagnosis; `rms` is the root mean square of the float values."""
        root = math.sqrt(self.distance.power / max(self.distance.elements, 1))
        return {
            "output": self.output,
            "axis": self.axis,
            "index": self.index,
            "sqnr_db": finite(self.distance.level_db),
            "identical": self.distance.level_db == math.inf,
            "problem": problem(self.distance),
            "rms": root,
            "carries_signal": self.carries_signal,
        }


@dataclass(frozen=True)
class Diagnosis:
    """Tensors and slices of outputs, worst first, and the number of samples they were compared on."""

    tensors: tuple[TensorDiagnosis, ...]
    slices: tuple[SliceDiagnosis, ...]
    samples: int

    def to_json(self, model: str) -> str:
        """The text of --diagnosis-json; `model` is the model's name."""
        content = {
            "schema": 1,
            "model": model,
            "samples": self.samples,
            "tensors": [tensor.to_json() for tensor in self.tensors],
            "slices": [part.to_json() for part in self.slices],
        }
        return json_text(content)

    def tables(self) -> tuple[TextTable, ...]:
        """Tables of the SHOWN worst tensors and slices."""
        tensors = tuple(
            (
                t.name,
                level(t.distance),
                db(t.own_sqnr_db),
                f"{t.range_use:.0%}",
                f"{t.clipped_share:.2%}",
                str(t.scale.grid.bits),
            )
            for t in self.tensors[:SHOWN]
        )
        slices = tuple((s.label, level(s.distance), "yes" if s.carries_signal else "no") for s in self.slices[:SHOWN])
        return (
            TextTable("worst tensors", ("tensor", "SQNR dB", "own SQNR dB", "range use", "clipped", "bits"), tensors),
            TextTable("worst outputs and slices of them", ("output", "SQNR dB", "carries signal"), slices),
        )


def problem(distance: Distance) -> str | None:
    """Why there is no SQNR; None if there is one, or the tensors are equal."""
    if distance.noise and not distance.power:
        return "it is zero in the float model"
    return distance.mismatch or distance.problem


def rank(distance: Distance) -> float:
    """Sort key: SQNR in dB; −∞ for tensors without one (not comparable, or noise on a zero signal), so that they come first."""
    level = distance.level_db
    return -math.inf if level is None else level


def level(distance: Distance) -> str:
    """A table cell: the SQNR, or why there is none."""
    return problem(distance) or db(distance.level_db)


def db(value: float | None) -> str:
    """Decibels with two decimals; `equal` for infinity, empty for None."""
    if value is None:
        return ""
    return "equal" if value == math.inf else f"{value:.2f}"


def diagnose(found: QuantizedModel, data: Samples, budget_bytes: int) -> Diagnosis:
    """Compare a quantized model with its float original on the first SAMPLES samples of `data`.

    `budget_bytes` limits the activations held at a time.
    """
    few = data.pick(range(min(SAMPLES, len(data))))
    tensors = list(empty_tensors(found, few, budget_bytes))
    model = found.placement.anatomy.model
    counts = element_counts(model, [t.name for t in tensors], next(iter(few)))
    by_name = {tensor.name: tensor for tensor in tensors}
    for group in groups_within({name: count * 8 for name, count in counts.items()}, budget_bytes):
        compare_group(found, [by_name[name] for name in group], few)
    slices = compare_outputs(found, few)
    tensors.sort(key=lambda tensor: rank(tensor.distance))
    slices.sort(key=lambda part: rank(part.distance))
    return Diagnosis(tuple(tensors), tuple(slices), len(few))


def empty_tensors(found: QuantizedModel, data: Samples, budget_bytes: int) -> Iterator[TensorDiagnosis]:
    """A diagnosis for every activation that has a scale, with its unit's own SQNR and without samples yet."""
    anatomy = found.placement.anatomy
    noise = own_noise(found.placement, found.written, data, budget_bytes)
    makers = {unit.exit: unit.root for unit in found.placement.units}
    for name, scale in found.written.scales.items():
        made_by = anatomy.graph.producers.get(name)
        ratio = noise.get(makers[name]) if name in makers else None
        own = None if ratio is None else sqnr_db(1.0, ratio)
        yield TensorDiagnosis(name, "" if made_by is None else anatomy.graph.names[made_by], scale, own)


def compare_group(found: QuantizedModel, tensors: Sequence[TensorDiagnosis], data: Samples) -> None:
    """Add all samples of `data` to `tensors`, running both models node by node as the files are written, without fusions."""
    quantized = [found.written.dequantized[tensor.name] for tensor in tensors]
    first = runner(prefix(found.placement.anatomy.model, [tensor.name for tensor in tensors]), execution=Execution.NODE_BY_NODE)
    second = runner(prefix(found.written.model, quantized), execution=Execution.NODE_BY_NODE)
    for number, feeds in enumerate(data, start=1):
        before, after = first.run(feeds), second.run(feeds)
        for tensor, name in zip(tensors, quantized, strict=True):
            tensor.add(before[tensor.name], after[name])
        tell("diagnosing tensors", number)


def compare_outputs(found: QuantizedModel, data: Samples) -> list[SliceDiagnosis]:
    """Every float output as a whole, and its slices."""
    first, second = (runner(model) for model in (found.placement.anatomy.model, found.written.model))
    wholes: dict[str, Distance] = {}
    parts: dict[str, Slices] = {}
    for feeds in data:
        before, after = first.run(feeds), second.run(feeds)
        for name, value in before.items():
            if value.dtype.kind != "f":
                continue
            wholes.setdefault(name, Distance()).add(value, after[name])
            parts.setdefault(name, Slices()).add(value, after[name])
    slices = [SliceDiagnosis(name, None, None, distance) for name, distance in wholes.items()]
    for name, part in judged(parts).items():
        for index, carries in enumerate(part.carries):
            slices.append(SliceDiagnosis(name, part.axis, index, part.sums.distance(index), bool(carries)))
    return slices
