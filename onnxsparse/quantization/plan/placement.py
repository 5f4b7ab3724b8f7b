"""Placement of scales: which units compute in integers, which values have a scale, and which values share one.

1. Find the candidate units: nodes that the target computes in integers, with the nodes fused into them. Drop those that the
   caller keeps float, that are quantized already, or whose weights are not finite (`_is_wanted_kind`).
2. Forward: find the values that could be integers, that is the results of layers and of ops on integers, and what moves them
   (`_made_in_integers`).
3. Backward: find the values that a layer reads, directly or through ops on integers (`_wanted`). Ops after the last layer stay
   float, since integers would add noise there and save no multiplication.
4. Active units are the layers, and the ops of step 2 whose result is needed by step 3.
5. Give a scale to every value that an active unit reads or produces. Values that a node only moves (Reshape, MaxPool, …) share
   the scale of its input (`_scale`); inputs of a Concat share one if the target requires that (`_join`).
6. Record for every value which nodes read it as integers (`_readers`), and for every other layer why it stays float (`_skipped`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from onnxsparse.analysis.context import main_context
from onnxsparse.ir.model import Model
from onnxsparse.ops import Quant
from onnxsparse.quantization.plan.target import Target
from onnxsparse.quantization.plan.units import DEFAULTS, Anatomy, Unit, is_finite, is_float_weight
from onnxsparse.records import Skip


@dataclass
class Placement:
    """The scales of a model's main graph. Values are given by name, nodes by index."""

    anatomy: Anatomy
    units: tuple[Unit, ...]
    """The units that compute in integers."""
    kept: dict[int, str]
    """Node → why the caller keeps it float."""
    scaled: dict[str, str] = field(default_factory=dict)
    """Value → the value that stands for its scale; values with the same one share a scale."""
    readers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Value → the nodes that read its integers; all others read the float value."""
    made_in_integers: frozenset[str] = frozenset()
    """Values that an integer computation produces, so that every reader sees them rounded."""
    skipped: tuple[Skip, ...] = ()
    """Layers and arithmetic that stay float, each with the reason."""
    quantized_before: frozenset[int] = frozenset()
    """Nodes that are quantized already."""
    followers: tuple[int, ...] = ()
    """Nodes that move integers without computing."""
    joined: frozenset[str] = frozenset()
    """Results of nodes such as Concat that share the scale of their inputs."""

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Scale → the values whose ranges determine it: not those that a node moves or joins, whose range follows."""
        moved = {o for unit in self.followers for o in self.anatomy.nodes[unit].output}
        found: dict[str, list[str]] = {}
        for name, scale in self.scaled.items():
            if name not in moved and name not in self.joined:
                found.setdefault(scale, []).append(name)
        return {scale: tuple(names) for scale, names in found.items()}

    @property
    def calibrated(self) -> list[str]:
        """The values whose ranges are needed, in graph order."""
        return [name for names in self.sources.values() for name in names]


def place(model: Model, target: Target, kept: dict[int, str]) -> Placement:
    """The placement for a target. `kept`: node → why it stays float."""
    return Placer(Anatomy(main_context(model), target), kept).run()


