"""Replacement of an If by its branch, if one branch alone can run.

1. Infer shapes from the sizes that the file fixes. Recorded shapes of inner values are left out, because exporters record those
   of the one input that they traced (`without_recorded`).
2. A branch always runs if its condition is known (`fixed_values`), or if shape inference found that the others never run.
3. Move its nodes and tensors into the graph around it, in place of the If, and rename where names clash (`Splice`).
4. Remove what computed the condition, if it is unused now.
5. Repeat for each such If; then start again, because sizes may have become known.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx
from onnx import helper

from onnxsparse.analysis.context import main_context
from onnxsparse.analysis.fixed_values import FixedValues
from onnxsparse.analysis.shape_inference import infer_shapes
from onnxsparse.ir import metadata
from onnxsparse.ir.binding import recorded
from onnxsparse.ir.graph import FIRST_IR_WITH_DEFAULTS, Graph, captured, main_graph
from onnxsparse.ir.model import Model
from onnxsparse.ir.new_tensors import Names
from onnxsparse.ir.protos import replace_all
from onnxsparse.ir.sparse import every_graph
from onnxsparse.ir.weights import bodies
from onnxsparse.ops import Body, find


def settle(model: Model) -> int:
    """Replace every If of which one branch alone can run by that branch. Returns how many were replaced.

    Raises ParamError for fixed sizes at which a node cannot run.
    """
    count = 0
    while settled := {branch.key for branch in settled_branches(model)}:
        while (found := next((b for b in all_branches(model) if b.key in settled), None)) is not None:
            settled.remove(found.key)  # an If inside the branch may get the same output name, and so the same key
            metadata.remember_names(model.proto, Splice(model, found).run())
            count += 1
    return count


@dataclass(frozen=True)
class Branch:
    """A body, and the node that holds it.

    `index`: of that node in `graph`. `others`: the other bodies of the node. `runs_if`: the value of the condition for which it
    runs.
    """

    graph: Graph
    index: int
    body: Graph
    others: tuple[Graph, ...]
    runs_if: bool

    @property
    def key(self) -> tuple[str, str, bool]:
        """Identifies the branch in its model. Node names may repeat, but values in one graph do not."""
        return self.graph.scope, next(filter(None, self.graph.proto.node[self.index].output), ""), self.runs_if


def settled_branches(model: Model) -> Iterator[Branch]:
    """The branches that always run, whatever the open sizes of the file are."""
    branches = list(all_branches(model))
    if not branches:
        return
    shapes = infer_shapes(without_recorded(model.proto), model.weights, recorded(model.proto), model.name)
    values = FixedValues(main_context(model), shapes)
    scopes = Counter(branch.body.scope for branch in branches)
    for branch in branches:
        if any(scopes[around.scope] > 1 for around in surroundings(branch.graph)):
            continue  # two bodies have this scope, so the facts about its values may belong to the other
        told_apart = all(scopes[body.scope] == 1 for body in (branch.body, *branch.others))
        if branch.others and told_apart and all(other.scope in shapes.dead for other in branch.others):
            yield branch
            continue
        condition = values.get(branch.graph, branch.graph.proto.node[branch.index].input[0])
        if condition is not None and condition.size == 1 and branch.runs_if == bool(condition.reshape(-1)[0]):
            yield branch


def surroundings(graph: Graph) -> Iterator[Graph]:
    """A graph and those around it, from the inside to the outside."""
    here: Graph | None = graph
    while here is not None:
        yield here
        here = here.parent


def without_recorded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without recorded shapes of inner values: exporters record those of the one input that they traced."""
    work = onnx.ModelProto()
    work.CopyFrom(proto)
    for graph in every_graph(work):
        del graph.value_info[:]
    return work


def all_branches(model: Model) -> Iterator[Branch]:
    """Every body of the nodes that run one of several bodies."""
    graphs = [main_graph(model.proto)]
    for graph in graphs:
        for index, node in enumerate(graph.proto.node):
            inner = graph.bodies(index)
            spec = find(node.domain, node.op_type, model.opset(node.domain)) if inner else None
            if spec is not None and spec.body is not None and spec.body.branches:
                yield from branches_of(graph, index, inner, spec.body)
            graphs += inner.values()


def branches_of(graph: Graph, index: int, inner: dict[str, Graph], rules: Body) -> Iterator[Branch]:
    """A branch for each of the bodies `inner` of a node that runs one of them; `rules` say which one."""
    for name, body in inner.items():
        others = tuple(other for other in inner.values() if other is not body)
        yield Branch(graph, index, body, others, runs_if=name == rules.if_true)


