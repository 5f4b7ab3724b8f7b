"""Ops of onnxruntime on their own: names, models, and the shapes of the outputs at run time."""

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from onnxsparse.ir.model import Model
from tests.graphs import INT32, INT64, UINT8, single

MS = "com.microsoft"


def ms(op: str, order: str, inputs: Mapping[str, Any], weights: Mapping[str, Any] | None = None, **options: Any) -> Model:
    return single(op, order, inputs, weights, domain=MS, **options)


def integers(*values: int, dtype: type[np.generic] = np.int64) -> np.ndarray:
    return np.array(values, dtype)


ZERO, SCALE, BYTES = np.uint8(0), np.float32(0.1), np.ones((4, 3, 3, 3), np.uint8)

BNB4 = {"b": np.full(32, 0x77, np.uint8), "s": np.ones(4, np.float32)}

KEPT = {"p": "2x4x7x8", "v": "2x4x7x8"}
"""A past of 7 keys and values: batch 2, 4 heads of 8."""

CASES: list[tuple[str, Callable[[], Model], list[str]]] = [
    (
        "attention with a past of 7",
        lambda: ms(
            "Attention", "x w b _ p", {"x": "2x5x32", "p": "2x2x4x7x8"}, {"w": "32x96", "b": "96"}, num_heads=4, outputs="y q"
        ),
        ["2x5x32", "2x2x4x12x8"],
    ),
    (
        "quantized attention",
        lambda: ms(
            "QAttention",
            "x w b s s _ z z",
            {"x": ("2x5x32", UINT8)},
            {"w": np.ones((32, 96), np.uint8), "b": "96", "s": SCALE, "z": ZERO},
            num_heads=4,
        ),
        ["2x5x32"],
    ),
    (
        "multi-head attention with a past",
        lambda: ms(
            "MultiHeadAttention",
            "q k w _ _ _ p v",
            {"q": "2x5x32", "k": "2x5x32", "w": "2x5x32", **KEPT},
            num_heads=4,
            outputs="y a b",
        ),
        ["2x5x32", "2x4x12x8", "2x4x12x8"],
    ),
    (
        "multi-head attention over another sequence, in heads",
        lambda: ms("MultiHeadAttention", "q k v", {"q": "2x5x32", "k": "2x4x9x8", "v": "2x4x9x8"}, num_heads=4, outputs="y"),
        ["2x5x32"],
    ),
    (
        "grouped-query attention: the values say that 9 of 12 kept rows are in use",
        lambda: ms(
            "GroupQueryAttention",
            "q k w p v n t",
            {"q": "2x1x32", "k": "2x1x16", "w": "2x1x16", "p": "2x2x12x8", "v": "2x2x12x8"},
            {"n": integers(8, 8, dtype=np.int32), "t": integers(9, dtype=np.int32)},
            num_heads=4,
            kv_num_heads=2,
            outputs="y a b",
        ),
        ["2x1x32", "2x2x12x8", "2x2x12x8"],
    ),
    (
        "matrices transposed over the batch",
        lambda: ms("FusedMatMul", "a b", {"a": "6x3x4x5", "b": "3x4x5x7"}, transBatchA=1),
        ["3x4x6x7"],
    ),
    (
        "transposed over the batch, and then",
        lambda: ms("FusedMatMul", "a b", {"a": "5x3x6", "b": "7x3x5"}, transBatchA=1, transA=1, transBatchB=1, transB=1),
        ["3x6x7"],
    ),
    (
        "a convolution with what is added to it",
        lambda: ms("FusedConv", "x w _ z", {"x": "1x3x6x6", "z": "1x4x4x4"}, {"w": "4x3x3x3"}, activation="Relu"),
        ["1x4x4x4"],
    ),
    (
        "a quantized convolution, channels last",
        lambda: ms(
            "QLinearConv",
            "x s z w s z s z",
            {"x": ("1x8x6x3", UINT8)},
            {"s": SCALE, "z": ZERO, "w": BYTES},
            channels_last=1,
            strides=[2, 1],
            pads=[1, 0, 1, 0],
        ),
        ["1x4x4x4"],
    ),
    (
        "a quantized matrix product, as a float",
        lambda: ms(
            "MatMulIntegerToFloat",
            "a b s s",
            {"a": ("2x5x3", UINT8)},
            {"b": np.ones((3, 4), np.uint8), "s": SCALE},
        ),
        ["2x5x4"],
    ),
    (
        "embeddings",
        lambda: ms(
            "EmbedLayerNormalization",
            "i s w p t g b m",
            {"i": ("2x5", INT32), "s": ("2x5", INT32), "m": ("2x5", INT32)},
            {"w": "10x32", "p": "9x32", "t": "2x32", "g": "32", "b": "32"},
            outputs="y n e",
        ),
        ["2x5x32", "2", "2x5x32"],
    ),
    (
        "a sum that is normalised",
        lambda: ms("SkipLayerNormalization", "x s g", {"x": "2x5x8", "s": "5x8"}, {"g": "8"}, outputs="y _ _ n"),
        ["2x5x8", "2x5x8"],
    ),
    ("a Gelu with a bias", lambda: ms("BiasGelu", "x b", {"x": "2x5x8"}, {"b": "8"}), ["2x5x8"]),
    (
        "rotary embeddings",
        lambda: ms("RotaryEmbedding", "x i c s", {"x": "2x5x32", "i": ("2x5", INT64)}, {"c": "20x4", "s": "20x4"}, num_heads=4),
        ["2x5x32"],
    ),
    (
        "padding by values",
        lambda: ms("Pad", "x p", {"x": "2x5"}, {"p": integers(0, 1, 2, -1)}),
        ["4x5"],
    ),
    ("a triangle", lambda: ms("Trilu", "x", {"x": "2x5x3"}), ["2x5x3"]),
    ("inverses", lambda: ms("Inverse", "x", {"x": "2x1x1"}), ["2x1x1"]),
    (
        "4-bit floats times a matrix",
        lambda: ms("MatMulBnb4", "a b s", {"a": "2x3x16"}, BNB4, K=16, N=4, block_size=16, quant_type=1),
        ["2x3x4"],
    ),
    (
        "4-bit floats times a matrix, backwards",
        lambda: ms("MatMulBnb4", "a b s", {"a": "2x3x4"}, BNB4, K=16, N=4, block_size=16, quant_type=0, transB=0),
        ["2x3x16"],
    ),
    *(
        (
            f"an embedding of {bits}-bit integers in bytes",
            lambda bits=bits: ms(
                "GatherBlockQuantized",
                "t i s",
                {"i": ("2x5", INT64)},
                {"t": np.ones((20, 4 * bits), np.uint8), "s": "20x2"},
                block_size=16,
                bits=bits,
            ),
            ["2x5x32"],
        )
        for bits in (2, 4, 8)
    ),
    (
        "an embedding of 4-bit integers, along the last axis",
        lambda: ms(
            "GatherBlockQuantized",
            "t i s",
            {"i": ("2x5", INT64)},
            {"t": np.ones((32, 20), ml_dtypes.int4), "s": "2x20"},
            block_size=16,
            gather_axis=-1,
            quantize_axis=0,
            opset=21,
            ir_version=10,
        ),
        ["32x2x5"],
    ),
    (
        "a causal convolution",
        lambda: ms("CausalConvWithState", "x w", {"x": "2x8x10"}, {"w": "8x1x3"}, dilation=2, outputs="y s"),
        ["2x8x10", "2x8x4"],
    ),
    (
        "a causal convolution, channels last on two axes",
        lambda: ms("CausalConvWithState", "x w", {"x": "2x10x4x2"}, {"w": "8x1x3"}, channels_last=1, outputs="y s"),
        ["2x10x4x2", "2x2x4x2"],
    ),
    ("mixed experts", lambda: ms("MoE", "x r f _ g", {"x": "2x3x8", "r": "6x4"}, {"f": "4x32x8", "g": "4x8x32"}, k=2), ["2x3x8"]),
    ("a new axis", lambda: ms("ExpandDims", "x a", {"x": "2x5"}, {"a": np.array(-1, np.int32)}), ["2x5x1"]),
    (
        "a pool of integers, channels last",
        lambda: ms(
            "QLinearAveragePool",
            "x s z s z",
            {"x": ("1x7x9x3", UINT8)},
            {"s": SCALE, "z": ZERO},
            kernel_shape=[2, 2],
            strides=[2, 2],
            channels_last=1,
        ),
        ["1x3x4x3"],
    ),
    (
        "a pool rounded up, without a window that would begin after the last element",
        lambda: ms(
            "QLinearAveragePool",
            "x s z s z",
            {"x": ("1x3x5x6", UINT8)},
            {"s": SCALE, "z": ZERO},
            kernel_shape=[2, 2],
            strides=[3, 3],
            pads=[1, 1, 1, 1],
            ceil_mode=1,
        ),
        ["1x3x2x3"],
    ),
]
