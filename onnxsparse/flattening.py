"""The one view of a graph that passes which change it have: no calls of model-local functions, no branch that never runs.

1. Calls are written out. A constant that a function holds becomes an initializer, one for all of its calls.
2. An If whose condition follows from constants, and from sizes that the file itself fixes, gives way to the branch that runs.
   Sizes that were only assumed, or given for a report, settle nothing: the file has to run at others as well.
3. Outputs that nothing reads (the mask of a Dropout, the indices of a MaxPool) are left out.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from onnxsparse import metadata
from onnxsparse.additions import Names
from onnxsparse.dims import recorded
from onnxsparse.functions import ORIGIN, find_calls, inlined, origin
from onnxsparse.graph import FIRST_IR_WITH_DEFAULTS, Graph, captured
from onnxsparse.model import Model
from onnxsparse.ops import find
from onnxsparse.ops.spec import spare_outputs
from onnxsparse.protos import replace_all
from onnxsparse.shapes import infer_shapes
from onnxsparse.sparse import every_graph
from onnxsparse.weights import bodies


def flatten(model: Model, *, functions: bool = True) -> list[str]:
    """Change `model` in place; returns what was done, nothing for a model without functions and settled Ifs.

    `functions=False` leaves the calls.
    """
    notes = []
    calls = sum(1 for _ in find_calls(model.proto)) if functions else 0
    if calls:
        write_out_functions(model)
        notes.append(f"{calls} calls of model-local functions were written out, so that their nodes are seen like any others")
    settled = settle(model)
    if settled:
        notes.append(f"{settled} × If replaced by the branch that runs: constants and fixed sizes settle its condition")
    dropped = drop_spare_outputs(model)
    if dropped:
        notes.append(f"{dropped} outputs that nothing reads were left out of their nodes")
    return notes


def drop_spare_outputs(model: Model) -> int:
    """Leave out outputs that nothing reads and that their nodes can do without; returns how many."""
    graphs = every_graph(model.proto)
    read = {name for graph in graphs for node in graph.node for name in node.input}
    read |= {value.name for graph in graphs for value in graph.output}
    count = 0
    for node in (node for graph in graphs for node in graph.node if len(node.output) > 1):
        version = model.opset(node.domain)
        spec = find(node.domain, node.op_type, version)
        if spec is None or spec.outputs_decide:
            continue
        for at in spare_outputs(node, version):
            if node.output[at] and node.output[at] not in read:
                node.output[at] = ""
                count += 1
        while len(node.output) > 1 and not node.output[-1]:
            del node.output[-1]
    return count


def write_out_functions(model: Model) -> None:
    """Calls become nodes; functions that nothing calls any more go."""
    proto = inlined(model.proto)
    kept = [f for f in proto.functions if not is_called(model.proto, f)]
    replace_all(proto.functions, kept)
    renamed = share_constants(proto, model)
    for graph in every_graph(proto):
        attributes = [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
        for tensor in (*graph.initializer, *attributes):
            if origin(tensor) is not None:
                replace_all(tensor.metadata_props, [entry for entry in tensor.metadata_props if entry.key != ORIGIN])
    model.proto.CopyFrom(proto)
    model.weights.refresh()
    metadata.remember_names(model.proto, renamed)


def is_called(proto: onnx.ModelProto, function: onnx.FunctionProto) -> bool:
    """Whether a node of the model, or of another function, calls a function."""
    nodes = [node for graph in every_graph(proto) for node in graph.node]
    nodes += [node for other in proto.functions for node in other.node]
    key = (function.domain, function.name, function.overload)
    return any((node.domain, node.op_type, node.overload) == key for node in nodes)


def share_constants(proto: onnx.ModelProto, model: Model) -> dict[str, str]:
    """Make one initializer of the copies that calls have of a function's constant.

    Returns new names → those in `model.weights`, where they differ.
    """
    names = Names(proto)
    shared: dict[tuple[str, str], str] = {}
    renamed: dict[str, str] = {}
    made: dict[str, str] = {}
    for graph in every_graph(proto):
        kept = []
        for node in graph.node:
            tensor = constant_of_function(node)
            source = None if tensor is None else origin(tensor)
            if tensor is None or source is None or any(value.name == node.output[0] for value in graph.output):
                kept.append(node)
                continue
            if source not in shared:
                key = model.weights.find(*source) or source[1]
                shared[source] = names.fresh(key)
                made |= {shared[source]: key} if shared[source] != key else {}
                proto.graph.initializer.add().CopyFrom(tensor)
                proto.graph.initializer[-1].name = shared[source]
            renamed[node.output[0]] = shared[source]
        if len(kept) < len(graph.node):
            replace_all(graph.node, kept)
    for node in (node for graph in every_graph(proto) for node in graph.node):
        if any(name in renamed for name in node.input):
            node.input[:] = [renamed.get(name, name) for name in node.input]
    return made


def constant_of_function(node: onnx.NodeProto) -> TensorProto | None:
    """The value of a Constant, None for another node."""
    return next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None) if not node.input else None


def settle(model: Model) -> int:
    """Replace every If of which one branch alone can run by that branch; returns how many that were."""
    count = 0
    while (found := settled_branch(model)) is not None:
        renamed = Splice(model, found).run()
        metadata.remember_names(model.proto, renamed)
        count += 1
    return count


@dataclass(frozen=True)
class Branch:
    """A body, and the node that holds it."""

    graph: Graph
    index: int
    body: Graph
    others: tuple[Graph, ...]


def settled_branch(model: Model) -> Branch | None:
    """The first branch that always runs."""
    branches = list(all_branches(model))
    wanted = [(branch.body.scope, value.name) for branch in branches for value in branch.body.proto.output]
    if not wanted:
        return None
    dead = infer_shapes(model.proto, model.weights, recorded(model.proto), wanted).dead
    return next((b for b in branches if b.others and all(other.scope in dead for other in b.others)), None)


def all_branches(model: Model) -> Iterator[Branch]:
    """Every body of the nodes that run one of theirs."""
    graphs = [Graph(model.proto.graph)]
    for graph in graphs:
        for index, node in enumerate(graph.proto.node):
            inner = list(graph.bodies(index).values())
            spec = find(node.domain, node.op_type, model.opset(node.domain)) if inner else None
            if spec is not None and spec.body is not None and spec.body.branches:
                yield from (Branch(graph, index, b, tuple(o for o in inner if o is not b)) for b in inner)
            graphs += inner


class Splice:
    """Puts the nodes and tensors of a branch in place of the node that holds it, under names that nothing else has."""

    def __init__(self, model: Model, branch: Branch) -> None:
        self.model = model
        self.branch = branch
        self.outer, self.inner = branch.graph.proto, onnx.GraphProto()
        self.inner.CopyFrom(branch.body.proto)
        self.node = self.outer.node[branch.index]
        self.names: dict[str, str] = {}

    def run(self) -> dict[str, str]:
        """New names of tensors → those that they had in the weights."""
        handed = self._name_results()
        renamed = self._tensors()
        nodes = [self._renamed(node) for node in self.inner.node]
        own = [node.name for i, node in enumerate(self.outer.node) if i != self.branch.index]
        for node in nodes:
            if node.name in own:
                node.name = f"{self.branch.graph.names[self.branch.index]}/{node.name}"
        before, after = list(self.outer.node[: self.branch.index]), list(self.outer.node[self.branch.index + 1 :])
        read = [*self.node.input, *captured(self.node)]
        replace_all(self.outer.node, [*before, *nodes, *handed, *after])
        drop_unread(self.branch.graph, read)
        self.model.weights.refresh()
        return renamed

    def _name_results(self) -> list[onnx.NodeProto]:
        """The branch's results get the names of the node's; an Identity for each that it hands on or gives twice."""
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
        """What is made in the branch keeps its name where that is the only one in the model."""
        counts = Counter(name for graph in every_graph(self.model.proto) for name in definitions(graph))
        for other in self.branch.others:
            counts.subtract(name for graph in with_bodies(other.proto) for name in definitions(graph))
        fresh = Names(self.model.proto).fresh
        for name in (name for graph in with_bodies(self.inner) for name in definitions(graph)):
            if name not in self.names:
                self.names[name] = name if counts[name] == 1 else fresh(name)

    def _tensors(self) -> dict[str, str]:
        """Move the branch's tensors, and what is recorded of its values."""
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
        """A node, and what is in its bodies, with the new names."""
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
    """Remove what made these values of a graph, and the constants among them, where nothing reads them any more."""
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
    """The names that a graph itself gives values."""
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (name for node in graph.node for name in node.output if name)


def with_bodies(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """A graph and the bodies in it."""
    return every_graph(onnx.ModelProto(graph=graph))