class Splice:
    """Moves the nodes and tensors of a branch into the graph around it, in place of the If, under names that are unique there.

    `names`: name in the branch → new name.
    """

    def __init__(self, model: Model, branch: Branch) -> None:
        self.model = model
        self.branch = branch
        self.outer, self.inner = branch.graph.proto, onnx.GraphProto()
        self.inner.CopyFrom(branch.body.proto)
        self.node = self.outer.node[branch.index]
        self.names: dict[str, str] = {}

    def run(self) -> dict[str, str]:
        """Change the model. Returns new name of a tensor → its name in the weights, where they differ."""
        handed = self._name_results()
        renamed = self._tensors()
        nodes = [self._renamed(node) for node in self.inner.node]
        outside = f"{self.branch.graph.scope}/" if self.branch.graph.scope else ""
        for node, name in zip(nodes, self.branch.body.names, strict=True):
            node.name = name.removeprefix(outside)  # the name that messages and reports used before
        before, after = list(self.outer.node[: self.branch.index]), list(self.outer.node[self.branch.index + 1 :])
        read = [*self.node.input, *captured(self.node)]
        replace_all(self.outer.node, [*before, *nodes, *handed, *after])
        drop_unread(self.branch.graph, read)
        self.model.weights.refresh()
        return renamed

    def _name_results(self) -> list[onnx.NodeProto]:
        """Give the branch's results the names of the If's outputs.

        Returns an Identity for each result that the branch does not compute itself, or returns twice.
        """
        made = {name for node in self.inner.node for name in node.output}
        handed = []
        for value, result in zip(self.inner.output, self.node.output, strict=False):
            if result and value.name in made and value.name not in self.names:
                self.names[value.name] = result
            elif result:
                handed.append((value.name, result))
        self._name_others()
        return [helper.make_node("Identity", [self.names.get(a, a)], [b], name=b) for a, b in handed]

    def _name_others(self) -> None:
        """Choose names for all other values of the branch: the old name if it is unique in the model, else a new one."""
        counts = Counter(name for graph in every_graph(self.model.proto) for name in definitions(graph))
        for other in self.branch.others:
            counts.subtract(name for graph in with_bodies(other.proto) for name in definitions(graph))
        fresh = Names(self.model.proto).fresh
        for name in (name for graph in with_bodies(self.inner) for name in definitions(graph)):
            if name not in self.names:
                self.names[name] = name if counts[name] == 1 else fresh(name)

    def _tensors(self) -> dict[str, str]:
        """Move the branch's tensors and recorded types. Returns new name → name in the weights, where they differ."""
        renamed: dict[str, str] = {}
        for tensor in self.inner.initializer:
            key = self.model.weights.find(self.branch.body.scope, tensor.name)
            tensor.name = self.names[tensor.name]
            renamed |= {tensor.name: key} if key is not None and key != tensor.name else {}
            if self.model.proto.ir_version < FIRST_IR_WITH_DEFAULTS and not self.branch.graph.scope:
                self.outer.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        self.outer.initializer.extend(self.inner.initializer)
        results = set(self.node.output)
        for value in self.inner.value_info:
            value.name = self.names.get(value.name, value.name)
            if value.name not in results:
                self.outer.value_info.append(value)
        return renamed

    def _renamed(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """The node with new names, in its bodies too."""
        for names in (node.input, node.output):
            names[:] = [self.names.get(name, name) for name in names]
        for body in (body for attribute in node.attribute for body in bodies(attribute)):
            for inner in body.node:
                self._renamed(inner)
            for tensor in body.initializer:
                tensor.name = self.names.get(tensor.name, tensor.name)
            for value in (*body.input, *body.output, *body.value_info):
                value.name = self.names.get(value.name, value.name)
        return node


def drop_unread(graph: Graph, names: Iterable[str]) -> None:
    """Remove these values if they are unused, and then everything that only they needed."""
    proto, pending = graph.proto, list(dict.fromkeys(names))
    while pending:
        name = pending.pop()
        here = Graph(proto)
        if name in here.consumers or any(value.name == name for value in proto.output):
            continue
        if name in here.initializers and name not in {value.name for value in proto.input}:
            replace_all(proto.initializer, [tensor for tensor in proto.initializer if tensor.name != name])
        maker = proto.node[here.producers[name]] if name in here.producers else None
        if maker is not None and not any(o in here.consumers or o in {v.name for v in proto.output} for o in maker.output):
            pending += [*maker.input, *captured(maker)]
            replace_all(proto.node, [node for node in proto.node if node is not maker])


def definitions(graph: onnx.GraphProto) -> Iterator[str]:
    """The names of the values that a graph defines: inputs, initializers, outputs of nodes."""
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (name for node in graph.node for name in node.output if name)


def with_bodies(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """A graph and the bodies in it."""
    return every_graph(onnx.ModelProto(graph=graph))
