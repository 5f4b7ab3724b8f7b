"""Integer ops rewritten as float nodes that compute the same numbers on every processor.

Kernels for 8-bit integers add pairs of products in 16 bits where a processor has no 32-bit instruction (x86 without VNNI), and
saturate. Floats sum integers exactly: float64 up to 2⁵³; float32, the only type that onnxruntime convolves, up to 2²⁴.

A rule raises UnknownFact if the node cannot be rewritten.

Source: the ONNX operator pages of MatMulInteger, ConvInteger, QLinearMatMul and QLinearConv; onnxruntime's ContribOperators for
the others.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxsparse.ops.sizes import UnknownFact
from onnxsparse.ops.view import OpView

DOUBLE, FLOAT, INT32 = TensorProto.DOUBLE, TensorProto.FLOAT, TensorProto.INT32


@dataclass
class Exact:
    """One op being rewritten."""

    op: OpView
    """The op."""
    opset: int
    """Version of the standard domain."""
    stored: Callable[[int], NDArray[np.generic] | None]
    """Value of a constant input by position. None: it is computed."""
    constant: Callable[[NDArray[np.generic]], str]
    """Stores an array and returns its name."""
    add: Callable[..., str]
    """(op type, inputs, attributes…) adds a node and returns its output's name."""
    add_several: Callable[[str, list[str], int], list[str]]
    """As `add`, with the number of outputs; returns their names."""
    finish: Callable[..., None]
    """Adds the node that produces the op's own output."""

    def name(self, at: int) -> str:
        """Name of input `at`; empty if it is missing."""
        return self.op.node.input[at] if self.op.has_input(at) else ""

    def cast(self, value: str, kind: int) -> str:
        """The value as the element type `kind` of TensorProto."""
        return self.add("Cast", [value], to=kind)

    def centred(self, value: str, zero_point: str, kind: int) -> str:
        """Integers minus their zero point, as floats of type `kind`; an empty `zero_point` is 0."""
        floats = self.cast(value, kind)
        return self.add("Sub", [floats, self.cast(zero_point, kind)]) if zero_point else floats

    def one_value(self, at: int) -> str:
        """Name of an input that holds one number for a whole tensor. Raises UnknownFact if it holds several."""
        values = self.stored(at) if self.op.has_input(at) else None
        if values is not None and values.size > 1:
            raise UnknownFact("its activation has several scales or zero points")
        return self.name(at)

    def per_output(self, at: int, trailing: int) -> str:
        """Name of one number per tensor or per output channel, shaped to broadcast against `trailing` axes after the channels.

        Empty if the input is missing. Raises UnknownFact if it is computed.
        """
        if not self.op.has_input(at):
            return ""
        values = self.stored(at)
        if values is None:
            raise UnknownFact("the scales or zero points of its weight are computed")
        return self.name(at) if values.size == 1 else self.constant(values.reshape(-1, *[1] * trailing))

    def scaled(self, total: str, a_scale: str, b_scale: str, b_at: int) -> str:
        """A float32 sum of products times both scales. Raises UnknownFact if the stored scale `b_at` is not float32."""
        values = self.stored(b_at)
        if values is not None and values.dtype != np.float32:
            raise UnknownFact(f"its scales are {values.dtype}, not float32")
        return self.add("Mul", [total, self.add("Mul", [a_scale, b_scale])])


def exact_matmul_integer(e: Exact) -> None:
    """MatMulInteger: A, B and their zero points as inputs 2 and 3; the result is int32."""
    total = integer_product(e, e.name(0), e.one_value(2), e.name(1), e.name(3))
    e.finish("Cast", [total], to=INT32)


def exact_matmul_to_float(e: Exact) -> None:
    """MatMulIntegerToFloat: scales of A and B are inputs 2 and 3, zero points 4 and 5, the bias 6."""
    total = integer_product(e, e.name(0), e.one_value(4), e.name(1), e.name(5))
    finish_float(e, e.scaled(e.cast(total, FLOAT), e.one_value(2), e.name(3), 3), bias=6)


def exact_dynamic_matmul(e: Exact) -> None:
    """DynamicQuantizeMatMul: A is quantized by its own range; B's scale is input 2, its zero point 3, the bias 4.

    Raises UnknownFact before opset 11, which introduced DynamicQuantizeLinear.
    """
    if e.opset < 11:
        raise UnknownFact("its float form needs DynamicQuantizeLinear, which opset 11 introduced")
    integers, scale, zero_point = e.add_several("DynamicQuantizeLinear", [e.name(0)], 3)
    total = integer_product(e, integers, zero_point, e.name(1), e.name(3))
    finish_float(e, e.scaled(e.cast(total, FLOAT), scale, e.name(2), 2), bias=4)


