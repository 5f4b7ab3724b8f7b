"""New tensors for a model, and names that are not taken."""

from collections.abc import Callable, Iterator

import onnx
from onnx import TensorProto, helper

from onnxsparse.ir.graph import FIRST_IR_WITH_DEFAULTS
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array, bodies


class Names:
    """Names of values and nodes that are unused in a model."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.taken = set(every_name(proto))

    def fresh(self, wanted: str) -> str:
        """`wanted`, with a number appended if it is taken. The returned name counts as taken from now on."""
        name, number = wanted, 1
        while name in self.taken:
            name, number = f"{wanted}_{number}", number + 1
        self.taken.add(name)
        return name


class Additions(Names):
    """New initializers for a model, collected first and written together by `write`.

    Values may be given as a function, which is called only when they are written, so that one large array is held at a time.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model.proto)
        self.model = model
        self.made: dict[str, Array | Callable[[], Array]] = {}

    def constant(self, wanted: str, values: Array | Callable[[], Array]) -> str:
        """Add a tensor with these values. Returns its name: `wanted`, with a number appended if it is taken."""
        name = self.fresh(wanted)
        self.made[name] = values
        return name

    def write(self) -> None:
        """Write the tensors into the main graph; below IR version 4 also as inputs, which that version requires.

        Raises ModelError for a full disk.
        """
        graph, weights = self.model.proto.graph, self.model.weights
        graph.initializer.extend(TensorProto(name=name, dims=[0], data_type=TensorProto.FLOAT) for name in self.made)
        weights.refresh()
        for name, made in self.made.items():
            weights[name] = made() if callable(made) else made
            if self.model.proto.ir_version < FIRST_IR_WITH_DEFAULTS:
                kind = weights.proto(name).data_type
                graph.input.append(helper.make_tensor_value_info(name, kind, weights.shape(name)))


def every_name(proto: onnx.ModelProto) -> Iterator[str]:
    """The names of all values and nodes of a model, functions and bodies included. A name may come several times."""
    graphs = [proto.graph]
    nodes = [node for function in proto.functions for node in function.node]
    for function in proto.functions:
        yield from (*function.input, *function.output)
    graphs += [body for node in nodes for attribute in node.attribute for body in bodies(attribute)]
    for graph in graphs:
        yield from (t.name for t in graph.initializer)
        yield from (t.values.name for t in graph.sparse_initializer)
        yield from (v.name for v in (*graph.input, *graph.output, *graph.value_info))
        nodes += graph.node
        graphs += [body for node in graph.node for attribute in node.attribute for body in bodies(attribute)]
    for node in nodes:
        yield from (node.name, *node.input, *node.output)
