"""Labels carried through a graph: one walk that asks every op for its rule."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx

from onnxsparse.analysis.context import main_context
from onnxsparse.analysis.layers import Survey
from onnxsparse.analysis.node_evaluation import evaluate_node
from onnxsparse.ir.graph import Graph, main_graph
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array
from onnxsparse.ops import OpSpec, OpView, UnknownFact
from onnxsparse.ops.coupling import Coupling, Role
from onnxsparse.ops.labels import LONGEST_AXIS, Axes, Labels, LabelSpace
from onnxsparse.ops.sizes import OpenSize

MAX_COMPUTED = 1 << 16
"""Elements of a value that is computed to know what an op does with it."""


@dataclass(frozen=True)
class Use:
    """A constant as one node reads it. `tensor`: its name in the weights."""

    node: int
    at: int
    tensor: str
    axes: Axes
    roles: dict[int, Role]


@dataclass(frozen=True)
class Operand:
    """An axis of a constant operand, stored or computed (as behind a DequantizeLinear), and what it does for its node."""

    node: int
    labels: Labels
    role: Role


@dataclass(frozen=True)
class Place:
    """One node of the model: in the main graph, or in the body of an If, Loop or Scan."""

    graph: Graph
    node: onnx.NodeProto
    name: str
    bodies: tuple[Graph, ...] = ()


def all_places(graph: Graph) -> Iterator[Place]:
    """Every node of a graph in order, what is in a node's bodies before the node."""
    for index, node in enumerate(graph.proto.node):
        inner = tuple(graph.bodies(index).values())
        for body in inner:
            yield from all_places(body)
        yield Place(graph, node, graph.names[index], inner)


@dataclass
class Discovery:
    """What a walk found: labels of every activation's axes, of every constant where it is used, and what ties them.

    Nodes are numbered as in `places`; values are called by their key, which is their name in the main graph, and begins with the
    scope in a body. `contracted`: node → (input, axis) pairs that it sums over; `stopped`: nodes no cut passes through, and why;
    `open_sizes`: whether that is because of sizes that are open, at one of them.
    """

    model: Model
    survey: Survey
    graph: Graph
    space: LabelSpace = field(default_factory=LabelSpace)
    axes: dict[str, Axes | None] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    operands: list[Operand] = field(default_factory=list)
    contracted: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)
    origins: dict[str, tuple[Graph, str]] = field(default_factory=dict)
    open_sizes: bool = False

    @cached_property
    def places(self) -> list[Place]:
        return list(all_places(self.graph))

    @cached_property
    def makers(self) -> dict[str, int]:
        """Value → the node that makes it."""
        return {self.key(p.graph, name): i for i, p in enumerate(self.places) for name in p.node.output if name}

    def key(self, graph: Graph, name: str) -> str:
        """What a value is called that a graph knows by this name: its own, or one of a graph around it."""
        while graph.parent is not None and name not in graph.defined:
            graph = graph.parent
        found = f"{graph.scope}/{name}" if graph.scope else name
        self.origins[found] = (graph, name)
        return found

    def input_key(self, index: int, at: int) -> str:
        place = self.places[index]
        return self.key(place.graph, place.node.input[at])

    def output_key(self, index: int, at: int) -> str:
        place = self.places[index]
        return self.key(place.graph, place.node.output[at])

    def tensor(self, index: int, at: int) -> str | None:
        """The name in the weights of an input that is an initializer or Constant."""
        place = self.places[index]
        return self.stored(place.graph, place.node.input[at])

    def stored(self, graph: Graph, name: str) -> str | None:
        return self.survey.resolver.constant(graph, name) if name else None

    def shape(self, key: str) -> tuple[int | None, ...] | None:
        graph, name = self.origins[key]
        return self.survey.shapes.get(graph.scope, name)

    def view(self, index: int) -> OpView:
        place = self.places[index]
        return self.survey.view(place.graph, place.node)

    def spec(self, index: int) -> OpSpec | None:
        return self.survey.spec(self.places[index].node)


def discover(model: Model, *, cut_norms: bool = False) -> Discovery:
    """Label all graphs of `model` at the sizes it is bound to."""
    model = model.copy()  # what is found stays true of this one when the caller's is cut
    found = Discovery(model, Survey(model), main_graph(model.proto))
    Walk(found, cut_norms).run()
    return found


