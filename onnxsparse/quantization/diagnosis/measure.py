"""Each tensor and each slice of each output, worst first, so that no broken part hides in a good total."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from onnxsparse.calibration.data import CalibrationData
from onnxsparse.ir.weights import Array
from onnxsparse.progress import tell
from onnxsparse.quantization.accuracy.unit_noise import own_noise
from onnxsparse.quantization.plan.scales import ValueScale
from onnxsparse.quantization.quantize_model import QuantizedModel
from onnxsparse.quantization.write.grid import Grid
from onnxsparse.records import TextTable
from onnxsparse.runtime.compare import Distance, finite, sqnr_db
from onnxsparse.runtime.probe import element_counts, groups_within, prefix
from onnxsparse.runtime.session import Execution, runner

SAMPLES = 16
"""Of the calibration data, that are looked at."""

SHOWN = 12
"""Rows of the table for people; the JSON has all."""

MOST_SLICES = 512
"""An axis longer than this has no slices of its own: it counts positions, not kinds of things."""


@dataclass
class TensorDiagnosis:
    """One activation with a scale. `own_sqnr_db`: of the layer that makes it, on floats; `distance`: what it inherits included.

    `low` and `high` are the extremes that were seen, `clipped` how many elements the integers do not reach.
    """

    name: str
    node: str
    scale: ValueScale
    own_sqnr_db: float | None
    distance: Distance = field(default_factory=Distance)
    low: float = math.inf
    high: float = -math.inf
    clipped: int = 0

    def add(self, before: Array, after: Array) -> None:
        low, high = self.scale.grid.span(self.scale.scale, self.scale.zero_point)
        half = self.scale.scale / 2
        values = before.astype(np.float64)
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.clipped += int(np.count_nonzero((values < low - half) | (values > high + half)))
        self.distance.add(before, after)

    @property
    def range_use(self) -> float:
        """The share of the integers that values were seen at."""
        low, high = self.scale.grid.span(self.scale.scale, self.scale.zero_point)
        return max(0.0, min(self.high, high) - max(self.low, low)) / (high - low)

    @property
    def clipped_share(self) -> float:
        return self.clipped / max(self.distance.elements, 1)

    def to_json(self) -> dict[str, object]:
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
    """One index of the shortest axis of an output, its batch left out; `axis` None: the output as a whole."""

    output: str
    axis: int | None
    index: int | None
    distance: Distance = field(default_factory=Distance)

    @property
    def label(self) -> str:
        if self.axis is None:
            return self.output
        return f"{self.output}[{', '.join([':'] * self.axis + [str(self.index)])}]"

    def to_json(self) -> dict[str, object]:
        root = math.sqrt(self.distance.power / max(self.distance.elements, 1))
        return {
            "output": self.output,
            "axis": self.axis,
            "index": self.index,
            "sqnr_db": finite(self.distance.level_db),
            "identical": self.distance.level_db == math.inf,
            "problem": problem(self.distance),
            "rms": root,
        }


@dataclass(frozen=True)
class Diagnosis:
    """Tensors and slices of outputs, worst first."""

    tensors: tuple[TensorDiagnosis, ...]
    slices: tuple[SliceDiagnosis, ...]
    samples: int

    def to_json(self, model: str) -> str:
        content = {
            "schema": 1,
            "model": model,
            "samples": self.samples,
            "tensors": [tensor.to_json() for tensor in self.tensors],
            "slices": [part.to_json() for part in self.slices],
        }
        return f"{json.dumps(content, indent=1, allow_nan=False)}\n"

    def tables(self) -> tuple[TextTable, ...]:
        """The worst of each."""
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
        slices = tuple((s.label, level(s.distance)) for s in self.slices[:SHOWN])
        return (
            TextTable("worst tensors", ("tensor", "SQNR dB", "own SQNR dB", "range use", "clipped", "bits"), tensors),
            TextTable("worst outputs and slices of them", ("output", "SQNR dB"), slices),
        )


def problem(distance: Distance) -> str | None:
    """Why there is no figure."""
    if distance.noise and not distance.power:
        return "it is zero in the float model"
    return distance.mismatch or distance.problem


def rank(distance: Distance) -> float:
    """What does not compare, and noise on a zero signal, come first."""
    level = distance.level_db
    return -math.inf if level is None else level


def level(distance: Distance) -> str:
    return problem(distance) or db(distance.level_db)


def db(value: float | None) -> str:
    if value is None:
        return ""
    return "equal" if value == math.inf else f"{value:.2f}"


def diagnose(found: QuantizedModel, data: CalibrationData, budget_bytes: int) -> Diagnosis:
    """Compare a quantized model with the float one that it was made of, on the first samples of `data`."""
    few = CalibrationData(tuple(islice(data, SAMPLES)), data.source)
    tensors = list(empty_tensors(found, few, budget_bytes))
    model = found.placement.anatomy.model
    counts = element_counts(model, [t.name for t in tensors], next(iter(few)))
    by_name = {tensor.name: tensor for tensor in tensors}
    for group in groups_within({name: count * 8 for name, count in counts.items()}, budget_bytes):
        compare_group(found, [by_name[name] for name in group], few)
    slices = compare_outputs(found, few)
    tensors.sort(key=lambda tensor: rank(tensor.distance))
    slices.sort(key=lambda part: rank(part.distance))
    return Diagnosis(tuple(tensors), tuple(slices), len(list(few)))


def empty_tensors(found: QuantizedModel, data: CalibrationData, budget_bytes: int) -> Iterator[TensorDiagnosis]:
    """One for every activation that has a scale."""
    anatomy = found.placement.anatomy
    noise = own_noise(found.placement, found.written, data, budget_bytes)
    makers = {unit.exit: unit.root for unit in found.placement.units}
    for name, scale in found.written.scales.items():
        made_by = anatomy.graph.producers.get(name)
        ratio = noise.get(makers[name]) if name in makers else None
        own = None if ratio is None else sqnr_db(1.0, ratio)
        yield TensorDiagnosis(name, "" if made_by is None else anatomy.graph.names[made_by], scale, own)


def compare_group(found: QuantizedModel, tensors: Sequence[TensorDiagnosis], data: CalibrationData) -> None:
    """Both models side by side, as they are written, for a few tensors."""
    quantized = [found.written.dequantized[tensor.name] for tensor in tensors]
    first = runner(prefix(found.placement.anatomy.model, [tensor.name for tensor in tensors]), execution=Execution.NODE_BY_NODE)
    second = runner(prefix(found.written.model, quantized), execution=Execution.NODE_BY_NODE)
    for number, feeds in enumerate(data, start=1):
        before, after = first.run(feeds), second.run(feeds)
        for tensor, name in zip(tensors, quantized, strict=True):
            tensor.add(before[tensor.name], after[name])
        tell("diagnosing tensors", number)


def compare_outputs(found: QuantizedModel, data: CalibrationData) -> list[SliceDiagnosis]:
    """Every output as a whole, and by the indices of its shortest axis."""
    first, second = (runner(model) for model in (found.placement.anatomy.model, found.written.model))
    slices: dict[tuple[str, int | None], SliceDiagnosis] = {}
    for feeds in data:
        before, after = first.run(feeds), second.run(feeds)
        for name, value in before.items():
            if value.dtype.kind != "f":
                continue
            slices.setdefault((name, None), SliceDiagnosis(name, None, None)).distance.add(value, after[name])
            axis = slice_axis(value.shape)
            for index in range(value.shape[axis]) if axis is not None else ():
                part = slices.setdefault((name, index), SliceDiagnosis(name, axis, index))
                part.distance.add(value.take([index], axis), after[name].take([index], axis))
    return list(slices.values())


def slice_axis(shape: Sequence[int]) -> int | None:
    """The shortest axis behind the batch's that has more than one index, where there are two of them and more."""
    axes = [axis for axis in range(1, len(shape)) if shape[axis] > 1]
    found = min(axes, key=lambda axis: shape[axis], default=None) if len(axes) > 1 else None
    return found if found is not None and shape[found] <= MOST_SLICES else None
