"""Ops on integers become the float ops that they compute."""

from typing import Any

import numpy as np
import onnx
import pytest

from onnxsparse.ir.model import Model
from onnxsparse.runtime.session import Execution
from tests.graphs import FLOAT, UINT8, model, node, op_types, value, weight
from tests.quantization.int8_models import MS, outputs, samples, sqnr_db, stripped

RNG = np.random.default_rng(0)
HELD: dict[str, Any] = {
    "s": np.float32(0.05),
    "z": np.uint8(120),
    "t": np.float32(0.08),
    "u": np.uint8(131),
    "w": RNG.integers(-60, 60, (4, 4, 3, 3), np.int8),
    "wg": RNG.integers(-60, 60, (4, 2, 3, 3), np.int8),
    "ws": RNG.random(4, np.float32) / 200 + np.float32(0.001),
    "wz": np.zeros(4, np.int8),
    "b": RNG.integers(-900, 900, 4, np.int32),
    "m": RNG.integers(0, 255, (4, 5), np.uint8),
    "ms": np.full(5, 0.005, np.float32),
    "mz": np.full(5, 100, np.uint8),
    "mt": RNG.integers(-60, 60, (5, 4), np.int8),
    "mts": np.full(5, 0.01, np.float32),
    "mtz": np.zeros(5, np.int8),
    "gb": np.arange(5, dtype=np.int32),
    "k": RNG.integers(100, 140, (1, 4, 1, 1), np.uint8),
    "k2": RNG.integers(100, 140, (2, 1, 4, 4), np.uint8),
    "c": RNG.random((2, 4, 4, 4)) < 0.5,
}


OPERATORS: dict[str, tuple[onnx.NodeProto, str, list[str]]] = {
    "conv": (node("QLinearConv", "a s z w ws wz t u b", "o", pads=[1] * 4), "2x4x4x4", ["Conv"]),
    "grouped conv": (node("QLinearConv", "a s z wg ws wz t u", "o", group=2), "2x4x2x2", ["Conv"]),
    "matmul": (node("QLinearMatMul", "a s z m ms mz t u", "o"), "2x4x4x5", ["MatMul"]),
    "add": (node("QLinearAdd", "a s z a s z t u", "o", domain=MS), "2x4x4x4", ["Add"]),
    "mul with a constant": (node("QLinearMul", "a s z k s z t u", "o", domain=MS), "2x4x4x4", ["Mul"]),
    "concat": (node("QLinearConcat", "t u a s z k2 s z", "o", domain=MS, axis=1), "2x5x4x4", ["Concat"]),
    "global pool": (node("QLinearGlobalAveragePool", "a s z t u", "o", domain=MS), "2x4x1x1", ["GlobalAveragePool"]),
    "pool": (node("QLinearAveragePool", "a s z t u", "o", domain=MS, kernel_shape=[2, 2]), "2x4x3x3", ["AveragePool"]),
    "sigmoid": (node("QLinearSigmoid", "a s z t u", "o", domain=MS), "2x4x4x4", ["Sigmoid"]),
    "leaky": (node("QLinearLeakyRelu", "a s z t u", "o", domain=MS, alpha=0.2), "2x4x4x4", ["LeakyRelu"]),
    "softmax": (node("QLinearSoftmax", "a s z t u", "o", domain=MS, axis=-1, opset=13), "2x4x4x4", ["Softmax"]),
    "where": (node("QLinearWhere", "c a s z k s z t u", "o", domain=MS), "2x4x4x4", ["Where"]),
}


def operator(op: onnx.NodeProto, shape: str, x: str = "2x4x4x4") -> Model:
    nodes = [node("QuantizeLinear", "x s z", "a"), op, node("DequantizeLinear", "o t u", "y")]
    used = {name for n in nodes for name in n.input}
    built = model(nodes, {"x": x}, ["y"], {k: v for k, v in HELD.items() if k in used}, domains={MS: 1})
    built.proto.graph.output[0].CopyFrom(value("y", shape))
    return built


def within_a_step(built: Model, x: str, ops: list[str]) -> None:
    """On inputs that are on the grid, so that nothing is rounded but the result."""
    back = stripped(built)
    assert op_types(back) == ops
    rng = np.random.default_rng(1)
    feeds = {"x": (rng.integers(80, 160, [int(n) for n in x.split("x")]) - 120).astype(np.float32) * HELD["s"]}
    integers, floats = outputs(built, feeds)["y"], outputs(back, feeds)["y"]
    assert integers.std() > 0
    inside = (floats > -131 * 0.08) & (floats < 124 * 0.08)
    assert inside.mean() > 0.9
    assert np.abs(integers - floats)[inside].max() <= 0.08 * 1.01, "a step of the result"


