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
    """Values that stay in the model's weights until they are read. `name`: for messages."""

    def __init__(self, weights: Weights, tensor: onnx.TensorProto, name: str) -> None:
        self.tensor = tensor
        self.shape = list(tensor.dims)
        self.dtype = object if tensor.data_type == onnx.TensorProto.STRING else element_dtype(name, tensor.data_type)
        self._weights, self._name = weights, name

    def load(self) -> Array:
        """The values as an array that may be changed. Raises ModelError for data that is damaged or missing."""
        return np.array(self._weights.read(self._name, self.tensor))


@dataclass(frozen=True)
class TensorOrigin:
    """The origin of a constant or variable.

    `name`: as imported. `values`: of a constant, None for a variable. `described`: dtype and shape of a variable as imported, to
    detect changes.
    """

    tensor: Any
    name: str
    values: StoredValues | None = None
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
