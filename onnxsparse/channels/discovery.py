"""Discovery: one walk over the graph that labels every axis and asks every op's channel rule what it ties.

1. The model's inputs are not followed.
2. Nodes are visited in topological order, bodies with the node that holds them. A constant gets new labels at every use, except
   as a weight: weights that share a tensor share labels.
3. Values computed from sizes alone (shape arithmetic) are not followed; the cut corrects them where they are used.
4. For any other node, its op's rule unites, contracts and freezes labels, and emits those of the outputs. If the op has no rule,
   or the rule raises UnknownFact, all its inputs stay.
5. For a node with bodies, the labels of a loop's carried values pass into the body and back; branches are tied at their outputs;
   everything else that enters a body stays.
6. A dequantized or transposed tensor takes the roles of its labels from the op that uses them.
7. The model's outputs stay.
"""

from onnxsparse.analysis.context import main_context
from onnxsparse.analysis.layers import Survey
from onnxsparse.channels.known_values import Values
from onnxsparse.channels.labelled_graph import Discovery, Operand, Use
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.model import Model
from onnxsparse.ops import OpSpec, UnknownFact
from onnxsparse.ops.coupling import Coupling
from onnxsparse.ops.labels import LONGEST_AXIS, Axes
from onnxsparse.ops.sizes import OpenSize


def discover(model: Model, *, cut_norms: bool = False) -> Discovery:
    """The labels of all graphs of `model`, at the sizes it is bound to.

    `cut_norms`: whether axes that a normalisation, mean or extreme reduces over may be cut.
    """
    model = model.copy()  # the result stays valid when the caller's model is cut
    found = Discovery(model, Survey(model), main_context(model))
    Walk(found, cut_norms).run()
    return found


class Walk:
    """The state of one walk; the steps are in the module's docstring."""

    def __init__(self, found: Discovery, cut_norms: bool) -> None:
        self.found = found
        self.cut_norms = cut_norms
        self.values = Values(found)
        self.named: dict[str, Axes] = {}
        self.arithmetic: set[str] = set()
        self.contexts = {context.graph.scope: context for context in found.context.with_bodies()}
        ends = ((graph, value.name) for graph in found.graphs for value in graph.proto.output)
        inputs = ((place.graph, name) for place in found.places for name in place.node.input if name)
        self.read = {found.key(graph, name) for graph, name in (*inputs, *ends)}
        self.index = {id(place.node): i for i, place in enumerate(found.places)}

    def run(self) -> None:
        """Walk the main graph and its bodies."""
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
        """Label the bodies of a node and tie them to its inputs and outputs (step 5)."""
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
        first = int(spec.body.carried is not None)  # a loop body's first output is its condition
        for position in range(len(place.node.output)):
            ends = [axes[position + first] for axes in made]
            if not spec.body.branches:
                at = carried.start + position
                ends.append(coupling.inputs[at] if at in carried else None)
            coupling.outputs.append(self._tie(coupling, ends))

    def _tie(self, coupling: Coupling, ends: list[Axes | None]) -> Axes | None:
        """Tie values that are equal, and return their labels. If their ranks differ, all stay, and None is returned."""
        known = [axes for axes in ends if axes is not None]
        if len(known) == len(ends) and len({len(axes) for axes in known}) == 1:
            return tuple(coupling.unite(*axes) for axes in zip(*known, strict=True))
        for labels in (labels for axes in known for labels in axes):
            coupling.freeze(labels, "leaves a body with another number of axes")
        return None

    def _is_arithmetic(self, index: int, spec: OpSpec | None) -> bool:
        """Whether the node computes values from sizes alone. A tensor of several axes filled to a computed size does not
        count.
        """
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
        """Labels of an input: those of the activation; for a constant new ones, except for a weight that was seen before."""
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
                reason = f"no cut passes through {node.op_type}: {error}"
                if isinstance(error, OpenSize):
                    reason = f"{node.op_type} depends on sizes that are not known ({error})"
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
        """Step 6: a use of a constant without a role takes that of the operand with the same labels."""
        roles = {id(operand.labels): operand.role for operand in self.found.operands}
        for use in self.found.uses:
            for axis, labels in enumerate(use.axes):
                if id(labels) in roles:
                    use.roles.setdefault(axis, roles[id(labels)])

    def _untracked(self, key: str) -> Axes | None:
        shape = self.found.shape(key)
        return None if shape is None else (None,) * len(shape)
