"""Models to quantize and strip, and the steps that do it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from onnxsparse.ir.model import Model
from onnxsparse.passes.quantize import Quantize
from onnxsparse.pipeline.base import StepReport
from onnxsparse.quantization.strip.dequantize import strip_scales
from onnxsparse.runtime.session import Execution, runner
from tests.graphs import Array, model, node, proto, weight

MS = "com.microsoft"
TARGETS = ("cv22", "onnxruntime-x86")


def coarse(shape: str, seed: int) -> Array:
    """Weights none of which rounds to zero in eight bits, about as large as their sum needs."""
    values = weight(shape, seed)
    return np.where(np.abs(values) < 0.1, np.float32(0.1), values) / np.float32(np.sqrt(np.prod(values.shape[1:])))


def residual() -> onnx.ModelProto:
    nodes = [
        node("Conv", "x w0 b0", "a", pads=[1] * 4),
        node("Relu", "a", "ar"),
        node("Conv", "ar w1 b1", "c", pads=[1] * 4),
        node("Add", "c ar", "s"),
        node("Relu", "s", "sr"),
        node("MaxPool", "sr", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", "p", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f w2 b2", "y", transB=1),
    ]
    weights: dict[str, str | Array] = {
        "w0": coarse("8x3x3x3", 0),
        "w1": coarse("8x8x3x3", 1),
        "w2": coarse("5x8", 2),
        "b0": "8",
        "b1": "8",
        "b2": "5",
    }
    return proto(nodes, {"x": "1x3x8x8"}, ["y"], weights)


def silu() -> onnx.ModelProto:
    nodes = [
        node("Conv", "x w0 b0", "a", pads=[1] * 4),
        node("Sigmoid", "a", "as"),
        node("Mul", "a as", "am"),
        node("Conv", "am w1 b1", "c", pads=[1] * 4),
        node("Sigmoid", "c", "cs"),
        node("Mul", "c cs", "cm"),
        node("Conv", "cm w2", "y", pads=[1] * 4),
    ]
    weights: dict[str, str | Array] = {
        "w0": coarse("8x3x3x3", 0),
        "w1": coarse("8x8x3x3", 1),
        "w2": coarse("8x8x3x3", 2),
        "b0": "8",
        "b1": "8",
    }
    return proto(nodes, {"x": "1x3x8x8"}, ["y"], weights)


def joined() -> onnx.ModelProto:
    """A Concat with the input, resized; an output that others read, and one that is reshaped."""
    nodes = [
        node("Conv", "x w0 b0", "a", pads=[1] * 4),
        node("Relu", "a", "ar"),
        node("Conv", "ar w1", "c", pads=[1] * 4),
        node("Concat", "ar c x", "k", axis=1),
        node("Resize", "k _ sizes", "r", mode="nearest"),
        node("Conv", "r w2 b2", "y", pads=[1] * 4),
        node("Sigmoid", "y", "s"),
        node("Reshape", "s shape", "z"),
    ]
    weights: dict[str, str | Array] = {
        "w0": coarse("8x3x3x3", 0),
        "w1": coarse("8x8x3x3", 1),
        "w2": coarse("8x19x3x3", 2),
        "b0": "8",
        "b2": "8",
    }
    sizes: dict[str, Array] = {"sizes": np.array([1, 1, 2, 2], np.float32), "shape": np.array([1, -1], np.int64)}
    return proto(nodes, {"x": "1x3x8x8"}, ["y", "z"], {**weights, **sizes})


GRAPHS = {"residual": residual, "silu": silu, "joined": joined}
EVERY = pytest.mark.parametrize(("graph", "target"), [(g, t) for g in GRAPHS for t in TARGETS])


def samples(count: int = 8, scale: float = 1.0) -> list[dict[str, Array]]:
    rng = np.random.default_rng(0)
    return [{"x": (scale * rng.standard_normal((1, 3, 8, 8))).astype(np.float32)} for _ in range(count)]


def quantize(built: Model, data: list[dict[str, Array]] | None = None, **options: Any) -> tuple[Model, StepReport]:
    copy = built.copy()
    report = Quantize(**options).run(copy, samples() if data is None else data)
    onnx.checker.check_model(onnx.load_from_string(copy.to_bytes()), full_check=True)
    return copy, report


def stripped(built: Model) -> Model:
    copy = built.copy()
    strip_scales(copy)
    onnx.checker.check_model(onnx.load_from_string(copy.to_bytes()), full_check=True)
    return copy


def outputs(built: Model, feeds: Mapping[str, Array], execution: Execution = Execution.AS_WRITTEN) -> dict[str, NDArray[Any]]:
    return runner(built, execution=execution).run(dict(feeds))


def floats(built: Model, name: str) -> NDArray[np.float64]:
    return built.weights[name].astype(np.float64)


def constants(built: Model) -> dict[str, bytes]:
    return {name: built.weights[name].tobytes() for name in built.weights}


def trained() -> Model:
    """A float weight with a quantizer of its own and a Transpose behind it, as a QAT export has it."""
    nodes = [
        node("QuantizeLinear", "x sx zx", "xq"),
        node("DequantizeLinear", "xq sx zx", "xd"),
        node("QuantizeLinear", "w sw zw", "wq", axis=0),
        node("DequantizeLinear", "wq sw zw", "wd", axis=0),
        node("Transpose", "wd", "wt", perm=[1, 0]),
        node("MatMul", "xd wt", "y"),
    ]
    floats = weight("6x8")
    floats[0, :3] = 0
    points = np.array([5, -3, 0, 1, 2, 3], np.int8)
    held = {"sx": np.float32(0.03), "zx": np.uint8(120), "w": floats, "sw": np.full(6, 0.02, np.float32), "zw": points}
    return model(nodes, {"x": "4x8"}, ["y"], held)


class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self) -> None:
        self.left = samples()

    def get_next(self) -> dict[str, Array] | None:
        return self.left.pop() if self.left else None


def static(built: onnx.ModelProto, folder: Path, way: QuantFormat, per_channel: bool = True) -> Model:
    """As onnxruntime's own quantizer makes it."""
    onnx.save(built, folder / "in.onnx")
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(folder / "in.onnx", folder / "out.onnx", Reader(), quant_format=way, per_channel=per_channel, **kinds)
    return Model.from_proto(onnx.load(folder / "out.onnx"))


def sqnr_db(wanted: Array, found: Array) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum()))
