"""A model that runs over all samples segment by segment, so that each node runs once for each sample.

Between two segments, the values that later nodes need are held for every sample: in memory up to a budget, then in a temporary
file. The model may be changed after each segment: later nodes see what earlier ones compute with their new weights.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from onnxsparse.errors import BackendError
from onnxsparse.ir.binding import fed_inputs
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.mapped import byte_view
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import Runner, runner

Values = dict[str, Array]
"""Value → array, of one sample."""


TAILS = 16
"""Places of a model from which on it is one session for `Walk.outputs`."""

SHORTEST_STRIDE = 32
"""Least number of nodes between two of them."""


@dataclass
class Store:
    """Arrays of several samples: in memory up to `budget_bytes`, the others in a temporary file that vanishes with them."""

    budget_bytes: int
    held_bytes: int = 0
    _spill: "list[tempfile._TemporaryFileWrapper[bytes]]" = field(default_factory=list)

    def keep(self, array: Array) -> Array:
        """The array itself, or its copy in the temporary file."""
        if self.held_bytes + array.nbytes <= self.budget_bytes or not array.nbytes:
            self.held_bytes += array.nbytes
            return array
        if not self._spill:
            self._spill.append(tempfile.NamedTemporaryFile(prefix="onnxsparse-"))  # noqa: SIM115 - it lives as long as the store
        file = self._spill[0]
        start = file.seek(0, 2)
        file.write(byte_view(np.ascontiguousarray(array)))
        file.flush()
        return np.memmap(file.name, array.dtype, "r", start, array.shape)


class Walk:
    """A walk of a model's main graph over samples. `at`: the next node; all nodes before it have run.

    Raises ModelError for a sample that does not fit, BackendError if onnxruntime does not run a segment.
    """

    def __init__(self, model: Model, samples: Samples, budget_bytes: int) -> None:
        self.model = model
        self.at = 0
        self.budget_bytes = budget_bytes
        self._needed = last_uses(model)
        self._stride = max(SHORTEST_STRIDE, len(model.proto.graph.node) // TAILS)
        self._tail: tuple[int, Runner | None] | None = None
        self._store = Store(budget_bytes)
        names = {value.name for value in fed_inputs(model.proto.graph)}
        self.values: list[Values] = [
            {name: self._store.keep(array) for name, array in feeds.items() if name in names} for feeds in samples
        ]

    def advance(self, to: int) -> None:
        """Run the nodes from `at` to `to`, the latter excluded, on all samples."""
        if to == self.at:
            return
        running = self._session(self.model, self.at, to, self.values[0])
        store = Store(self.budget_bytes)
        for index, values in enumerate(self.values):
            passed = {name: array for name, array in values.items() if self._needed.get(name, -1) >= to}
            self.values[index] = {name: store.keep(array) for name, array in {**passed, **ran(running, values)}.items()}
        self.at, self._store = to, store

    def fork(self) -> "Walk":
        """Another walk that stands at the same place and goes on alone."""
        twin = copy(self)
        twin.values = list(self.values)
        return twin

    def outputs(
        self,
        model: Model,
        samples: Sequence[int] | None = None,
        *,
        changed: int | None = None,
        replaced: Sequence[Mapping[str, Callable[[Array], Array]]] = (),
    ) -> list[Values]:
        """The outputs of some samples, by number (None: all), if nodes from `at` on run as in `model`, which has the same ones.

        `changed`: the last node whose weights differ from those of this walk's model; None: any may. The nodes from some distance
        behind it to the end are then one session, which serves many calls. `replaced`: for each of the samples, values and what
        takes their place.
        """
        names, nodes = [output.name for output in model.proto.graph.output], len(model.proto.graph.node)
        stop = nodes if changed is None else min(nodes, (changed // self._stride + 1) * self._stride)
        head = self._session(model, self.at, stop, self.values[0])
        found = []
        for place, number in enumerate(range(len(self.values)) if samples is None else samples):
            values = self.values[number]
            values = values | {name: change(values[name]) for name, change in (replaced[place] if replaced else {}).items()}
            results = values | ran(head, values)
            if stop < nodes:
                results |= ran(self._tail_session(stop, results), results)
            found.append({name: results[name] for name in names})
        return found

    def _tail_session(self, start: int, given: Values) -> Runner | None:
        """A session of all nodes from `start` on, kept until another is asked for."""
        if self._tail is None or self._tail[0] != start:
            self._tail = None  # before the next takes its memory
            self._tail = (start, self._session(self.model, start, len(self.model.proto.graph.node), given))
        return self._tail[1]

    def _session(self, model: Model, start: int, stop: int, given: Values) -> Runner | None:
        """A session of some nodes of `model`, which returns what later nodes or the caller need; None if that is nothing."""
        wanted = [name for name in made_in(model, start, stop) if self._needed.get(name, -1) >= stop]
        return segment(model, start, stop, given, wanted) if wanted else None


def last_uses(model: Model) -> dict[str, float]:
    """Value → index of the last node that uses it; infinite for the model's outputs."""
    found: dict[str, float] = {name: max(users) for name, users in Graph(model.proto.graph).consumers.items()}
    return found | dict.fromkeys((output.name for output in model.proto.graph.output), math.inf)


def stored_in(model: Model) -> dict[str, onnx.NodeProto]:
    """Weight → the node that holds it, which is in every segment that reads it, as an initializer is.

    So a segment of a model with other weights gets these. Outputs of the model are left out.
    """
    outputs = {output.name for output in model.proto.graph.output}
    made = ((node.output[0], node) for node in model.proto.graph.node if node.output)
    return {name: node for name, node in made if name in model.weights and name not in outputs}


def made_in(model: Model, start: int, stop: int) -> list[str]:
    """The values that the nodes from `start` to `stop`, the latter excluded, produce."""
    held = stored_in(model)
    return [name for node in model.proto.graph.node[start:stop] for name in node.output if name and name not in held]


def segment(model: Model, start: int, stop: int, given: Mapping[str, Array], wanted: Sequence[str]) -> Runner:
    """A session of the nodes from `start` to `stop`, which takes those of the `given` values that it needs.

    Raises BackendError if onnxruntime refuses it, or if a value is no tensor.
    """
    source, proto = model.proto.graph, header(model.proto)
    graph, held = proto.graph, stored_in(model)
    graph.node.extend(node for node in source.node[start:stop] if not held.keys() & set(node.output))
    used = Graph(graph).consumers
    for name in (name for name in held if name in used):
        graph.node.insert(0, held[name])
    # a session takes time and memory for each weight, used or not
    graph.initializer.extend(tensor for tensor in source.initializer if tensor.name in used)
    inputs = []
    for name, array in given.items():
        if name not in used:
            continue
        if array.dtype == object:
            raise BackendError(f"'{name}' of {model.name} is no tensor, so that the model cannot run in parts")
        inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), None))
    weights = {tensor.name for tensor in graph.initializer}
    # below IR version 4, initializers are listed as inputs
    listed = [value for value in source.input if value.name in weights]
    graph.input.extend([*inputs, *listed])
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    return runner(Model(proto, model.weights.copy(proto), model.path, model.role))


def header(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model with an empty graph, of the same versions and functions."""
    found = onnx.ModelProto(ir_version=proto.ir_version)
    found.opset_import.extend(proto.opset_import)
    found.functions.extend(proto.functions)
    found.graph.name = proto.graph.name
    return found


def ran(running: Runner | None, values: Values) -> Values:
    """The outputs of a session on those of the values that it takes; nothing without a session."""
    if running is None:
        return {}
    return running.run({value.name: values[value.name] for value in running.session.get_inputs() if value.name in values})