class Values:
    """The values of constants, and of what is computed from constants and sizes; by key."""

    def __init__(self, found: Discovery) -> None:
        self.found = found
        self.known: dict[str, Array | None] = {**found.survey.shapes.values}

    def at(self, index: int, at: int) -> Array | None:
        """Of a node's input."""
        node = self.found.places[index].node
        return self.get(self.found.input_key(index, at)) if at < len(node.input) and node.input[at] else None

    def get(self, key: str) -> Array | None:
        if key not in self.known:
            self.known[key] = None  # a graph with a cycle ends here
            self.known[key] = self._find(key)
        return self.known[key]

    def _find(self, key: str) -> Array | None:
        found = self.found
        graph, name = found.origins[key]
        tensor = None if graph.is_default(name) else found.stored(graph, name)
        if tensor is not None:
            return found.model.weights[tensor]
        index = found.makers.get(key)
        spec = None if index is None else found.spec(index)
        if index is None or spec is None or spec.random or spec.macs is not None or spec.body is not None:
            return None
        try:
            return self._compute(index, spec, key)
        except UnknownFact:
            return None  # no rule may rely on it then

    def _compute(self, index: int, spec: OpSpec, key: str) -> Array | None:
        node = self.found.places[index].node
        if spec.shape.value is not None:
            return spec.shape.value(self.found.view(index))
        shape = self.found.shape(key)
        if shape is None or None in shape or np.prod([d or 0 for d in shape]) > MAX_COMPUTED:
            return None
        feeds = {}
        for at, name in enumerate(node.input):
            value = self.at(index, at)
            if name and (value is None or value.size > MAX_COMPUTED):
                return None
            if name and value is not None:
                feeds[name] = value
        made = evaluate_node(node, feeds, self.found.survey.context.opsets)
        return dict(zip(filter(None, node.output), made, strict=True))[self.found.origins[key][1]]


