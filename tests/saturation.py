"""A processor without VNNI, in numpy: onnxruntime's fused graph, whose sums of 8-bit products saturate in pairs at 16 bits.

x86's VPMADDUBSW multiplies unsigned by signed bytes and adds neighbours with saturation; onnxruntime flips the sign bit of signed
left operands first and takes zero points off afterwards. Source: onnxruntime's MLAS, the U8S8 kernels for AVX2.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnxsparse.ir.model import Model
from onnxsparse.runtime.session import Feeds
from tests.graphs import Array


def saturating_product(a: Array, b: Array, a_zero: Array, b_zero: Array) -> Array:
    """(a − a_zero) · (b − b_zero) in int32, for a of … × K and b of K × N, as those kernels compute it."""
    if b.dtype == np.uint8:  # both are widened to 16 bits first, which is exact
        exact: Array = (a.astype(np.int32) - a_zero.astype(np.int32)) @ (b.astype(np.int32) - b_zero.astype(np.int32))
        return exact
    flip = 128 if a.dtype == np.int8 else 0
    left, right = a.astype(np.int32) + flip, b.astype(np.int32)
    if left.shape[-1] % 2:
        left = np.concatenate([left, np.zeros_like(left[..., :1])], -1)
        right = np.concatenate([right, np.zeros_like(right[:1])])
    products = left[..., :, None] * right
    pairs = products[..., 0::2, :] + products[..., 1::2, :]
    total = np.clip(pairs, -(1 << 15), (1 << 15) - 1).sum(-2, dtype=np.int32)
    left_zero, right_zero = a_zero.astype(np.int32) + flip, b_zero.astype(np.int32)
    total -= left_zero * right.sum(0) + right_zero * left.sum(-1, keepdims=True)
    found: Array = total + a.shape[-1] * left_zero * right_zero
    return found


def requantized(total: Array, scale: Array, zero_point: Array) -> Array:
    """A sum as integers of the result's type; `scale`: of the products over that of the result."""
    limits = np.iinfo(zero_point.dtype)
    found: Array = np.clip(np.rint(total * scale) + zero_point, limits.min, limits.max).astype(zero_point.dtype)
    return found


class MatMulInteger(OpRun):
    def _run(self, a: Array, b: Array, a_zero: Any = None, b_zero: Any = None) -> tuple[Array]:
        nothing = np.zeros((), np.int32)
        return (saturating_product(a, b, nothing if a_zero is None else a_zero, nothing if b_zero is None else b_zero),)


class QLinearMatMul(OpRun):
    def _run(self, a: Array, sa: Array, za: Array, b: Array, sb: Array, zb: Array, sy: Array, zy: Array) -> tuple[Array]:
        return (requantized(saturating_product(a, b, za, zb), sa * sb / sy, zy),)


class QGemm(OpRun):
    op_domain = "com.microsoft"

    def _run(
        self, a: Array, sa: Array, za: Array, b: Array, sb: Array, zb: Array, c: Any, sy: Array, zy: Array, **given: Any
    ) -> Any:
        b = b.T if given.get("transB") else b
        total = saturating_product(a, b, za, zb) + (0 if c is None else c)
        return (requantized(total, sa * sb / sy, zy),)


class QLinearConv(OpRun):
    """Of one group, with strides and dilations of 1; the products of one place lie side by side."""

    def _run(
        self, x: Array, sx: Array, zx: Array, w: Array, sw: Array, zw: Array, sy: Array, zy: Array, b: Any = None, **given: Any
    ) -> Any:
        kernel = w.shape[2:]
        pads = given.get("pads") or [0] * 4
        padded = np.pad(x, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])], constant_values=int(zx))
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))  # N C H W kh kw
        rows = windows.transpose(0, 2, 3, 4, 5, 1).reshape(*windows.shape[:1], *windows.shape[2:4], -1)
        total = saturating_product(rows, w.transpose(2, 3, 1, 0).reshape(-1, len(w)), zx, zw.reshape(-1)[:1])
        total = total + (0 if b is None else b)
        return (requantized(total, sx * sw / sy, zy).transpose(0, 3, 1, 2),)


class MatMulIntegerToFloat(OpRun):
    op_domain = "com.microsoft"

    def _run(self, a: Array, b: Array, sa: Array, sb: Array, za: Any = None, zb: Any = None, bias: Any = None) -> tuple[Array]:
        nothing = np.zeros((), np.int32)
        total = saturating_product(a, b, nothing if za is None else za, nothing if zb is None else zb)
        return ((total * (sa * sb) + (0 if bias is None else bias)).astype(np.float32),)


OPS = [MatMulInteger, QLinearMatMul, MatMulIntegerToFloat, QGemm, QLinearConv]


@dataclass
class Saturating:
    """A model as such a processor runs it."""

    evaluator: ReferenceEvaluator
    outputs: list[str]

    def run(self, feeds: Feeds) -> dict[str, Array]:
        return dict(zip(self.outputs, self.evaluator.run(None, feeds), strict=True))


def run_saturating(model: Model, custom_ops: Sequence[Path] = ()) -> Saturating:
    """`model`, fused by onnxruntime into integer kernels, which are computed here."""
    assert not custom_ops
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "fused.onnx")
        onnxruntime.InferenceSession(model.to_bytes(), options, providers=["CPUExecutionProvider"])
        fused = onnx.load(options.optimized_model_filepath)
    return Saturating(ReferenceEvaluator(fused, new_ops=OPS), [o.name for o in fused.graph.output])
