"""What equalization could gain: int8 with a scale for every channel of every activation, in place of one.

    python -m benchmarks.accuracy.channel_scales FOLDER... --out benchmarks/results/channel-scales.md

No target computes this, and no factor that is folded into neighbouring layers reaches all channels. It shows where there is
something to gain. FOLDER and draws are those of `range_rules`. Target cv22, ranges by extremes, biases as they are. The range of
a channel is a multiple of its extremes on at most 24 samples of the draw, and at most that of the tensor, since what other
samples activate beyond it is clipped.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.accuracy.output_error import judged, opened
from benchmarks.accuracy.range_rules import SHARE
from benchmarks.accuracy.rounding import drawn, spread
from benchmarks.tables import table
from onnxsparse import Model, Quantize, compare
from onnxsparse.calibration.channels import CHANNELS, Channels, channel_magnitudes
from onnxsparse.ir.array_types import Floats
from onnxsparse.runtime.probe import prefix
from onnxsparse.runtime.samples import Samples

MULTIPLES = (1.0, 2.0)
SAMPLES = 24
"""Samples of a draw, at most."""
LEAST = 1 / 64
"""Least scale of a channel, as a share of the tensor's."""


def quantizers(model: Model) -> Iterator[onnx.NodeProto]:
    """Those of activations with four axes."""
    inferred = onnx.shape_inference.infer_shapes(model.proto)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*inferred.graph.value_info, *inferred.graph.input)}
    yield from (n for n in model.proto.graph.node if n.op_type == "QuantizeLinear" and ranks.get(n.input[0]) == 4)


def with_channel_scales(model: Model, largest: Mapping[str, Floats], multiple: float) -> Model:
    """A copy of a model in integers in which every channel of an activation has a scale. `largest`: magnitudes by activation."""
    found = model.copy()
    graph = found.proto.graph
    readers = {node.input[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    for number, quantizer in enumerate(list(quantizers(found))):
        own = largest[quantizer.input[0]]
        scale = float(found.weights[quantizer.input[1]])
        shares = np.clip(multiple * own / max(own.max(), np.finfo(np.float64).tiny), LEAST, 1)
        arrays = {"scale": (scale * shares).astype(np.float32), "zero": np.zeros(own.size, np.int8)}
        names = [f"channels/{number}/{name}" for name in arrays]
        graph.initializer.extend(numpy_helper.from_array(a, name) for a, name in zip(arrays.values(), names, strict=True))
        for node in (quantizer, readers[quantizer.output[0]]):
            del node.input[1:]
            node.input.extend(names)
            node.attribute.append(onnx.helper.make_attribute("axis", CHANNELS))
    found.weights.refresh()
    return found


def levels(folder: Path, data: Path) -> Iterator[float]:
    """SQNR in dB of the worst output or slice: with one scale, and with scales per channel for each of MULTIPLES."""
    plain = opened(folder)
    model = plain.copy()
    Quantize(target="cv22", data=data, samples=SAMPLES, method="minmax", correct_bias=False).run(model)
    with np.load(data) as arrays:
        count = min(SAMPLES, len(arrays[arrays.files[0]]))
        samples = Samples([{name: arrays[name][at : at + 1] for name in arrays.files} for at in range(count)])
    values = [Channels(node.input[0], 4) for node in quantizers(model)]
    largest = channel_magnitudes(prefix(model, [value.name for value in values]), values, samples)
    for each in (model, *(with_channel_scales(model, largest, multiple) for multiple in MULTIPLES)):
        found = compare(plain, each, judged(folder)).worst_sqnr_db
        print(folder.name, found, flush=True)
        yield 0.0 if found is None else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = []
    for folder in options.folders:
        with TemporaryDirectory() as name:
            each = [list(levels(folder, data)) for data in drawn(folder, Path(name), options.draws, SHARE)]
        found.append((folder.name, *(spread([float(one) for one in column], 1) for column in np.transpose(each))))
    columns = ("network", "one scale", *(f"a scale per channel, {multiple:g} × its extremes" for multiple in MULTIPLES))
    told = f"SQNR in dB of the worst output or slice, cv22, {options.draws} draws, at most {SAMPLES} samples of each."
    head = ["# One scale for an activation, or one for each of its channels", ""]
    lines = [*head, f"Made by `benchmarks/accuracy/channel_scales.py`: {told}", ""]
    options.out.write_text("\n".join([*lines, *table(columns, found)]) + "\n")


if __name__ == "__main__":
    main()
