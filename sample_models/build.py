"""Build the two detectors of the paper this project starts from, with seeded random weights.

    python sample_models/build.py --out DIR [--trained]

`ssd_small.onnx` and `ssd_large.onnx` follow Best of both, structured and unstructured sparsity in neural networks
(EuroMLSys 2023, doi 10.1145/3578356.3592583): SSDs for 1280x720 pictures, 5.4 M weights and 41.14 GMACs, 22 M and
163.76 GMACs. The paper gives no layer list; this one meets its figures within 1 %. Weights are He-normal or, with --trained, as
large in every layer as those of trained detectors.
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


LAYERS = 1 + sum(CONVOLUTIONS) + 4 + 4
"""Convolutions: stem, stages, extra blocks, heads."""


@dataclass(frozen=True)
class Magnitudes:
    """How large weights are: log(rms relative to He-normal) = constant + per_log_inputs · log(inputs of an output) + per_depth ·
    depth (0 to 1) + a normal deviate of each layer times `residual`. Magnitudes follow exp(−|x|^exponent).
    """

    constant: float = 0.0
    per_log_inputs: float = 0.0
    per_depth: float = 0.0
    residual: float = 0.0
    exponent: float = 2.0

    def weights(self, rng: np.random.Generator, shape: tuple[int, ...], depth: float) -> np.ndarray:
        """Weights of a convolution, outputs x inputs x kernel."""
        inputs = math.prod(shape[1:])
        relative = self.constant + self.per_log_inputs * math.log(inputs) + self.per_depth * depth
        scale = math.exp(relative + self.residual * rng.standard_normal()) * math.sqrt(2 / inputs)
        values = rng.gamma(1 / self.exponent, size=shape) ** (1 / self.exponent) * rng.choice([-1.0, 1.0], size=shape)
        rms = math.sqrt(math.gamma(3 / self.exponent) / math.gamma(1 / self.exponent))
        scaled: np.ndarray = values * (scale / rms)
        return scaled


HE = Magnitudes()

TRAINED = Magnitudes(constant=-0.704, per_log_inputs=0.203, per_depth=-0.543, residual=0.569, exponent=1.13)
"""Fitted to 159 convolutions of three trained detectors by benchmarks/paper/weight_fit.py; the exponent gives the mean magnitude
of 0.724 times the rms that they have in the median."""

SMALL = Widths(20, (80, 144, 264, 320))
LARGE = Widths(40, (160, 288, 528, 800))


@dataclass
class Detector:
    """A graph in the making; values are named after the module that makes them."""

    rng: np.random.Generator
    magnitudes: Magnitudes = HE
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)

    def add(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, x: str, module: str, into: int, out: int, *, kernel: int = 3, stride: int = 1) -> str:
        """A convolution with random weights and small biases."""
        depth = sum(node.op_type == "Conv" for node in self.nodes) / (LAYERS - 1)
        values = self.magnitudes.weights(self.rng, (out, into, kernel, kernel), depth)
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


def build(widths: Widths, seed: int = 0, magnitudes: Magnitudes = HE) -> onnx.ModelProto:
    net = Detector(np.random.default_rng(seed), magnitudes)
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
    parser.add_argument("--trained", action="store_true")
    options = parser.parse_args()
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    for name, widths in (("ssd_small", SMALL), ("ssd_large", LARGE)):
        path = folder / f"{name}.onnx"
        onnx.save(build(widths, magnitudes=TRAINED if options.trained else HE), path)
        totals = layers(load(path), count=False).totals
        print(f"{path}: {totals.weights / 1e6:.3f} M weights, {(totals.macs or 0) / 1e9:.2f} GMACs")


if __name__ == "__main__":
    main()