def exact_qlinear_matmul(e: Exact) -> None:
    """QLinearMatMul: A, its scale and zero point; B and its two; the result's two."""
    total = integer_product(e, e.name(0), e.one_value(2), e.name(3), e.name(5))
    e.finish("QuantizeLinear", [e.scaled(e.cast(total, FLOAT), e.one_value(1), e.name(4), 4), e.name(6), e.name(7)])


def exact_qgemm(e: Exact) -> None:
    """QGemm: as QLinearMatMul, either side transposed. C (6) is added to the sums; without a scale (7) the result is a float.

    Raises UnknownFact for a C with an alpha other than 1, which onnxruntime does not scale.
    """
    if e.op.has_input(6) and e.op.real("alpha", 1.0) != 1:
        raise UnknownFact("its alpha is not 1, and does not scale its C")
    a, b = e.centred(e.name(0), e.one_value(2), DOUBLE), e.name(3)
    trailing = 1 if e.op.number("transB", 0) else 0
    b = e.centred(b, e.per_output(5, trailing), DOUBLE)
    a, b = (
        e.add("Transpose", [value], perm=[1, 0]) if e.op.number(flag, 0) else value
        for value, flag in ((a, "transA"), (b, "transB"))
    )
    total = e.add("MatMul", [a, b])
    total = e.add("Add", [total, e.cast(e.name(6), DOUBLE)]) if e.op.has_input(6) else total
    floats = e.cast(total, FLOAT)
    if e.op.real("alpha", 1.0) != 1:
        floats = e.add("Mul", [floats, e.constant(np.array(e.op.real("alpha", 1.0), np.float32))])
    result = e.scaled(floats, e.one_value(1), e.name(4), 4)
    if e.op.has_input(7):
        e.finish("QuantizeLinear", [result, *filter(None, [e.name(7), e.name(8)])])
    else:
        e.finish("Identity", [result])


def exact_conv_integer(e: Exact) -> None:
    """ConvInteger: x, w and their zero points as inputs 2 and 3; the result is int32."""
    trailing = len(e.op.input(1)) - 1
    total = integer_convolution(e, e.name(0), e.one_value(2), e.name(1), e.per_output(3, trailing), "")
    e.finish("Cast", [total], to=INT32)


def exact_qlinear_conv(e: Exact) -> None:
    """QLinearConv: x, its scale and zero point; w and its two; the result's two; a bias with the scale of the products.

    onnxruntime's own version of the op may have activations channels last.
    """
    rank = len(e.op.input(3))
    last = e.op.number("channels_last", 0)
    x = e.add("Transpose", [e.name(0)], perm=[0, rank - 1, *range(1, rank - 1)]) if last else e.name(0)
    total = integer_convolution(e, x, e.one_value(2), e.name(3), e.per_output(5, rank - 1), e.name(8))
    real = e.scaled(total, e.one_value(1), e.per_output(4, rank - 2), 4)
    if last:
        real = e.add("Transpose", [real], perm=[0, *range(2, rank), 1])
    e.finish("QuantizeLinear", [real, e.name(6), e.name(7)])


def exact_nbits(e: Exact) -> None:
    """MatMulNBits in float32. `accuracy_level` is dropped, because level 4 lets the kernel quantize activations to 8 bits."""
    kept = [a for a in e.op.node.attribute if a.name != "accuracy_level"]
    e.finish(e.op.node.op_type, list(e.op.node.input), domain=e.op.node.domain, attributes=kept)


def integer_product(e: Exact, a: str, a_zero: str, b: str, b_zero: str) -> str:
    """A · B of integers minus their zero points, in float64. B's zero point may have one element per column."""
    return e.add("MatMul", [e.centred(a, a_zero, DOUBLE), e.centred(b, b_zero, DOUBLE)])


def integer_convolution(e: Exact, x: str, x_zero: str, w: str, w_zero: str, bias: str) -> str:
    """Convolution of integers minus their zero points, in float32. Padding follows the subtraction, so padded elements are
    zero.
    """
    inputs = [e.centred(x, x_zero, FLOAT), e.centred(w, w_zero, FLOAT), *([e.cast(bias, FLOAT)] if bias else [])]
    return e.add("Conv", inputs, attributes=[a for a in e.op.node.attribute if a.name != "channels_last"])


def finish_float(e: Exact, real: str, bias: int) -> None:
    """Add the bias at input `bias`, if it exists, and produce the op's float output."""
    if e.op.has_input(bias):
        e.finish("Add", [real, e.name(bias)])
    else:
        e.finish("Identity", [real])
