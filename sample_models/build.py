"""Build the two detectors of the paper this project starts from, with seeded random weights.

    python sample_models/build.py --out DIR

`ssd_small.onnx` and `ssd_large.onnx` follow Best of both, structured and unstructured sparsity in neural networks
(EuroMLSys 2023, doi 10.1145/3578356.3592583): SSDs for 1280x720 pictures, 5.4 M weights and 41.14 GMACs, 22 M and
163.76 GMACs. The paper gives no layer list; this one meets its figures within 1 %.
"""

import argparse
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HEIGHT, WIDTH = 720, 1280
ANCHORS = 6
CLASSES = 8
"""Seven and the background."""
BOX = 4
CONVOLUTIONS = (4, 8, 4, 1)
"""Per stage, at strides 4, 8, 16 and 32; the first of each halves the resolution."""


@dataclass(frozen=True)
class Widths:
    stem: int
    stages: tuple[int, int, int, int]


SMALL = Widths(20, (80, 144, 264, 320))
LARGE = Widths(40, (160, 288, 528, 800))


@dataclass
class Detector:
    """A graph in the making; values are named after the module that makes them."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)

    def add(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, x: str, module: str, into: int, out: int, *, kernel: int = 3, stride: int = 1) -> str:
        """A convolution with He-normal weights and small biases."""
        scale = math.sqrt(2 / (into * kernel * kernel))
        values = self.rng.standard_normal((out, into, kernel, kernel)) * scale
        weight = self.constant(f"{module.replace('/', '.')}.weight", values.astype(np.float32))
        bias = self.constant(f"{module.replace('/', '.')}.bias", (self.rng.standard_normal(out) * 0.01).astype(np.float32))
        return self.add("Conv", [x, weight, bias], module, strides=[stride] * 2, pads=[kernel // 2] * 4)

    def conv_relu(self, x: str, module: str, into: int, out: int, *, kernel: int = 3, stride: int = 1) -> str:
        return self.add("Relu", [self.conv(x, module, into, out, kernel=kernel, stride=stride)], f"{module}/relu")

    def backbone(self, widths: Widths) -> list[tuple[str, int]]:
        """The feature maps at strides 16, 32, 64 and 128, each with its channels."""
        x, channels = self.conv_relu("image", "stem/conv", 3, widths.stem, stride=2), widths.stem
        maps = []
        for stage, (out, count) in enumerate(zip(widths.stages, CONVOLUTIONS, strict=True), start=1):
            for i in range(count):
                x = self.conv_relu(x, f"stage{stage}/conv{i}", channels, out, stride=2 if i == 0 else 1)
                channels = out
            maps.append((x, channels))
        last = widths.stages[-1]
        for extra in (1, 2):
            x = self.conv_relu(x, f"extra{extra}/reduce", channels, last // 4, kernel=1)
            x = self.conv_relu(x, f"extra{extra}/conv", last // 4, last // 2, stride=2)
            channels = last // 2
            maps.append((x, channels))
        return maps[-4:]

    def head(self, x: str, index: int, channels: int) -> str:
        """Scores and boxes of every anchor at every position: 1 x priors x (classes + box)."""
        raw = self.conv(x, f"head{index}/conv", channels, ANCHORS * (CLASSES + BOX))
        last = self.add("Transpose", [raw], f"head{index}/nhwc", perm=[0, 2, 3, 1])
        return self.add("Reshape", [last, "head.shape"], f"head{index}/priors")


def build(widths: Widths, seed: int = 0) -> onnx.ModelProto:
    net = Detector(np.random.default_rng(seed))
    net.constant("head.shape", np.array([1, -1, CLASSES + BOX], np.int64))
    heads = [net.head(x, i, channels) for i, (x, channels) in enumerate(net.backbone(widths))]
    joined = net.add("Concat", heads, "priors", axis=1)
    sizes = net.constant("split.sizes", np.array([CLASSES, BOX], np.int64))
    net.nodes.append(helper.make_node("Split", [joined, sizes], ["logits", "boxes"], name="split", axis=2))
    net.add("Softmax", ["logits"], "scores", axis=2)
    priors = ANCHORS * sum(math.ceil(HEIGHT / s) * math.ceil(WIDTH / s) for s in (16, 32, 64, 128))
    graph = helper.make_graph(
        net.nodes,
        "ssd",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, priors, CLASSES]),
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, priors, BOX]),
        ],
        net.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="onnxsparse")
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    from onnxsparse import layers, load

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for name, widths in (("ssd_small", SMALL), ("ssd_large", LARGE)):
        path = folder / f"{name}.onnx"
        onnx.save(build(widths), path)
        totals = layers(load(path), count=False).totals
        print(f"{path}: {totals.weights / 1e6:.3f} M weights, {(totals.macs or 0) / 1e9:.2f} GMACs")


if __name__ == "__main__":
    main()
