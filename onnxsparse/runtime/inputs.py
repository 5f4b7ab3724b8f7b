"""Seeded random inputs that a model can work with."""

import math
from dataclasses import dataclass

import numpy as np
import onnx

from onnxsparse.errors import ParamError
from onnxsparse.ir.binding import fed_inputs, format_shape
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array, element_dtype
from onnxsparse.ops import OpView, find
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import Feeds

MAX_INPUT_BYTES = 1 << 47
"""The address space of a process on x86-64, in bytes."""


DIFFERENCE = "random inputs show that outputs differ, not how good they are; give --test"
"""The warning about judging on random inputs."""


def seeded_samples(model: Model, count: int, seed: int = 0, like: Feeds | None = None) -> Samples:
    """`count` random feeds, equal for equal seeds. The values of an input depend on its type and use:

    - floats: standard normal;
    - integers that index a table (Gather): 0 to the table's size − 1; other uint8: 0 to 255;
    - other integers: the first constant that the model compares them with, else 1;
    - booleans, and inputs with `mask` in their name: 1.

    `like`: a sample whose shapes they have; None: the shapes of the model.

    Raises ParamError for an input with open sizes, of a type that cannot be drawn, or larger than memory.
    """
    rng = np.random.default_rng(seed)
    graph = Graph(model.proto.graph)
    notes: list[str] = []
    shapes = {name: array.shape for name, array in (like or {}).items()}
    makers = {v.name: InputMaker(model, graph, v, notes, shapes.get(v.name)) for v in fed_inputs(model.proto.graph)}
    feeds = tuple({name: maker.draw(rng) for name, maker in makers.items()} for _ in range(count))
    return Samples(feeds, (f"{count} seeded random inputs", *notes, DIFFERENCE))


class InputMaker:
    """Draws the values of one input. `limit`: values are integers below it. `fixed`: all values equal it. Both None: normal
    floats.

    `notes`: a list to which the choice is added. Raises ParamError as `seeded_samples` does.
    """

    def __init__(
        self, model: Model, graph: Graph, value: onnx.ValueInfoProto, notes: list[str], shape: tuple[int, ...] | None = None
    ) -> None:
        if not value.type.HasField("tensor_type"):
            raise ParamError(f"input '{value.name}' of {model.name} is not a tensor; give --data")
        self.shape = require_sizes(model, value.name) if shape is None else shape
        self.dtype = element_dtype(value.name, value.type.tensor_type.elem_type)
        if self.dtype.kind not in "fiubV":
            raise ParamError(
                f"input '{value.name}' of {model.name} has type {self.dtype}, which cannot be drawn at random; give --data"
            )
        if math.prod(self.shape) * self.dtype.itemsize > MAX_INPUT_BYTES:
            raise ParamError(f"input '{value.name}' of {model.name} is {format_shape(self.shape)}, which is larger than memory")
        self.limit: int | None = None
        self.fixed: int | None = None
        if self.dtype.kind in "iu":
            uses = IntegerUses.of(model, graph, value.name)
            self.limit = min(uses.table_sizes, default=256 if self.dtype == np.uint8 else None)
            self.fixed = uses.compared[0] if uses.compared else 1
        elif self.dtype.kind == "b" or "mask" in value.name.lower():
            self.fixed = 1
        if self.limit is not None:
            notes.append(f"input '{value.name}' is drawn from 0 to {self.limit - 1}")
        elif self.fixed is not None:
            notes.append(f"input '{value.name}' is set to {self.fixed}")

    def draw(self, rng: np.random.Generator) -> Array:
        """Values for one run, in the input's shape and type."""
        if self.limit is not None:
            return rng.integers(0, self.limit, self.shape).astype(self.dtype)
        if self.fixed is not None:
            return np.full(self.shape, self.fixed, self.dtype)
        return rng.standard_normal(self.shape).astype(self.dtype)


def require_sizes(model: Model, name: str) -> tuple[int, ...]:
    """The shape of an input. Raises ParamError if one of its sizes is open."""
    shape = model.binding.shapes.get(name)
    if shape is None or None in shape:
        raise ParamError(f"input '{name}' of {model.name} has open sizes ({format_shape(shape)}); give them with --input-shape")
    return tuple(d for d in shape if d is not None)


@dataclass(frozen=True)
class IntegerUses:
    """How a model uses an integer input: sizes of the tables that it indexes, and scalar constants that it is compared with."""

    table_sizes: tuple[int, ...]
    compared: tuple[int, ...]

    @classmethod
    def of(cls, model: Model, graph: Graph, name: str) -> "IntegerUses":
        """The uses of input `name`, directly or after ops that only move elements."""
        sizes: list[int] = []
        compared: list[int] = []
        pending, seen = [name], set()
        while pending:
            value = pending.pop()
            for index in graph.consumers.get(value, []):
                node = graph.proto.node[index]
                spec = find(node.domain, node.op_type, model.opset(node.domain))
                if spec is None or index in seen:
                    continue
                seen.add(index)
                others = [model.weights[i] for i in node.input if i != value and i in model.weights]
                rules, table = spec.shape, node.input[0]
                if rules.index_axis is not None and node.input[rules.index_at or 0] == value and table in model.weights:
                    sizes.append(model.weights.shape(table)[rules.index_axis(OpView(node, (), ()))])
                elif spec.shape.compares and others and others[0].size == 1:
                    compared.append(int(others[0].reshape(-1)[0]))
                elif spec.shape.moves or spec.shape.view is not None:
                    pending += node.output
        return cls(tuple(sizes), tuple(compared))
