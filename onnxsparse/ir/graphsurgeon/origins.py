"""What graphsurgeon objects came from, so that only what differs is written."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxsparse.ir.weights import Array, Weights, element_dtype

# attribute type → field; the others (sparse tensors, type protos, lists of tensors and graphs) are held back
SIMPLE_FIELDS = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
}


class StoredValues(LazyValues):  # type: ignore[misc]  # graphsurgeon has no types
    """Values that stay in the model's weights until somebody reads them."""

    def __init__(self, weights: Weights, tensor: onnx.TensorProto, key: str | None) -> None:
        self.tensor = tensor
        self.shape = list(tensor.dims)
        self.dtype = object if tensor.data_type == onnx.TensorProto.STRING else element_dtype(tensor.name, tensor.data_type)
        self._weights, self._key = weights, key

    def load(self) -> Array:
        if self._key is None:
            return onnx.numpy_helper.to_array(self.tensor)
        return np.array(self._weights[self._key])


@dataclass(frozen=True)
class TensorOrigin:
    """`key`: name in the model's weights; `described`: dtype and shape as imported, to see whether somebody changed them."""

    tensor: Any
    name: str
    proto: onnx.TensorProto | None
    key: str | None = None
    described: tuple[Any, Any] = (None, None)


@dataclass(frozen=True)
class NodeOrigin:
    node: Any
    proto: onnx.NodeProto
    values: dict[str, Any]


@dataclass(frozen=True)
class BodyOrigin:
    """A graph or function. `constants`: those of its initializers that something used, by name."""

    body: Any
    proto: Any
    tensors: dict[str, Any]
    used: set[str]


@dataclass
class Origins:
    """Where objects come from, by identity; holding the objects keeps their identities theirs."""

    tensors: dict[int, TensorOrigin] = field(default_factory=dict)
    nodes: dict[int, NodeOrigin] = field(default_factory=dict)
    bodies: dict[int, BodyOrigin] = field(default_factory=dict)


def held_back(attribute: AttributeProto) -> bool:
    """Whether graphsurgeon cannot show an attribute; it stays with its node."""
    return attribute.type not in (*SIMPLE_FIELDS, AttributeProto.TENSOR, AttributeProto.GRAPH)