class Placer:
    """Runs the steps at the head of this file. `parents` is a union-find forest over the values: one tree per scale."""

    def __init__(self, anatomy: Anatomy, kept: dict[int, str]) -> None:
        self.anatomy = anatomy
        self.asked = kept
        self.kept = dict(kept)
        self.parents: dict[str, str] = {}
        self.quantized_before: set[int] = set()

    def run(self) -> Placement:
        """Steps 1 to 6 of the head of this file."""
        anatomy = self.anatomy
        self.quantized_before = {at for at, spec in enumerate(anatomy.specs) if spec is not None and spec.computes_integers}
        units = {unit.root: unit for unit in anatomy.units(set(self.kept)) if self._is_wanted_kind(unit)}
        integers = self._made_in_integers(units)
        units = {root: unit for root, unit in units.items() if unit.computes or self._reads_integers(unit, integers)}
        wanted = self._wanted(units)
        active = {root: unit for root, unit in units.items() if unit.computes or unit.exit in wanted}
        integers = self._made_in_integers(active)
        followers = tuple(self._followers(integers, wanted))
        self._scale(active, followers)
        joined = frozenset(self._join(active))
        scaled = {name: self._root(name) for name in self._in_order(self.parents)}
        placement = Placement(
            anatomy,
            tuple(active.values()),
            self.asked,
            scaled,
            {},
            frozenset(integers & set(scaled)),
            tuple(self._skipped(active)),
            frozenset(self.quantized_before),
            followers,
            joined,
        )
        placement.readers = {name: tuple(self._readers(name, placement)) for name in scaled}
        return placement

    def _is_wanted_kind(self, unit: Unit) -> bool:
        """Whether a unit may be quantized; if not, the reason is recorded in `kept` or `quantized_before`.

        A layer may not if it is quantized already, if its weights or bias are not finite, or if it takes the mean over a
        distribution (the box head of a detector trained with distribution focal loss).
        """
        anatomy = self.anatomy
        if not unit.computes:
            return True
        if all(self._is_quantized(unit, at) for at in (*unit.activations, *(w.at for w in unit.weights))):
            self.quantized_before.add(unit.root)
            return False
        for weight in unit.weights:
            if is_float_weight(anatomy.model, weight.stored) and not is_finite(anatomy.model, weight.stored.name):
                self.kept[unit.root] = "its weights are not finite"
        bias = anatomy.bias_name(unit)
        if bias is not None and not is_finite(anatomy.model, bias):
            self.kept[unit.root] = "its bias is not finite"
        if unit.weights and all(anatomy.outputs_of(w) == 1 for w in unit.weights) and self._is_distribution(unit):
            self.kept[unit.root] = "it takes the mean over a distribution"
        return unit.root not in self.kept

    def _is_quantized(self, unit: Unit, at: int) -> bool:
        weight = next((w for w in unit.weights if w.at == at), None)
        if weight is not None:
            return not is_float_weight(self.anatomy.model, weight.stored)
        return self._comes_quantized(self.anatomy.nodes[unit.root].input[at])

    def _comes_quantized(self, name: str) -> bool:
        """Whether a value has a quantizer, or is moved from a value that has one."""
        anatomy = self.anatomy
        if name in anatomy.already:
            return True
        made_by = anatomy.graph.producers.get(name)
        while made_by is not None and anatomy.quant(made_by) is Quant.FOLLOW:
            name = anatomy.nodes[made_by].input[0]
            if anatomy.already.get(name) == name:
                return True
            made_by = anatomy.graph.producers.get(name)
        return False

    def _is_distribution(self, unit: Unit) -> bool:
        """Whether a unit reads the result of a Softmax, directly or moved."""
        anatomy = self.anatomy
        pending = [anatomy.nodes[unit.root].input[at] for at in unit.activations]
        while pending:
            made_by = anatomy.graph.producers.get(pending.pop())
            if made_by is not None and anatomy.quant(made_by) is Quant.DISTRIBUTION:
                return True
            if made_by is not None and anatomy.quant(made_by) is Quant.FOLLOW:
                pending.append(anatomy.nodes[made_by].input[0])
        return False

    def _made_in_integers(self, units: dict[int, Unit]) -> set[str]:
        """The results of units, the values moved from them, and values that existing quantizers produce."""
        anatomy = self.anatomy
        leaving = {anatomy.graph.producers[unit.exit]: unit for unit in units.values()}
        found = {name for name, behind in anatomy.already.items() if name == behind}
        for index, node in enumerate(anatomy.nodes):
            unit = leaving.get(index)
            if unit is not None and (unit.computes or self._reads_integers(unit, found)):
                found.add(unit.exit)
            elif self._follows(index) and node.input[0] in found and node.input[0] not in anatomy.already:
                found.update(o for o in node.output if anatomy.is_float(o))
        return found

    def _follows(self, index: int) -> bool:
        node = self.anatomy.nodes[index]
        return index not in self.kept and self.anatomy.quant(index) is Quant.FOLLOW and self.anatomy.is_float(node.input[0])

    def _reads_integers(self, unit: Unit, integers: set[str]) -> bool:
        node = self.anatomy.nodes[unit.root]
        return all(node.input[at] in integers for at in unit.activations)

    def _wanted(self, units: dict[int, Unit]) -> set[str]:
        """Values from which a layer is reached through integers alone; after the last layer there are none."""
        anatomy = self.anatomy
        found: set[str] = set()
        for index in reversed(range(len(anatomy.nodes))):
            node = anatomy.nodes[index]
            unit = units.get(index)
            if unit is not None and (unit.computes or unit.exit in found):
                found.update(node.input[at] for at in unit.activations)
            elif self._follows(index) and found.intersection(node.output):
                found.add(node.input[0])
        return found

    def _followers(self, integers: set[str], wanted: set[str]) -> Iterator[int]:
        """Nodes that move integers and whose result is needed as integers."""
        for index, node in enumerate(self.anatomy.nodes):
            if self._follows(index) and node.input[0] in integers and wanted.intersection(node.output):
                yield index

    def _scale(self, units: dict[int, Unit], followers: tuple[int, ...]) -> None:
        anatomy = self.anatomy
        for unit in units.values():
            node = anatomy.nodes[unit.root]
            names = [unit.exit, *(node.input[at] for at in unit.activations)]
            for name in names:
                if name not in anatomy.already:
                    self.parents.setdefault(name, name)
        for index in followers:
            node = anatomy.nodes[index]
            for name in (node.input[0], *(o for o in node.output if anatomy.is_float(o))):
                self.parents.setdefault(name, name)
                self._unite(node.input[0], name)

    def _join(self, units: dict[int, Unit]) -> Iterator[str]:
        """Unite the scales of inputs and output of the ops in the target's `one_scale`, such as Concat; yields the outputs."""
        anatomy = self.anatomy
        for unit in units.values():
            node = anatomy.nodes[unit.root]
            inputs = [node.input[at] for at in unit.activations]
            if node.op_type in anatomy.target.one_scale and all(name in self.parents for name in (unit.exit, *inputs)):
                for name in inputs:
                    self._unite(unit.exit, name)
                yield unit.exit

    def _root(self, name: str) -> str:
        while self.parents[name] != name:
            name = self.parents[name]
        return name

    def _unite(self, a: str, b: str) -> None:
        self.parents[self._root(b)] = self._root(a)

    def _in_order(self, names: dict[str, str]) -> list[str]:
        """The model's inputs first, then in the order of their producers."""
        producers = self.anatomy.graph.producers
        return sorted(names, key=lambda name: producers.get(name, -1))

    def _readers(self, name: str, placement: Placement) -> Iterator[int]:
        """All readers of a value produced in integers; of another value, only those that compute in or move integers."""
        anatomy = self.anatomy
        roots = {u.root for u in placement.units}
        for index in anatomy.readers(name):
            if anatomy.quant(index) is Quant.BOUNDARY or name not in anatomy.nodes[index].input:
                continue  # an existing quantizer, or a node whose body reads the value: bodies stay float
            moved = index in placement.followers and anatomy.nodes[index].input[0] == name
            if name in placement.made_in_integers or index in roots or moved:
                yield index

    def _skipped(self, units: dict[int, Unit]) -> Iterator[Skip]:
        """Layers and arithmetic of the main graph that stay float, and why."""
        anatomy = self.anatomy
        inside = {node for unit in units.values() for node in unit.nodes}
        for index, spec in enumerate(anatomy.specs):
            name = anatomy.graph.names[index]
            if index in self.kept:
                yield Skip(name, f"stays float: {self.kept[index]}")
            elif spec is None:
                yield Skip(name, "stays float: its op is unknown")
            elif spec.body is not None:
                yield Skip(name, "stays float: its bodies are not quantized")
            elif spec.macs is not None and index not in inside | self.quantized_before and anatomy.activations(index):
                yield Skip(name, f"stays float: {self._why_float(index)}")

    def _why_float(self, index: int) -> str:
        anatomy, node = self.anatomy, self.anatomy.nodes[index]
        if anatomy.reads_defaults(index):
            return DEFAULTS
        floats = [name for name in node.input if name and anatomy.types.get(name) is not None]
        if floats and not any(anatomy.is_float(name) for name in floats):
            return "it computes in a type other than float32"
        if any(name and name not in anatomy.types for name in node.input):
            return "the type of an input is unknown"
        if not anatomy.is_integer(node):
            return f"{anatomy.target.name} has no integers for {node.op_type}"
        return anatomy.obstacle(index) or "why was not recorded"
