"""Statistics for each channel of activations (axis 1), reduced inside onnxruntime."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnxsparse.ir.model import Model
from onnxsparse.ops.spelling import has_axes_as_attribute
from onnxsparse.progress import tell
from onnxsparse.runtime.probe import output_name
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import runner

Floats = NDArray[np.float64]

CHANNELS = 1
"""The channel axis of an activation."""


@dataclass(frozen=True)
class Channels:
    """The name of a value, and its number of axes."""

    name: str
    rank: int


def channel_means(model: Model, values: Sequence[Channels], data: Samples) -> dict[str, Floats]:
    """Value → mean of each channel over `data`, shape [channels]. `model` is changed: reductions become its outputs.

    Raises ModelError for data that does not fit the model, BackendError if the model cannot run.
    """
    found: dict[str, Floats] = {}
    samples = 0
    for made in reduced_runs(model, values, ("ReduceMean",), data):
        samples += 1
        for value in values:
            found[value.name] = found.get(value.name, np.zeros(())) + made(value, "ReduceMean")
    return {name: total / samples for name, total in found.items()}


def channel_magnitudes(model: Model, values: Sequence[Channels], data: Samples) -> dict[str, Floats]:
    """Value → largest magnitude of each channel over `data`, shape [channels]. `model` is changed: reductions become its outputs.

    Raises ModelError for data that does not fit the model, BackendError if the model cannot run.
    """
    found: dict[str, Floats] = {}
    for made in reduced_runs(model, values, ("ReduceMax", "ReduceMin"), data):
        for value in values:
            own = np.maximum(made(value, "ReduceMax"), -made(value, "ReduceMin"))
            found[value.name] = np.maximum(found.get(value.name, np.zeros(())), own)
    return found


Made = Callable[[Channels, str], Floats]
"""Returns one reduction (an op type) of a value to its channels, for the current sample."""


def reduced_runs(model: Model, values: Sequence[Channels], ops: Sequence[str], data: Samples) -> Iterator[Made]:
    """For each sample, a function that gives the reductions `ops` of `values`. `model` is changed."""
    graph = model.proto.graph
    names = {(value.name, op): output_name(at, op) for at, value in enumerate(values) for op in ops}
    del graph.output[:]
    for value in values:
        for op in ops:
            graph.node.append(reduction(model, op, value, names[value.name, op]))
            graph.output.append(onnx.ValueInfoProto(name=names[value.name, op]))
    model.weights.refresh()
    running = runner(model)
    for number, feeds in enumerate(data, start=1):
        found = running.run(feeds)
        tell("channels of activations", number)
        yield lambda value, op, found=found: found[names[value.name, op]].astype(np.float64)  # type: ignore[misc]  # binds this round's


def reduction(model: Model, op: str, value: Channels, result: str) -> onnx.NodeProto:
    """The node that reduces all axes of a value but the channel axis, into `result`."""
    axes = [axis for axis in range(value.rank) if axis != CHANNELS]
    if has_axes_as_attribute(op, model.opset()):
        return helper.make_node(op, [value.name], [result], axes=axes, keepdims=0)
    constant = f"{result}/axes"
    model.proto.graph.initializer.append(helper.make_tensor(constant, onnx.TensorProto.INT64, [len(axes)], axes))
    return helper.make_node(op, [value.name, constant], [result], keepdims=0)
