"""Running a model over data to see what its activations do, in a bounded amount of memory.

Ranges are reduced inside onnxruntime, so that no activation leaves it. For histograms the activations are read, in groups that
fit a byte budget; a group runs no more of the model than leads to it, and takes the weights from where they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from onnxsparse.calibration.data import CalibrationData
from onnxsparse.calibration.histogram import Histogram
from onnxsparse.errors import ModelError
from onnxsparse.ir.model import Model
from onnxsparse.progress import tell
from onnxsparse.runtime.probe import groups_within, output_name, prefix
from onnxsparse.runtime.session import Feeds, runner

REDUCTIONS = {"low": "ReduceMin", "high": "ReduceMax", "sum": "ReduceSum"}
"""The sum is there for NaN, which onnxruntime's extremes pass over."""

SMALLEST_SPREAD = 1e-32
"""Between extremes; elements of what lies closer together cannot be put into bins with float32."""


@dataclass
class Observed:
    """The extremes of one activation over the samples, and their means; `elements` of the largest sample."""

    low: float = np.inf
    high: float = -np.inf
    mean_low: float = 0.0
    mean_high: float = 0.0
    samples: int = 0
    elements: int = 0

    def add(self, low: float, high: float, elements: int) -> None:
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.samples += 1
        self.mean_low += (low - self.mean_low) / self.samples
        self.mean_high += (high - self.mean_high) / self.samples
        self.elements = max(self.elements, elements)

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def is_spread(self) -> bool:
        """Whether a histogram tells more than the extremes."""
        return self.is_finite and self.high - self.low > SMALLEST_SPREAD


@dataclass(frozen=True)
class Observation:
    """What a model's activations did. `histograms` is empty where only ranges were asked for."""

    ranges: dict[str, Observed]
    histograms: dict[str, Histogram] = field(default_factory=dict)
    samples: int = 0


def observe(model: Model, tensors: Sequence[str], data: CalibrationData, *, bins: int = 0, budget_bytes: int) -> Observation:
    """Ranges and, with `bins`, histograms of `tensors` of the main graph over `data`.

    Raises ModelError for data without samples and for an activation that is NaN.
    """
    ranges = observe_ranges(model, tensors, data)
    samples = max((r.samples for r in ranges.values()), default=0)
    if not bins:
        return Observation(ranges, samples=samples)
    finite = {name: found for name, found in ranges.items() if found.is_spread}
    histograms = {name: Histogram(found.low, found.high, bins) for name, found in finite.items()}
    for group in groups_within({name: found.elements * 4 for name, found in finite.items()}, budget_bytes):
        fill(prefix(model, group), data, {name: histograms[name] for name in group}, samples)
    return Observation(ranges, histograms, samples)


def observe_ranges(model: Model, tensors: Sequence[str], data: CalibrationData) -> dict[str, Observed]:
    """The extremes of activations, one run of the model a sample."""
    found = {name: Observed() for name in tensors}
    reduced = reducing(prefix(model, tensors), tensors)
    running = runner(reduced)
    number = 0
    for number, feeds in enumerate(data, start=1):
        values = running.run(feeds)
        for at, (name, observed) in enumerate(found.items()):
            low, high, total, elements = (values[output_name(at, what)].item() for what in (*REDUCTIONS, "elements"))
            if np.isnan(total) and not (np.isinf(low) and np.isinf(high)):
                raise ModelError(f"{data.source}: {why_nan(model, name, feeds, number)}")
            observed.add(low, high, elements)
        tell("ranges of activations", number)
    if not number:
        raise ModelError(f"{data.source}: there are no samples")
    return found


def why_nan(model: Model, activation: str, feeds: Feeds, number: int) -> str:
    """Where an activation's NaN comes from, as far as the sample tells: an input that has NaN or infinite values itself."""
    floats = {name: array for name, array in feeds.items() if array.dtype.kind == "f"}
    made = f"sample {number} makes activation '{activation}' of {model.name} NaN"
    for name, array in floats.items():
        if np.isnan(array).any():
            return f"{made}: its input '{name}' has NaN values; give others"
    for name, array in floats.items():
        if np.isinf(array).any():
            return (
                f"sample {number} has infinite values in input '{name}', from which {model.name} computes NaN; give finite ones"
            )
    return made


def reducing(model: Model, tensors: Sequence[str]) -> Model:
    """The model with the extremes, sum and size of `tensors` as its only outputs."""
    graph = model.proto.graph
    del graph.output[:]
    for at, name in enumerate(tensors):
        for what, op in REDUCTIONS.items():
            graph.node.append(helper.make_node(op, [name], [output_name(at, what)], keepdims=0))
        graph.node.append(helper.make_node("Size", [name], [output_name(at, "elements")]))
        graph.output.extend(onnx.ValueInfoProto(name=output_name(at, what)) for what in (*REDUCTIONS, "elements"))
    return model


def fill(model: Model, data: CalibrationData, histograms: dict[str, Histogram], samples: int) -> None:
    running = runner(model)
    for number, feeds in enumerate(data, start=1):
        values = running.run(feeds)
        for name, histogram in histograms.items():
            histogram.add(values.pop(name))
        tell("histograms of activations", number, samples)
