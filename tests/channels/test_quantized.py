"""Channels of quantized models: scales, zero points and integer operators go with them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

from onnxsparse import Model
from onnxsparse.channels.groups import solve
from tests.channels.cutting import halve, shapes, sound
from tests.graphs import FLOAT, model, node, value, weight


def quantized() -> Model:
    """A QDQ model: int8 weights per output channel, activations per tensor."""
    rng = np.random.default_rng(0)
    nodes = [
        node("QuantizeLinear", "x sx zx", "xq"),
        node("DequantizeLinear", "xq sx zx", "xd"),
        node("DequantizeLinear", "wq sw zw", "w", axis=0),
        node("Conv", "xd w bias", "a"),
        node("QuantizeLinear", "a sx zx", "aq"),
        node("DequantizeLinear", "aq sx zx", "ad"),
        node("DequantizeLinear", "vq sv zv", "v"),
        node("Conv", "ad v", "y"),
    ]
    weights: dict[str, Any] = {
        "sx": np.float32(0.05),
        "zx": np.int8(0),
        "wq": rng.integers(-127, 127, (16, 3, 3, 3), np.int8),
        "sw": rng.random(16, np.float32) / 50 + 0.01,
        "zw": np.zeros(16, np.int8),
        "bias": "16",
        "vq": rng.integers(-127, 127, (4, 16, 1, 1), np.int8),
        "sv": np.float32(0.02),
        "zv": np.int8(3),
    }
    return model(nodes, {"x": "1x3x8x8"}, ["y"], weights)


def test_quantized_models_are_cut_with_their_scales() -> None:
    smaller, proof = halve(quantized())
    assert shapes(smaller, "wq", "sw", "zw", "vq") == {"wq": (8, 3, 3, 3), "sw": (8,), "zw": (8,), "vq": (4, 8, 1, 1)}
    sound(smaller, proof)


def quantized_operators() -> Model:
    """Two QLinearConv, weights with zero points of their own, and a MatMulInteger behind them."""
    rng = np.random.default_rng(0)
    nodes = [
        node("QuantizeLinear", "x s z", "xq"),
        node("QLinearConv", "xq s z wq ws wz s z wb", "a"),
        node("QLinearConv", "a s z vq s vz s z", "b"),
        node("Transpose", "b", "t", perm=[0, 2, 3, 1]),
        node("MatMulInteger", "t m z mz", "i"),
        node("Cast", "i", "y", to=FLOAT),
    ]
    weights: dict[str, Any] = {
        "s": np.float32(0.05),
        "z": np.uint8(120),
        "wq": rng.integers(-60, 60, (16, 3, 3, 3), np.int8),
        "ws": rng.random(16, np.float32) / 50 + 0.01,
        "wz": np.zeros(16, np.int8),
        "wb": rng.integers(-100, 100, 16, np.int32),
        "vq": rng.integers(20, 220, (8, 16, 1, 1), np.uint8),
        "vz": np.uint8(128),
        "m": rng.integers(0, 255, (8, 4), np.uint8),
        "mz": np.uint8(127),
    }
    return model(nodes, {"x": "1x3x6x6"}, ["y"], weights)


def test_quantized_operators_are_cut_with_their_zero_points_respected() -> None:
    smaller, proof = halve(quantized_operators())
    assert shapes(smaller, "wq", "ws", "wz", "wb", "vq", "m") == {
        "wq": (8, 3, 3, 3),
        "ws": (8,),
        "wz": (8,),
        "wb": (8,),
        "vq": (4, 8, 1, 1),
        "m": (4, 4),
    }
    sound(smaller, proof)


def test_quantized_operators_between_convolutions() -> None:
    """onnxruntime's QOperator format: a residual, a gate and a Concat over integers, pooled."""
    ms = "com.microsoft"
    rng = np.random.default_rng(0)
    nodes = [
        node("QuantizeLinear", "x s z", "xq"),
        node("QLinearConv", "xq s z wq ws wz s z", "a"),
        node("QLinearConv", "a s z vq ws wz s z", "b"),
        node("QLinearAdd", "a s z b s z s z", "c", domain=ms),
        node("QLinearSigmoid", "c s z s z", "d", domain=ms),
        node("QLinearMul", "c s z d s z s z", "e", domain=ms),
        node("QLinearLeakyRelu", "e s z s z", "f", domain=ms),
        node("QLinearConcat", "s z f s z b s z", "g", domain=ms, axis=1),
        node("QLinearAveragePool", "g s z s z", "h", domain=ms, kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1]),
        node("QLinearGlobalAveragePool", "h s z s z", "i", domain=ms),
        node("Flatten", "i", "j"),
        node("QGemm", "j s z m ws wz _ s z", "k", domain=ms, transB=1),
        node("DequantizeLinear", "k s z", "y"),
    ]
    weights: dict[str, Any] = {
        "s": np.float32(0.05),
        "z": np.uint8(120),
        "wq": rng.integers(-60, 60, (16, 3, 3, 3), np.int8),
        "vq": rng.integers(-60, 60, (16, 16, 1, 1), np.int8),
        "m": rng.integers(-60, 60, (4, 32), np.int8),
        "ws": np.float32(0.02),
        "wz": np.int8(0),
    }
    built = model(nodes, {"x": "1x3x9x9"}, ["y"], weights, domains={ms: 1})
    built.proto.graph.output[0].CopyFrom(value("y", "1x4"))
    smaller, proof = halve(built)
    assert shapes(smaller, "wq", "vq", "m") == {"wq": (8, 3, 3, 3), "vq": (8, 8, 1, 1), "m": (4, 16)}
    sound(smaller, proof)