@pytest.mark.parametrize("name", list(OPERATORS))
def test_an_op_on_integers_is_its_float_op(name: str) -> None:
    op, shape, ops = OPERATORS[name]
    within_a_step(operator(op, shape), "2x4x4x4", ops)


def test_a_gemm_on_integers_is_a_gemm() -> None:
    op = node("QGemm", "a s z mt mts mtz gb t u", "o", domain=MS, transB=1)
    within_a_step(operator(op, "6x5", "6x4"), "6x4", ["Gemm"])


def test_what_is_moved_as_integers_is_moved_as_floats_with_its_padding() -> None:
    """Zero padding of integers is the lowest value there is: 0.05 · (0 − 120) = −6."""
    nodes = [
        node("QuantizeLinear", "x s z", "a"),
        node("Transpose", "a", "b", perm=[0, 1, 3, 2]),
        node("Pad", "b pads", "c"),
        node("MaxPool", "c", "d", kernel_shape=[1, 1]),
        node("DequantizeLinear", "d s z", "y"),
    ]
    held = {"s": HELD["s"], "z": HELD["z"], "pads": np.array([0, 0, 1, 0, 0, 0, 0, 0], np.int64)}
    built = model(nodes, {"x": "1x2x3x4"}, ["y"], held)
    built.proto.graph.value_info.add().CopyFrom(value("b", "1x2x4x3", UINT8))
    back = stripped(built)
    assert op_types(back) == ["Transpose", "Pad", "MaxPool"]
    assert {v.name: v.type.tensor_type.elem_type for v in back.proto.graph.value_info} == {"b": FLOAT}
    feeds = {"x": np.round(weight("1x2x3x4") * 20) * np.float32(0.05)}
    assert np.allclose(outputs(back, feeds)["y"], outputs(built, feeds)["y"], atol=1e-6)
    assert outputs(back, feeds)["y"][0, 0, 0, 0] == np.float32(-6)


@pytest.mark.parametrize(("scale", "put_back"), [(0.05, ["Relu"]), (6 / 255, ["Clip"])])
def test_a_relu_that_the_integers_were_is_put_back(scale: float, put_back: list[str]) -> None:
    nodes = [
        node("Conv", "x w", "a"),
        node("QuantizeLinear", "a s z", "aq"),
        node("DequantizeLinear", "aq s z", "ad"),
        node("Conv", "ad v", "y"),
    ]
    held = {"w": "4x3x1x1", "v": "4x4x1x1", "s": np.float32(scale), "z": np.uint8(0)}
    built = model(nodes, {"x": "1x3x8x8"}, ["y"], held)
    back = stripped(built)
    assert op_types(back) == ["Conv", *put_back, "Conv"]
    feeds = samples(1)[0]
    assert sqnr_db(outputs(built, feeds)["y"], outputs(back, feeds)["y"]) > 30


def test_blocks_and_integers_that_others_read_become_floats_beside_them() -> None:
    nodes = [
        node("DequantizeLinear", "q s z", "w", axis=0, block_size=4),
        node("MatMul", "x w", "a"),
        node("DequantizeLinear", "r t", "v"),
        node("MatMul", "a v", "y"),
        node("Shape", "r", "n"),
    ]
    rng = np.random.default_rng(0)
    held = {
        "q": rng.integers(0, 255, (8, 6), np.uint8),
        "s": rng.random((2, 6), np.float32),
        "z": rng.integers(0, 255, (2, 6), np.uint8),
        "r": rng.integers(-9, 9, (6, 3), np.int8),
        "t": np.float32(0.5),
    }
    built = model(nodes, {"x": "2x8"}, ["y", "n"], held, opset=21, ir_version=10)
    wanted = outputs(built, {"x": weight("2x8")}, execution=Execution.NODE_BY_NODE)["y"]
    back = stripped(built)
    assert op_types(back) == ["MatMul", "MatMul", "Shape"]
    assert [str(back.weights[name].dtype) for name in ("q", "r", "v")] == ["float32", "int8", "float32"]
    assert np.allclose(outputs(back, {"x": weight("2x8")})["y"], wanted, rtol=1e-5)
