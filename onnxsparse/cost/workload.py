"""The workload of a model: layers as a device runs them, with fused nodes, and the activations between them.

1. Leave out nodes that compute only sizes and constants: a compiler evaluates them.
2. Let views (Reshape, Identity, …) and existing quantizers be other names of their input (`aliases`).
3. Go through the nodes in order. Fuse an elementwise node into the group that produces its inputs, and a node that moves data
   into the group if it is the only reader (`_fuses`). Every other node starts a group of its own.
4. Turn each group into a work item with MACs, weights, and the activations that cross its boundary (`_item`).
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import onnx

from onnxsparse.analysis.layer import Layer, Layers, UnknownNode, add_up
from onnxsparse.analysis.layer_filter import NamedNode, choose
from onnxsparse.analysis.layers import Survey, evaluate
from onnxsparse.analysis.structured_sparsity import two_of_four
from onnxsparse.cost.backends.work import Volume, WorkItem, total_bytes
from onnxsparse.ir.model import Model
from onnxsparse.ops import OpSpec, Quant, Work


@dataclass(frozen=True)
class Workload:
    """The work items of a model, in order."""

    items: tuple[WorkItem, ...]
    layers: Layers
    model_inputs: tuple[str, ...]
    model_outputs: tuple[str, ...]
    volumes: dict[str, Volume | None]
    """Activation → its size; None if unknown."""
    free: frozenset[str] = frozenset()
    """Nodes that --assume-free counts as 0: those of items, and layers and unknown ops inside of them."""

    def is_free(self, item: WorkItem) -> bool:
        """Whether --assume-free counts an item as 0."""
        return item.node in self.free

    @property
    def costed(self) -> tuple[WorkItem, ...]:
        """The items that are not assumed free."""
        return tuple(item for item in self.items if not self.is_free(item))

    def peak(self, float_bits: int = 8) -> tuple[int | None, tuple[str, ...]]:
        """Peak of the bytes held (inputs, outputs and live intermediates), and the intermediates live at the peak.

        None and no names if a size is unknown.
        """
        ends = {*self.model_inputs, *self.model_outputs}
        live = list(self._live(ends))
        sizes = [self._bytes({*ends, *names}, float_bits) for names in live]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            return None, ()
        worst = max(range(len(known)), key=known.__getitem__, default=None)
        return (self._bytes(ends, float_bits), ()) if worst is None else (known[worst], tuple(live[worst]))

    def timeline(self, float_bits: int = 8) -> list[int | None]:
        """Bytes of inputs, outputs and live intermediates held while each item runs; None where a size is unknown."""
        ends = {*self.model_inputs, *self.model_outputs}
        return [self._bytes({*ends, *live}, float_bits) for live in self._live(ends)]

    def widths(self) -> dict[str, Counter[int | None]]:
        """Number of `activations` and `weights` of each width in bits (None: floats)."""
        weights = {name: volume for item in self.items for name, volume in zip(item.tensors, item.coefficients, strict=True)}
        activations = (volume for volume in self.volumes.values() if volume is not None)
        return {
            "activations": Counter(volume.integer_bits for volume in activations),
            "weights": Counter(volume.integer_bits for volume in weights.values()),
        }

    def _bytes(self, names: Iterable[str], float_bits: int) -> int | None:
        sizes = [self.volumes.get(name) for name in names if name not in self._unsized_free]
        return None if None in sizes else total_bytes((size for size in sizes if size is not None), float_bits)

    @cached_property
    def _unsized_free(self) -> frozenset[str]:
        """Outputs of unknown size of nodes that are assumed free; they count as 0 bytes."""
        produced = (name for item in self.items if self.is_free(item) for name in item.outputs)
        return frozenset(name for name in produced if self.volumes.get(name) is None)

    def _live(self, ends: set[str]) -> Iterator[list[str]]:
        """The intermediates alive while each item runs: produced by it or earlier items, and used by it or later ones."""
        last = {name: i for i, item in enumerate(self.items) for name in item.inputs}
        alive: dict[str, None] = {}
        for i, item in enumerate(self.items):
            alive |= dict.fromkeys(name for name in item.outputs if name not in ends)
            yield list(alive)
            alive = {name: None for name in alive if last.get(name, -1) > i}


def workload(model: Model, assume_free: Sequence[str] = ()) -> Workload:
    """What a device runs for one inference of `model`, at the input sizes of `model.binding`.

    `assume_free`: patterns of nodes that count as 0. Raises ParamError for a pattern that matches none.
    """
    return Scheduler(model, assume_free).run()


@dataclass
class Group:
    """Indices of a node and the nodes fused into it, and the names of the values they produce."""

    nodes: list[int]
    made: set[str] = field(default_factory=set)


class Scheduler:
    """Runs the steps at the head of this file. Values are called by one name each, found by `_source`."""

    def __init__(self, model: Model, assume_free: Sequence[str]) -> None:
        self.assume_free = assume_free
        self.survey = Survey(model)
        self.layers = self.survey.layers(count=True)
        self.graph = self.survey.context.graph
        self.by_node: dict[str, list[Layer]] = {}
        main = set(self.graph.names)
        for layer in self.layers:
            # a layer inside of a body or function belongs to the node of the main graph that contains it
            self.by_node.setdefault(layer.node if layer.node in main else layer.within, []).append(layer)
        # a compiler computes these, not the device
        self.sizes_only = self.survey.context.follow_constants(defaults=True, sizes=True)
        self.aliases: dict[str, str] = self._quantized_outputs()
        self.made: set[str] = set()
        self.widths: dict[str, tuple[int | None, ...]] = {}

    def run(self) -> Workload:
        """The workload. Raises ParamError for a pattern of `assume_free` that matches no node."""
        groups = self._groups()
        self.made = {name for group in groups for name in group.made}
        self.widths = self._widths(groups)
        self._free(groups)
        items = tuple(self._item(group) for group in groups)
        proto = self.graph.proto
        fed = tuple(v.name for v in proto.input if v.name not in self.graph.initializers)
        outputs = tuple(self._source(v.name) for v in proto.output)
        names = {*fed, *outputs, *(n for item in items for n in (*item.inputs, *item.outputs))}
        return Workload(items, self.layers, fed, outputs, {name: self._volume(name) for name in names}, self.layers.free)

    def _free(self, groups: list[Group]) -> None:
        """Record the nodes that are assumed free: items, or layers and unknown ops inside of them."""
        heads = [(self.graph.names[group.nodes[0]], self.graph.proto.node[group.nodes[0]].op_type) for group in groups]
        nodes = [*(NamedNode(*head) for head in heads), *self.layers, *self.layers.unknown]
        found = choose(nodes, self.assume_free, "--assume-free", self.survey.model.name)
        self.layers = replace(self.layers, free=frozenset(found))

    def _quantized_outputs(self) -> dict[str, str]:
        """Value before the quantizer of a model's output → the output's name, by which the value is called."""
        graph, found = self.graph.proto, dict[str, str]()
        outputs = {value.name for value in graph.output}
        for output in graph.output:
            name, way = output.name, [output.name]
            while (index := self.graph.producers.get(name)) is not None and self._is_boundary(index):
                name = graph.node[index].input[0]
                way.append(name)
            if index is not None and not outputs.intersection(way[1:]) and not found.keys() & set(way):
                found |= dict.fromkeys(way[1:], output.name)
        return found

    def _is_boundary(self, index: int) -> bool:
        spec = self.survey.spec(self.graph.proto.node[index])
        return spec is not None and spec.quant.role is Quant.BOUNDARY

    def _groups(self) -> list[Group]:
        groups: list[Group] = []
        owner: dict[str, Group] = {}
        for index, node in enumerate(self.graph.proto.node):
            spec = self.survey.spec(node)
            if all(o in self.sizes_only for o in node.output if o):
                continue
            inputs = self._activations(node)
            if self._is_free(index):
                self.aliases |= {o: inputs[0] for o in node.output[:1] if inputs and o != inputs[0]}
                continue
            owners = {id(owner[name]): owner[name] for name in inputs if name in owner}
            group = next(iter(owners.values()), None) if len(owners) == 1 else None
            if group is not None and all(name in owner for name in inputs) and self._fuses(group, spec, inputs):
                group.nodes.append(index)
            else:
                group = Group([index])
                groups.append(group)
            made = {self._source(o) for o in node.output if o}
            group.made |= made
            owner |= dict.fromkeys(made, group)
        return groups

    def _fuses(self, group: Group, spec: OpSpec | None, inputs: list[str]) -> bool:
        """Whether a node is fused into a group: elementwise nodes, and nodes that move a value without another reader.

        Nothing is fused into a group that a host runs.
        """
        if spec is None or spec.macs is not None or self._on_host(group):
            return False
        alone = len(inputs) == 1 and len(self._readers(inputs[0])) == 1
        return spec.cost.work is Work.ELEMENTWISE or (spec.cost.work is Work.MOVE and alone)

    def _on_host(self, group: Group) -> bool:
        specs = (self.survey.spec(self.graph.proto.node[at]) for at in group.nodes)
        return any(spec is not None and spec.cost.work is Work.HOST for spec in specs)

    def _readers(self, value: str) -> set[int]:
        """The nodes that read a value under any of its names, except views."""
        found = {at for name in self._names_of(value) for at in self.graph.consumers.get(name, [])}
        return {at for at in found if not self._is_free(at)}

    def _activations(self, node: onnx.NodeProto) -> list[str]:
        """The activations that a node reads; views of the same bytes count once."""
        return list(dict.fromkeys(self._source(i) for i in node.input if i and i not in self.sizes_only))

    def _source(self, name: str) -> str:
        while name in self.aliases:
            name = self.aliases[name]
        return name

    def _item(self, group: Group) -> WorkItem:
        node = self.graph.proto.node[group.nodes[0]]
        name = self.graph.names[group.nodes[0]]
        spec = self.survey.spec(node)
        found = self.by_node.get(name, [])
        totals = add_up(found)
        channels, groups = self._channels(node, spec, found)
        inputs = [i for at in group.nodes for i in self._activations(self.graph.proto.node[at]) if i not in group.made]
        outputs = [value for value in sorted(group.made) if self._leaves(value, group)]
        in_place = len(group.nodes) == 1 and self._is_in_place(node, spec, inputs)
        shares = [layer.weight_share for layer in found if layer.weight_share is not None]
        return WorkItem(
            node=name,
            op_type=node.op_type,
            fused=tuple(self.graph.names[at] for at in group.nodes[1:]),
            macs=self._macs(name, spec, found),
            coefficients=coefficients(found),
            nonzeros=totals.weights - (totals.zero_weights or 0),
            weight_share=sum(shares) if shares else None,
            inputs=tuple(dict.fromkeys(inputs)),
            outputs=tuple(outputs),
            reads=() if in_place else self._volumes(inputs),
            writes=() if in_place else self._volumes(outputs),
            depthwise=any(layer.depthwise for layer in found),
            output_channels=math.ceil(channels / groups),
            groups=groups,
            op_types=tuple(self.graph.proto.node[at].op_type for at in group.nodes),
            tensors=tuple(dict.fromkeys(w.tensor for layer in found for w in layer.weights)),
            on_host=self._on_host(group),
            two_of_four=two_of_four(found, self.survey.model.weights),
            unknown=self._why_unknown(dict.fromkeys((*inputs, *outputs)), found),
        )

    def _macs(self, name: str, spec: OpSpec | None, found: list[Layer]) -> int | None:
        """MACs of an item: 0 for a known op without layers; None for an unknown op, or if MACs inside of it are unknown."""
        gaps: list[Layer | UnknownNode] = [node for node in self.layers.unknown if node.within == name]
        gaps += [layer for layer in found if layer.macs is None]
        if spec is None or not all(self.layers.is_free(node) for node in gaps):
            return None
        return sum(layer.macs or 0 for layer in found)

    def _why_unknown(self, values: Iterable[str], found: list[Layer]) -> str | None:
        """Why sizes or MACs of an item are unknown; None if they are known. `values`: its activations; `found`: its layers."""
        shapes = {name: self.survey.shapes.get("", name) for name in values}
        lost = [name for name, shape in shapes.items() if shape is None]
        if lost:
            return f"the shape of '{lost[0]}' is unknown"
        if any(None in (shape or ()) for shape in shapes.values()):
            return "open sizes"
        return next((layer.unknown for layer in found if layer.unknown is not None), None)

    def _is_in_place(self, node: onnx.NodeProto, spec: OpSpec | None, inputs: list[str]) -> bool:
        """Whether an op works in place: it joins contiguous blocks (Concat), and its inputs are produced for it alone."""
        if spec is None or spec.cost.in_place is None or not set(inputs) <= self.made:
            return False
        return all(len(self._readers(i)) == 1 for i in inputs) and bool(
            evaluate(spec.cost.in_place, self.survey.view(self.graph, node), 1)
        )

    def _leaves(self, value: str, group: Group) -> bool:
        """Whether a value is an output of the model or read outside of the group; other values are not written."""
        ends = {self._source(v.name) for v in self.graph.proto.output}
        return value in ends or any(at not in group.nodes for at in self._readers(value))

    def _names_of(self, value: str) -> list[str]:
        return [value, *(name for name in self.aliases if self._source(name) == value)]

    def _is_free(self, index: int) -> bool:
        spec = self.survey.spec(self.graph.proto.node[index])
        return spec is not None and spec.cost.work is Work.FREE and spec.macs is None

    def _widths(self, groups: list[Group]) -> dict[str, tuple[int | None, ...]]:
        """Value → the widths at which other items or the caller read it."""
        found: dict[str, dict[int | None, None]] = {}
        for group in groups:
            read = (i for at in group.nodes for i in self.graph.proto.node[at].input if i and i not in self.sizes_only)
            for name in read:
                if self._source(name) not in group.made:
                    found.setdefault(self._source(name), {})[self.survey.width(self.graph, name)] = None
        for output in self.graph.proto.output:
            found.setdefault(self._source(output.name), {})[self.survey.width(self.graph, output.name)] = None
        return {name: tuple(sorted(widths, key=lambda w: w or 0)) for name, widths in found.items()}

    def _volumes(self, names: Iterable[str]) -> tuple[Volume, ...] | None:
        """The sizes of the tensors, each once; None if one is unknown."""
        found = [self._volume(name) for name in dict.fromkeys(names)]
        known = tuple(volume for volume in found if volume is not None)
        return known if len(known) == len(found) else None

    def _volume(self, name: str) -> Volume | None:
        shape = self.survey.shapes.get("", name)
        if shape is None or None in shape:
            return None
        return Volume(math.prod(d for d in shape if d is not None), self.widths.get(name, (None,)))

    def _channels(self, node: onnx.NodeProto, spec: OpSpec | None, found: list[Layer]) -> tuple[int, int]:
        """The weight's outputs, and in how many groups of them the op works."""
        packing = found[0].weights[0].stored.packing if found and found[0].weights else None
        if packing is not None:
            return packing.outputs, 1
        axes = found[0].weights[0].axes if found and found[0].weights else None
        stored = found[0].weights[0].stored if axes is not None else None
        if axes is None or stored is None or stored.axes is None:
            return 0, 1
        size = self.survey.model.weights.shape(stored.name)[stored.axes[axes.output]]
        groups = None if spec is None else evaluate(spec.group_count, self.survey.view(self.graph, node), 1)
        return size, max(1, groups or 1)


def coefficients(found: list[Layer]) -> tuple[Volume, ...]:
    """The sizes of the layers' weight tensors, each once."""
    tensors = {use.tensor: Volume(use.elements, (use.bits,)) for layer in found for use in layer.weights}
    return tuple(tensors.values())
