"""Bits per element of each element type."""

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
"""Float types of 16 bits and more. A target computes them in its own precision; narrower floats count as quantized."""


def integer_bits(element_type: int) -> int | None:
    """Bits of an integer, a boolean, or a float of at most 8 bits.

    None for wider floats, strings, and a type that is unknown (0) or that onnx does not define.
    """
    if element_type in FLOATS or element_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        return None
    if element_type not in TensorProto.DataType.values():
        return None
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(element_type))
    if dtype.kind != "V":  # kind "V": types of ml_dtypes; numpy gives one byte for those narrower than a byte
        return dtype.itemsize * 8
    about = ml_dtypes.iinfo if "int" in dtype.name else ml_dtypes.finfo
    bits: int = about(dtype).bits
    return bits
