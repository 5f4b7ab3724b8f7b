"""Labels carried through a graph: one walk that asks every op for its rule."""

from dataclasses import dataclass, field

import numpy as np
import onnx

from onnxsparse.evaluate import evaluate_node
from onnxsparse.facts import Survey
from onnxsparse.graph import Graph, captured
from onnxsparse.model import Model
from onnxsparse.ops import OpSpec, OpView, UnknownFact
from onnxsparse.ops.coupling import Coupling, Role
from onnxsparse.ops.labels import Axes, Labels, LabelSpace
from onnxsparse.weights import Array

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


@dataclass
class Discovery:
    """What a walk found: labels of every activation's axes, of every constant where it is used, and what ties them.

    `contracted`: node → (input, axis) pairs that it sums over; `stopped`: nodes no cut passes through, and why.
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

    def view(self, index: int) -> OpView:
        return self.survey.view(self.graph, self.graph.proto.node[index])

    def spec(self, index: int) -> OpSpec | None:
        return self.survey.spec(self.graph.proto.node[index])


def discover(model: Model, *, cut_norms: bool = False) -> Discovery:
    """Label the main graph of `model` at the sizes it is bound to. Values that bodies use stay as they are."""
    model = model.copy()  # what is found stays true of this one when the caller's is cut
    found = Discovery(model, Survey(model, every_shape=True), Graph(model.proto.graph))
    Walk(found, cut_norms).run()
    return found


class Values:
    """The values of constants, and of what is computed from constants and sizes."""

    def __init__(self, found: Discovery) -> None:
        self.found = found
        self.known: dict[str, Array | None] = {**found.survey.shapes.values}

    def get(self, name: str) -> Array | None:
        if name not in self.known:
            self.known[name] = None  # a graph with a cycle ends here
            self.known[name] = self._find(name)
        return self.known[name]

    def _find(self, name: str) -> Array | None:
        found = self.found
        tensor = stored(found, name)
        if tensor is not None:
            return found.model.weights[tensor]
        index = found.graph.producers.get(name)
        spec = None if index is None else found.spec(index)
        if index is None or spec is None or spec.random or spec.macs is not None or spec.body is not None:
            return None
        try:
            return self._compute(index, spec, name)
        except (
            UnknownFact,
            ArithmeticError,
            AttributeError,
            LookupError,
            NotImplementedError,
            RuntimeError,
            TypeError,
            ValueError,
        ):
            return None  # no rule may rely on it then

    def _compute(self, index: int, spec: OpSpec, name: str) -> Array | None:
        node = self.found.graph.proto.node[index]
        if spec.value is not None:
            return spec.value(self.found.view(index))
        shape = self.found.survey.shapes.get("", name)
        if shape is None or None in shape or np.prod([d or 0 for d in shape]) > MAX_COMPUTED:
            return None
        feeds = {}
        for i in filter(None, node.input):
            value = self.get(i)
            if value is None or value.size > MAX_COMPUTED:
                return None
            feeds[i] = value
        made = evaluate_node(node, feeds, self.found.survey.opsets)
        return dict(zip(filter(None, node.output), made, strict=True))[name]


def stored(found: Discovery, name: str) -> str | None:
    """The name in the weights of an initializer or Constant of the main graph."""
    return found.survey.resolver.constant(found.graph, name) if name else None


class Walk:
    """One walk over the nodes, which are in topological order."""

    def __init__(self, found: Discovery, cut_norms: bool) -> None:
        self.found = found
        self.cut_norms = cut_norms
        self.values = Values(found)
        self.named: dict[str, Axes] = {}
        self.arithmetic: set[str] = set()
        self.constants = found.survey.constant_values(found.graph)

    def run(self) -> None:
        found = self.found
        for value in found.graph.proto.input:
            shape = found.survey.shapes.get("", value.name)
            found.axes[value.name] = None if shape is None else (None,) * len(shape)
        for index, node in enumerate(found.graph.proto.node):
            self._visit(index, node)
        self._pass_roles_on()
        for value in found.graph.proto.output:
            self._freeze(value.name, "is an output of the model", value.name)

    def _visit(self, index: int, node: onnx.NodeProto) -> None:
        found, name = self.found, self.found.graph.names[index]
        spec = found.spec(index)
        for outer in captured(node):
            self._freeze(outer, f"is used by a body of {name}", name)
        if stored(found, node.output[0] if node.output else "") is not None:
            return
        if self._is_arithmetic(node, spec):
            self.arithmetic.update(filter(None, node.output))
            for output in node.output:
                found.axes[output] = self._untracked(output)
            return
        inputs = [self._axes(index, at, spec) for at in range(len(node.input))]
        coupling = Coupling(
            found.view(index), name, found.space, inputs, lambda at: self.values.get(node.input[at]), self.cut_norms
        )
        self._apply(coupling, spec)
        self._keep(index, coupling)

    def _is_arithmetic(self, node: onnx.NodeProto, spec: OpSpec | None) -> bool:
        """Computed from sizes alone; what is filled to a computed size is not."""
        if spec is None or spec.random or spec.body is not None:
            return False
        if spec.value is not None:
            return True
        given = [i for i in node.input if i]
        from_sizes = any(i in self.arithmetic for i in given)
        if not from_sizes or not all(i in self.arithmetic or stored(self.found, i) is not None for i in given):
            return False
        return all(self.values.get(o) is not None for o in node.output if o) and not self._fills(node)

    def _fills(self, node: onnx.NodeProto) -> bool:
        """Whether it makes a tensor of the size that its last input says, in which channels may be cut."""
        shape = self.found.survey.shapes.get("", node.output[0])
        return shape is not None and len(shape) > 1

    def _axes(self, index: int, at: int, spec: OpSpec | None) -> Axes | None:
        """Of an activation as they were made; of a constant fresh ones, for every use but of weights."""
        name = self.found.graph.proto.node[index].input[at]
        tensor = stored(self.found, name)
        if tensor is None:
            return self.found.axes.get(name)
        shared = spec is not None and any(slot.at == at for slot in spec.weights)
        if shared and tensor in self.named:
            return self.named[tensor]
        axes = tuple(self.found.space.fresh(size) if size > 1 else None for size in self.found.model.weights.shape(tensor))
        if shared:
            self.named[tensor] = axes
        return axes

    def _apply(self, coupling: Coupling, spec: OpSpec | None) -> None:
        node = coupling.op.node
        reason = f"no rule for {node.op_type}"
        if spec is not None and spec.couple is not None:
            try:
                spec.couple(coupling)
                return
            except (UnknownFact, IndexError, ValueError, TypeError) as error:
                reason = f"what {node.op_type} does with it depends on sizes that are not known ({error})"
        self.found.stopped[coupling.name] = reason
        coupling.outputs.clear()
        coupling.contracted.clear()
        for at in range(len(node.input)):
            coupling.freeze_all(at, reason)

    def _keep(self, index: int, coupling: Coupling) -> None:
        node = coupling.op.node
        for at, name in enumerate(node.output):
            made = coupling.outputs[at] if at < len(coupling.outputs) else None
            self.found.axes[name] = made if made is not None else self._untracked(name)
        if coupling.contracted:
            self.found.contracted[index] = coupling.contracted
        for (at, axis), role in coupling.roles.items():
            labels = (coupling.inputs[at] or ())[axis]
            if labels is not None and node.input[at] in self.constants:
                self.found.operands.append(Operand(index, labels, role))
        for at, name in enumerate(node.input):
            tensor = stored(self.found, name)
            axes = coupling.inputs[at]
            if tensor is not None and axes is not None and any(labels is not None for labels in axes):
                roles = {axis: role for (i, axis), role in coupling.roles.items() if i == at}
                self.found.uses.append(Use(index, at, tensor, axes, roles))

    def _pass_roles_on(self) -> None:
        """A tensor that is dequantized or transposed before it is used has its role from there: it has the same labels."""
        roles = {id(operand.labels): operand.role for operand in self.found.operands}
        for use in self.found.uses:
            for axis, labels in enumerate(use.axes):
                if id(labels) in roles:
                    use.roles.setdefault(axis, roles[id(labels)])

    def _untracked(self, name: str) -> Axes | None:
        shape = self.found.survey.shapes.get("", name)
        return None if shape is None else (None,) * len(shape)

    def _freeze(self, name: str, reason: str, node: str) -> None:
        for labels in self.found.axes.get(name) or ():
            if labels is not None:
                self.found.space.freeze(labels, reason, node)
