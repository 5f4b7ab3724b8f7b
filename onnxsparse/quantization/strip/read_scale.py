"""The scale and zero point of a QuantizeLinear or DequantizeLinear, read from its constants."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnxsparse.analysis.stored_weights import Resolver
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.weights import Array
from onnxsparse.ops import OpView, Scaling

INTEGERS = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT16, onnx.TensorProto.UINT16}
"""Types of quantized activations; their lowest integer clips like a Relu if it stands for zero."""


class Stays(Exception):  # noqa: N818 - not an error: the node is left as it is
    """Raised with the reason why integers keep their scale."""


@dataclass(frozen=True)
class Scale:
    """Scale and zero point of integers: one of each, or one per index or block along an axis."""

    values: Array
    zero_point: Array
    type: int
    """Element type of the integers, as in TensorProto."""
    axis: int
    """The axis along which there are several scales."""
    block: int
    """Elements along the axis that share a scale; 0 for one scale per index."""
    names: tuple[str, ...]
    """Names of the scale and, if present, the zero point in the graph."""

    def equals(self, other: "Scale") -> bool:
        """Whether two scales give the same reals for the same integers, bit for bit; the types may differ."""
        same = self.values.tobytes() == other.values.tobytes() and np.array_equal(self.zero_point, other.zero_point)
        return same and (self.is_single or (self.axis, self.block) == (other.axis, other.block))

    @property
    def is_single(self) -> bool:
        """Whether there is one scale for the whole tensor."""
        return self.values.size == 1

    @property
    def starts_at_zero(self) -> bool:
        """Whether the lowest integer stands for 0, so that negative values are clipped."""
        return self.is_single and self.type in INTEGERS and self.zero_point.reshape(-1)[0] == self._limits.min

    @property
    def end(self) -> float:
        """The real value of the highest integer; only for a single scale."""
        return self.real(self._limits.max)

    def real(self, integer: int) -> float:
        """The real value of an integer; only for a single scale."""
        return float(self.values.reshape(-1)[0]) * (integer - int(self.zero_point.reshape(-1)[0]))

    @property
    def _limits(self) -> "np.iinfo[np.signedinteger[np.typing.NBitBase]]":
        return np.iinfo(helper.tensor_dtype_to_np_dtype(self.type))


def read_scale(resolver: Resolver, graph: Graph, node: onnx.NodeProto, scaling: Scaling, integers: int) -> Scale:
    """The scale of a node that quantizes or dequantizes, on integers of type `integers`. Raises Stays for a computed one."""
    op = OpView(node, (), ())
    names = tuple(node.input[at] for at in (scaling.scale, scaling.zero_point) if op.has_input(at))
    found = [resolver.constant(graph, name) for name in names]
    if None in found:
        raise Stays("its scale or zero point is computed")
    values = [resolver.weights[name] for name in found if name is not None]
    zero_point: Array = values[1] if len(values) > 1 else np.zeros((), np.int8)
    if not zero_point.any():
        zero_point = np.zeros((), np.int8)  # zeros of any type and shape mean the same as a missing zero point
    return Scale(values[0], zero_point, integers, scaling.axis(op), scaling.block(op), names)
