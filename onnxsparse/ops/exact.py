"""Ops that sum products of integers, written as float nodes that compute the same numbers on every processor.

Kernels for 8-bit integers add pairs of products in 16 bits where a processor has no instruction for 32 (x86 without VNNI), and
saturate. Floats sum integers exactly: float64 up to 2⁵³, and float32, which is all that onnxruntime convolves, up to 2²⁴.

Sources: the ONNX operator pages of MatMulInteger, ConvInteger, QLinearMatMul and QLinearConv, onnxruntime's ContribOperators for
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
    """One op being written out.

    `opset`: the standard domain's. `stored(at)`: the value of a constant input, None where it is computed. `constant` stores an
    array and returns its name. `add(op_type, inputs, …)` adds a node and returns its output; `finish` adds the node that makes
    the op's own output.
    """

    op: OpView
    opset: int
    stored: Callable[[int], NDArray[np.generic] | None]
    constant: Callable[[NDArray[np.generic]], str]
    add: Callable[..., str]
    add_several: Callable[[str, list[str], int], list[str]]
    finish: Callable[..., None]

    def name(self, at: int) -> str:
        return self.op.node.input[at] if self.op.has_input(at) else ""

    def cast(self, value: str, kind: int) -> str:
        return self.add("Cast", [value], to=kind)

    def centred(self, value: str, zero_point: str, kind: int) -> str:
        """Integers less their zero point, as floats of type `kind`."""
        floats = self.cast(value, kind)
        return self.add("Sub", [floats, self.cast(zero_point, kind)]) if zero_point else floats

    def one_value(self, at: int) -> str:
        """An input that holds one number for a whole tensor. Raises UnknownFact for a stored one that holds several."""
        values = self.stored(at) if self.op.has_input(at) else None
        if values is not None and values.size > 1:
            raise UnknownFact("one scale and zero point for the whole activation")
        return self.name(at)

    def per_output(self, at: int, trailing: int) -> str:
        """One number for a tensor or each output channel, followed by `trailing` axes. Raises UnknownFact for computed ones."""
        if not self.op.has_input(at):
            return ""
        values = self.stored(at)
        if values is None:
            raise UnknownFact("constant scales and zero points of its weight")
        return self.name(at) if values.size == 1 else self.constant(values.reshape(-1, *[1] * trailing))

    def scaled(self, total: str, a_scale: str, b_scale: str, b_at: int) -> str:
        """A sum of products in float32, times both scales. Raises UnknownFact for a stored scale `b_at` of another type."""
        values = self.stored(b_at)
        if values is not None and values.dtype != np.float32:
            raise UnknownFact("scales of float32")
        return self.add("Mul", [total, self.add("Mul", [a_scale, b_scale])])


def exact_matmul_integer(e: Exact) -> None:
    total = integer_product(e, e.name(0), e.one_value(2), e.name(1), e.name(3))
    e.finish("Cast", [total], to=INT32)


def exact_matmul_to_float(e: Exact) -> None:
    """MatMulIntegerToFloat: A's scale is input 2, B's 3, zero points 4 and 5, the bias 6."""
    total = integer_product(e, e.name(0), e.one_value(4), e.name(1), e.name(5))
    finish_float(e, e.scaled(e.cast(total, FLOAT), e.one_value(2), e.name(3), 3), bias=6)


def exact_dynamic_matmul(e: Exact) -> None:
    """DynamicQuantizeMatMul: A is quantized by its own range; B's scale is input 2, its zero point 3, the bias 4."""
    if e.opset < 11:
        raise UnknownFact("opset 11, for DynamicQuantizeLinear")
    integers, scale, zero_point = e.add_several("DynamicQuantizeLinear", [e.name(0)], 3)
    total = integer_product(e, integers, zero_point, e.name(1), e.name(3))
    finish_float(e, e.scaled(e.cast(total, FLOAT), scale, e.name(2), 2), bias=4)


def exact_qlinear_matmul(e: Exact) -> None:
    """A, its scale and zero point, B with its, then those of the result."""
    total = integer_product(e, e.name(0), e.one_value(2), e.name(3), e.name(5))
    e.finish("QuantizeLinear", [e.scaled(e.cast(total, FLOAT), e.one_value(1), e.name(4), 4), e.name(6), e.name(7)])


def exact_qgemm(e: Exact) -> None:
    """As QLinearMatMul, either side transposed; C (6) is added to the sums, and without a scale (7) the result is a float."""
    if e.op.has_input(6) and e.op.real("alpha", 1.0) != 1:
        raise UnknownFact("a C that alpha does not scale")
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
    trailing = len(e.op.input(1)) - 1
    total = integer_convolution(e, e.name(0), e.one_value(2), e.name(1), e.per_output(3, trailing), "")
    e.finish("Cast", [total], to=INT32)


def exact_qlinear_conv(e: Exact) -> None:
    """x, its scale and zero point, w with its, those of the result, and a bias on the scale of the products.

    onnxruntime's own version of the op may have its channels last.
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
    """MatMulNBits in float32: its page leaves to the kernel whether `accuracy_level` 4 makes activations 8-bit integers."""
    kept = [a for a in e.op.node.attribute if a.name != "accuracy_level"]
    e.finish(e.op.node.op_type, list(e.op.node.input), domain=e.op.node.domain, attributes=kept)


def integer_product(e: Exact, a: str, a_zero: str, b: str, b_zero: str) -> str:
    """A · B of integers less their zero points, in float64; B's may be one for each column."""
    return e.add("MatMul", [e.centred(a, a_zero, DOUBLE), e.centred(b, b_zero, DOUBLE)])


def integer_convolution(e: Exact, x: str, x_zero: str, w: str, w_zero: str, bias: str) -> str:
    """x * w of integers less their zero points, in float32; padding comes after the zero point is taken off."""
    inputs = [e.centred(x, x_zero, FLOAT), e.centred(w, w_zero, FLOAT), *([e.cast(bias, FLOAT)] if bias else [])]
    return e.add("Conv", inputs, attributes=[a for a in e.op.node.attribute if a.name != "channels_last"])


def finish_float(e: Exact, real: str, bias: int) -> None:
    if e.op.has_input(bias):
        e.finish("Add", [real, e.name(bias)])
    else:
        e.finish("Identity", [real])
