"""How many bits an element takes."""

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
"""What a target computes in a width of its own. Floats of eight bits and less are quantized."""


def integer_bits(element_type: int) -> int | None:
    """Width of an integer, a boolean, or a float of at most 8 bits; None for other floats, texts, and an unknown type (0)."""
    if element_type in FLOATS or element_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        return None
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(element_type))
    if dtype.kind != "V":  # ml_dtypes' types below a byte count as one byte in numpy
        return dtype.itemsize * 8
    about = ml_dtypes.iinfo if "int" in dtype.name else ml_dtypes.finfo
    bits: int = about(dtype).bits
    return bits
