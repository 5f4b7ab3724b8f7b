"""The protos that graphsurgeon objects were made from, so that only differences are written."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxsparse.ir.weights import Array, Weights, element_dtype

# attribute type → field. Sparse tensors, type protos, and lists of tensors or graphs are missing: graphsurgeon has no such values
SIMPLE_FIELDS = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
}


class StoredValues(LazyValues):  # type: ignore[misc]  # graphsurgeon has no types
    """Values that stay in the model's weights until they are read. `key`: the name there, None for a tensor without a name."""

    def __init__(self, weights: Weights, tensor: onnx.TensorProto, key: str | None) -> None:
        self.tensor = tensor
        self.shape = list(tensor.dims)
        self.dtype = object if tensor.data_type == onnx.TensorProto.STRING else element_dtype(tensor.name, tensor.data_type)
        self._weights, self._key = weights, key

    def load(self) -> Array:
        """The values as an array that may be changed."""
        if self._key is None:
            return onnx.numpy_helper.to_array(self.tensor)
        return np.array(self._weights[self._key])


@dataclass(frozen=True)
class TensorOrigin:
    """The origin of a constant or variable.

    `name`: as imported. `proto`: of a constant, None for a variable. `key`: name in the model's weights, None if it has none.
    `described`: dtype and shape as imported, to detect changes.
    """

    tensor: Any
    name: str
    proto: onnx.TensorProto | None
    key: str | None = None
    described: tuple[Any, Any] = (None, None)


@dataclass(frozen=True)
class NodeOrigin:
    """The origin of a node. `values`: its attributes as imported, to detect changes."""

    node: Any
    proto: onnx.NodeProto
    values: dict[str, Any]


@dataclass(frozen=True)
class BodyOrigin:
    """The origin of a graph or function.

    `tensors`: imported name → object. `used`: names of the constants that were used, so that a constant that becomes unused is
    dropped, and one that always was unused is kept.
    """

    body: Any
    proto: Any
    tensors: dict[str, Any]
    used: set[str]


@dataclass
class Origins:
    """The origins of all objects, by `id`. An origin holds its object, so that the id stays valid."""

    tensors: dict[int, TensorOrigin] = field(default_factory=dict)
    nodes: dict[int, NodeOrigin] = field(default_factory=dict)
    bodies: dict[int, BodyOrigin] = field(default_factory=dict)


def held_back(attribute: AttributeProto) -> bool:
    """Whether graphsurgeon cannot represent an attribute. Such an attribute stays in the node's proto."""
    return attribute.type not in (*SIMPLE_FIELDS, AttributeProto.TENSOR, AttributeProto.GRAPH)