class Walk:
    """One walk over the nodes, which are in topological order."""

    def __init__(self, found: Discovery, cut_norms: bool) -> None:
        self.found = found
        self.cut_norms = cut_norms
        self.values = Values(found)
        self.named: dict[str, Axes] = {}
        self.arithmetic: set[str] = set()
        self.contexts = {context.graph.scope: context for context in main_context(found.model).with_bodies()}
        ends = ((graph, value.name) for p in found.places for graph in (found.graph, *p.bodies) for value in graph.proto.output)
        inputs = ((place.graph, name) for place in found.places for name in place.node.input if name)
        self.read = {found.key(graph, name) for graph, name in (*inputs, *ends)}
        self.index = {id(place.node): i for i, place in enumerate(found.places)}

    def run(self) -> None:
        found = self.found
        for value in found.graph.proto.input:
            key = found.key(found.graph, value.name)
            found.axes[key] = self._untracked(key)
        self._walk(found.graph)
        self._pass_roles_on()
        for value in found.graph.proto.output:
            key = found.key(found.graph, value.name)
            for labels in found.axes.get(key) or ():
                if labels is not None:
                    found.space.freeze(labels, "is an output of the model", value.name, output=key)

    def _walk(self, graph: Graph) -> None:
        for node in graph.proto.node:
            self._visit(self.index[id(node)])

    def _visit(self, index: int) -> None:
        found, place = self.found, self.found.places[index]
        node, spec = place.node, self.found.spec(index)
        if node.output and found.stored(place.graph, node.output[0]) is not None:
            return
        keys = [found.output_key(index, at) for at in range(len(node.output))]
        if self._is_arithmetic(index, spec):
            self.arithmetic.update(keys)
            for key in keys:
                found.axes[key] = self._untracked(key)
            return
        inputs = [self._axes(index, at, spec) for at in range(len(node.input))]
        coupling = Coupling(
            found.view(index), place.name, found.space, inputs, lambda at: self.values.at(index, at), self.cut_norms
        )
        if place.bodies and spec is not None and spec.body is not None:
            self._run_bodies(index, spec, coupling)
        else:
            self._apply(coupling, spec)
        self._keep(index, coupling)

    def _run_bodies(self, index: int, spec: OpSpec, coupling: Coupling) -> None:
        """Branches make the same outputs. What a loop carries goes round; what is scanned, or told to a body, is not cut."""
        assert spec.body is not None
        place, found = self.found.places[index], self.found
        carried = spec.body.carried(coupling.op) if spec.body.carried is not None else range(0)
        if not carried:
            for at in range(len(coupling.inputs)):
                coupling.freeze_all(at, f"goes into the body of {place.node.op_type}")
        made: list[list[Axes | None]] = []
        for body in place.bodies:
            for position, value in enumerate(body.proto.input):
                key = found.key(body, value.name)
                own, given = self._untracked(key), coupling.inputs[position] if position in carried else None
                found.axes[key] = given if own is not None and given is not None and len(own) == len(given) else own
            self._walk(body)
            made.append([found.axes.get(found.key(body, value.name)) for value in body.proto.output])
        first = int(spec.body.carried is not None)  # a loop's first result is whether it goes on
        for position in range(len(place.node.output)):
            ends = [axes[position + first] for axes in made]
            if not spec.body.branches:
                at = carried.start + position
                ends.append(coupling.inputs[at] if at in carried else None)
            coupling.outputs.append(self._tie(coupling, ends))

    def _tie(self, coupling: Coupling, ends: list[Axes | None]) -> Axes | None:
        """Values that are one and the same, or nothing that may be cut where their ranks differ."""
        known = [axes for axes in ends if axes is not None]
        if len(known) == len(ends) and len({len(axes) for axes in known}) == 1:
            return tuple(coupling.unite(*axes) for axes in zip(*known, strict=True))
        for labels in (labels for axes in known for labels in axes):
            coupling.freeze(labels, "leaves a body in another shape")
        return None

    def _is_arithmetic(self, index: int, spec: OpSpec | None) -> bool:
        """Computed from sizes alone; what is filled to a computed size is not."""
        if spec is None or spec.random or spec.body is not None:
            return False
        if spec.shape.value is not None:
            return True
        found, node = self.found, self.found.places[index].node
        given = [at for at, name in enumerate(node.input) if name]
        known = [found.input_key(index, at) in self.arithmetic for at in given]
        if not any(known) or not all(k or found.tensor(index, at) is not None for at, k in zip(given, known, strict=True)):
            return False
        keys = [found.output_key(index, at) for at, name in enumerate(node.output) if name]
        fills = any(len(found.shape(key) or ()) > 1 for key in keys)
        return not fills and all(self.values.get(key) is not None for key in keys)

    def _axes(self, index: int, at: int, spec: OpSpec | None) -> Axes | None:
        """Of an activation as they were made; of a constant fresh ones, for every use but of weights."""
        tensor = self.found.tensor(index, at)
        if tensor is None:
            return self.found.axes.get(self.found.input_key(index, at))
        shared = spec is not None and any(slot.at == at for slot in spec.weights)
        if shared and tensor in self.named:
            return self.named[tensor]
        sizes = self.found.model.weights.shape(tensor)
        axes = tuple(self.found.space.fresh(size) if 1 < size <= LONGEST_AXIS else None for size in sizes)
        if shared:
            self.named[tensor] = axes
        place = self.found.places[index]
        if place.graph.is_default(place.node.input[at]):
            for labels in (labels for labels in axes if labels is not None):
                self.found.space.freeze(labels, "is an input, which callers may override", place.name)
        return axes

    def _apply(self, coupling: Coupling, spec: OpSpec | None) -> None:
        node = coupling.op.node
        reason = f"no rule for {node.op_type}"
        if spec is not None and spec.channels.couple is not None:
            try:
                spec.channels.couple(coupling)
                return
            except UnknownFact as error:
                reason = f"{node.op_type} is not followed: {error}"
                if isinstance(error, OpenSize):
                    reason = f"what {node.op_type} does with it depends on sizes that are not known ({error})"
                    self.found.open_sizes = True
        self.found.stopped[coupling.name] = reason
        coupling.outputs.clear()
        coupling.contracted.clear()
        for at in range(len(node.input)):
            coupling.freeze_all(at, reason)

    def _keep(self, index: int, coupling: Coupling) -> None:
        found, place = self.found, self.found.places[index]
        for at in range(1, len(place.node.output)):
            followed = at < len(coupling.outputs) and coupling.outputs[at] is not None
            if not followed and found.output_key(index, at) in self.read and not place.bodies:
                for position in range(len(coupling.inputs)):
                    coupling.freeze_all(position, f"is in output {at} of {place.node.op_type}, which is read and has no rule")
        for at in range(len(place.node.output)):
            made = coupling.outputs[at] if at < len(coupling.outputs) else None
            key = found.output_key(index, at)
            found.axes[key] = made if made is not None else self._untracked(key)
        if coupling.contracted:
            found.contracted[index] = coupling.contracted
        constants = self.contexts[place.graph.scope].constants
        for (at, axis), role in coupling.roles.items():
            labels = (coupling.inputs[at] or ())[axis]
            name = place.node.input[at]
            if labels is not None and (name in constants or place.graph.is_default(name)):
                found.operands.append(Operand(index, labels, role))
        for at in range(len(place.node.input)):
            tensor = found.tensor(index, at)
            axes = coupling.inputs[at]
            if tensor is not None and axes is not None and any(labels is not None for labels in axes):
                roles = {axis: role for (i, axis), role in coupling.roles.items() if i == at}
                found.uses.append(Use(index, at, tensor, axes, roles))

    def _pass_roles_on(self) -> None:
        """A tensor that is dequantized or transposed before it is used has its role from there: it has the same labels."""
        roles = {id(operand.labels): operand.role for operand in self.found.operands}
        for use in self.found.uses:
            for axis, labels in enumerate(use.axes):
                if id(labels) in roles:
                    use.roles.setdefault(axis, roles[id(labels)])

    def _untracked(self, key: str) -> Axes | None:
        shape = self.found.shape(key)
        return None if shape is None else (None,) * len(shape)
