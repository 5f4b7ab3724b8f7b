"""Statistics of activations on data, in a bounded amount of memory.

1. Ranges: extremes are reduced inside onnxruntime, so that no activation leaves it. One run of the model for each sample.
2. Histograms: activations are read, in groups that fit a byte budget. For each group, only the part of the model that leads to
   it runs, with the weights taken from where they are mapped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from onnxsparse.calibration.histogram import Histogram
from onnxsparse.errors import ModelError
from onnxsparse.ir.model import Model
from onnxsparse.progress import tell
from onnxsparse.runtime.probe import groups_within, output_name, prefix
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import Feeds, runner

REDUCTIONS = {"low": "ReduceMin", "high": "ReduceMax", "sum": "ReduceSum"}
"""Statistic → op. The sum detects NaN, which onnxruntime's ReduceMin and ReduceMax ignore."""

SMALLEST_SPREAD = 1e-32
"""Smallest difference of the extremes for which a histogram is made, so that bins / difference does not overflow float32."""


@dataclass
class Observed:
    """Statistics of one activation.

    `low`, `high`: extremes over all samples. `mean_low`, `mean_high`: means of the samples' extremes. `elements`: of the largest
    sample.
    """

    low: float = np.inf
    high: float = -np.inf
    mean_low: float = 0.0
    mean_high: float = 0.0
    samples: int = 0
    elements: int = 0

    def add(self, low: float, high: float, elements: int) -> None:
        """Add the extremes and the number of elements of one sample."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.samples += 1
        self.mean_low += (low - self.mean_low) / self.samples
        self.mean_high += (high - self.mean_high) / self.samples
        self.elements = max(self.elements, elements)

    @property
    def is_finite(self) -> bool:
        """Whether both extremes are finite; False before the first sample."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def is_spread(self) -> bool:
        """Whether a histogram says more than the extremes: they are finite and differ."""
        return self.is_finite and self.high - self.low > SMALLEST_SPREAD


@dataclass(frozen=True)
class Observation:
    """Statistics of a model's activations over `samples` samples. `histograms` is empty if only ranges were asked for."""

    ranges: dict[str, Observed]
    histograms: dict[str, Histogram] = field(default_factory=dict)
    samples: int = 0


def observe(model: Model, tensors: Sequence[str], data: Samples, *, bins: int = 0, budget_bytes: int) -> Observation:
    """Ranges of `tensors` of the main graph over `data`, and histograms with `bins` bins (0: none).

    `budget_bytes`: activations that are held at a time. Raises ModelError for data without samples, a sample that does not fit
    the model, and an activation that is NaN; BackendError if the model cannot run.
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


def observe_ranges(model: Model, tensors: Sequence[str], data: Samples) -> dict[str, Observed]:
    """The statistics of activations, from one run of the model for each sample. Raises ModelError as `observe` does."""
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
    """A clause that names the cause of an activation's NaN: an input with NaN or infinite values, if there is one."""
    floats = {name: array for name, array in feeds.items() if array.dtype.kind == "f"}
    made = f"sample {number} turns activation '{activation}' of {model.name} into NaN"
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
    """The model, changed to have the extremes, sum and number of elements of `tensors` as its only outputs."""
    graph = model.proto.graph
    del graph.output[:]
    for at, name in enumerate(tensors):
        for what, op in REDUCTIONS.items():
            graph.node.append(helper.make_node(op, [name], [output_name(at, what)], keepdims=0))
        graph.node.append(helper.make_node("Size", [name], [output_name(at, "elements")]))
        graph.output.extend(onnx.ValueInfoProto(name=output_name(at, what)) for what in (*REDUCTIONS, "elements"))
    return model


def fill(model: Model, data: Samples, histograms: dict[str, Histogram], samples: int) -> None:
    """Run the model on all samples, and add its outputs to the histograms. `samples`: their number, for the progress."""
    running = runner(model)
    for number, feeds in enumerate(data, start=1):
        values = running.run(feeds)
        for name, histogram in histograms.items():
            histogram.add(values.pop(name))
        tell("histograms of activations", number, samples)