def ranged(*last: onnx.NodeProto, extra: Mapping[str, Any] | None = None) -> Model:
    """A MatMul on bytes whose scale follows from what comes in, and another layer behind it."""
    nodes = [
        node("MatMul", "x w", "a"),
        node("DynamicQuantizeLinear", "a", "q s z"),
        node("MatMulInteger", "q v z vz", "i"),
        node("Cast", "i", "f", to=FLOAT),
        node("Mul", "f s", "b"),
        *last,
    ]
    rng = np.random.default_rng(0)
    weights = {"w": "5x12", "v": rng.integers(0, 255, (12, 16), np.uint8), "vz": np.uint8(127), **(extra or {})}
    built = model(nodes, {"x": "2x3x5"}, ["y"], weights, domains={"com.microsoft": 1})
    built.proto.graph.output[0].CopyFrom(value("y", "2x3x4" if last[-1].op_type != "DynamicQuantizeLSTM" else "2x1x3x6"))
    return built


def test_ranges_for_quantization_over_what_is_left() -> None:
    """Zero is in every such range, so that a channel of zeros counts as one that is not there."""
    extra = {"m": weight("16x4").astype(np.int8), "ms": np.float32(0.1), "mz": np.int8(0), "bias": "4"}
    built = ranged(node("DynamicQuantizeMatMul", "b m ms mz bias", "y", domain="com.microsoft"), extra=extra)
    assert not solve(built).groups
    smaller, proof = halve(built, cut_norms=True)
    assert shapes(smaller, "w", "v", "m") == {"w": (5, 6), "v": (6, 8), "m": (8, 4)}
    sound(smaller, proof)


@pytest.mark.parametrize("directions", [1, 2])
def test_a_recurrent_layer_keeps_what_it_quantizes_by_ranges_inside(directions: int) -> None:
    rng = np.random.default_rng(1)
    extra = {
        "lw": rng.integers(-99, 99, (directions, 16, 24), np.int8),
        "lr": rng.integers(-99, 99, (directions, 6, 24), np.int8),
        "lb": f"{directions}x48",
        "ls": np.full(directions, 0.01, np.float32),
        "lz": np.arange(directions, dtype=np.int8),
    }
    way: dict[str, Any] = {"direction": "bidirectional" if directions == 2 else "forward", "hidden_size": 6}
    lstm = node("DynamicQuantizeLSTM", "b lw lr lb _ _ _ _ ls lz ls lz", "y", domain="com.microsoft", **way)
    built = ranged(lstm, extra=extra)
    built.proto.graph.output[0].CopyFrom(value("y", f"2x{directions}x3x6"))
    smaller, proof = halve(built, cut_norms=True)
    assert shapes(smaller, "w", "v") == {"w": (5, 6), "v": (6, 16)}
    assert shapes(smaller, "lw", "lr") == {"lw": (directions, 16, 24), "lr": (directions, 6, 24)}
    sound(smaller, proof)


def test_two_quantized_activations_are_multiplied() -> None:
    """Q·Kᵀ over bytes, as in a quantized attention: what is removed is at the zero point there."""
    nodes = [
        node("QuantizeLinear", "x s z", "xq"),
        node("QGemm", "xq s z w ws wz _ s z", "q", domain="com.microsoft"),
        node("QGemm", "xq s z v ws wz _ s z", "k", domain="com.microsoft"),
        node("Transpose", "k", "t", perm=[1, 0]),
        node("QLinearMatMul", "q s z t s z s z", "p"),
        node("DequantizeLinear", "p s z", "y"),
    ]
    rng = np.random.default_rng(0)
    held = {"w": rng.integers(-99, 99, (8, 12), np.int8), "v": rng.integers(-99, 99, (8, 12), np.int8)}
    scales = {"s": np.float32(0.05), "z": np.int8(7), "ws": np.float32(0.01), "wz": np.int8(0)}
    built = model(nodes, {"x": "5x8"}, ["y"], {**held, **scales}, domains={"com.microsoft": 1})
    built.proto.graph.output[0].CopyFrom(value("y", "5x5"))
    smaller, proof = halve(built)
    assert shapes(smaller, "w", "v") == {"w": (8, 6), "v": (8, 6)}
    sound(smaller, proof)
