"""What integers mean: the scale and zero point of a quantizer, read from its constants."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnxsparse.analysis.stored_weights import Resolver
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.weights import Array
from onnxsparse.ops import OpView, Scaling

INTEGERS = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT16, onnx.TensorProto.UINT16}
"""Those of activations that clip where a Relu does."""


class Stays(Exception):  # noqa: N818 - not an error: the node is left as it is
    """Why integers keep their scale."""


@dataclass(frozen=True)
class Scale:
    """Of a tensor, or several along `axis`, in blocks of `block` (0: none). `type`: of the integers. `names`: its constants."""

    values: Array
    zero_point: Array
    type: int
    axis: int
    block: int
    names: tuple[str, ...]

    def equals(self, other: "Scale") -> bool:
        same = self.values.tobytes() == other.values.tobytes() and np.array_equal(self.zero_point, other.zero_point)
        return same and (self.is_single or (self.axis, self.block) == (other.axis, other.block))

    @property
    def is_single(self) -> bool:
        return self.values.size == 1

    @property
    def starts_at_zero(self) -> bool:
        """Whether the lowest integer stands for zero, so that what is negative is clipped."""
        return self.is_single and self.type in INTEGERS and self.zero_point.reshape(-1)[0] == self._limits.min

    @property
    def end(self) -> float:
        """What the highest integer stands for."""
        return self.real(self._limits.max)

    def real(self, integer: int) -> float:
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
        zero_point = np.zeros((), np.int8)  # one zero for all is what none at all means
    return Scale(values[0], zero_point, integers, scaling.axis(op), scaling.block(op), names)
