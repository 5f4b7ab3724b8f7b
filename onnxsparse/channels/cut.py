"""The cut: every tensor indexed along the same labels, and each op's node corrected.

1. For every use of a constant, the indices that are kept along each axis are recorded; no data is read yet.
2. Every node whose inputs or outputs changed shape is corrected by its op's `refit` rule. A rule may replace a constant, change
   attributes, or add nodes that correct sizes computed at run time.
3. Constants are written: replaced if all users need the same version, else copied per version.
4. Added nodes are inserted, and recorded shapes (value_info) are updated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxsparse.analysis.recorded_shapes import set_shape
from onnxsparse.channels.groups import Removed, Solution
from onnxsparse.channels.known_values import Values
from onnxsparse.channels.labelled_graph import all_places
from onnxsparse.channels.versions import CutResult, Part, TensorCut, Version, same
from onnxsparse.errors import PassError
from onnxsparse.ir.graph import Graph, captured
from onnxsparse.ir.model import Model
from onnxsparse.ir.new_tensors import Additions
from onnxsparse.ir.protos import replace_all
from onnxsparse.ir.weights import Array
from onnxsparse.ops import OpView, UnknownFact
from onnxsparse.ops.labels import Axes
from onnxsparse.ops.refit import Refit, Value
from onnxsparse.ops.sizes import OpenSize


def apply_cut(model: Model, solution: Solution, removed: Removed) -> CutResult:
    """Cut `model` in place. It must be the model on which `solution` was found, or have the same graph.

    Raises PassError if a node cannot be corrected.
    """
    return Cutter(model, solution, removed).run()


@dataclass
class Cutter:
    """The state of one cut; the steps are in the module's docstring."""

    model: Model
    solution: Solution
    removed: Removed
    versions: dict[tuple[int, int], Version] = field(default_factory=dict)
    """(node, input) → the version of the constant that the input needs."""
    before: dict[int, list[onnx.NodeProto]] = field(default_factory=dict)
    """Node → nodes to insert before it."""
    behind: dict[int, list[onnx.NodeProto]] = field(default_factory=dict)
    """Node → nodes to insert after it."""

    def __post_init__(self) -> None:
        self.places = list(all_places(Graph(self.model.proto.graph)))
        self.nodes = [place.node for place in self.places]
        self.values = Values(self.solution.found)
        self.additions = Additions(self.model)

    def run(self) -> CutResult:
        """Make the cut. Raises PassError if a node cannot be corrected."""
        cuts = self._cut_constants()
        touched = tuple(index for index in range(len(self.nodes)) if self._refit(index))
        copied = self._write_constants()
        self._write_nodes()
        self._record_shapes()
        return CutResult(cuts, copied, touched)

    def _cut_constants(self) -> tuple[TensorCut, ...]:
        found: dict[TensorCut, None] = {}
        for use in self.solution.found.uses:
            kept = {a: k for a, labels in enumerate(use.axes) if (k := self.solution.kept(labels, self.removed)) is not None}
            if not kept:
                continue
            shape = self.model.weights.shape(use.tensor)
            for axis, indices in kept.items():
                gone = np.setdiff1d(np.arange(shape[axis]), indices)
                role = use.roles[axis].value if axis in use.roles else "per_channel"
                found[TensorCut(use.tensor, axis, tuple(gone.tolist()), role, shape[axis])] = None
            self.versions[use.node, use.at] = Part.of(use.tensor, kept)
        return tuple(found)

    def _refit(self, index: int) -> bool:
        """Correct a node; returns whether the shape of an input or output changed. Raises PassError if its op's rule lacks a
        fact.
        """
        solution, node = self.solution, self.nodes[index]
        old, new = solution.found.view(index), solution.new_view(index, self.removed)
        if (old.inputs, old.outputs) == (new.inputs, new.outputs):
            return False
        spec = solution.found.spec(index)
        if spec is not None and spec.channels.refit is not None:
            try:
                spec.channels.refit(self._fixing(index, node, old, new))
            except UnknownFact as error:
                hint = "; give --input-shape" if isinstance(error, OpenSize) else ""
                name = solution.found.places[index].name
                raise PassError(f"{name} cannot be fixed after a cut: {error}{hint}") from None
        return True

    def _fixing(self, index: int, node: onnx.NodeProto, old: OpView, new: OpView) -> Refit:
        solution = self.solution
        return Refit(
            node,
            old,
            new,
            kept_input=lambda at, axis: self._kept(solution.axes_at(index, at), axis),
            kept_output=lambda at, axis: self._kept(solution.found.axes.get(solution.found.output_key(index, at)), axis),
            constant=lambda at: self.values.at(index, at),
            replace=lambda at, value: self._replace(index, at, value),
            patch=lambda at, values: self._patch(index, at, values),
            rescale=lambda at, a, b, fill={}: self._rescale(index, at, a, b, fill),
            restore_output=lambda a, b: self._restore_output(index, a, b),
        )

    def _kept(self, axes: Any, axis: int) -> Any:
        return None if axes is None or axis >= len(axes) else self.solution.kept(axes[axis], self.removed)

    def _replace(self, index: int, at: int, value: Value) -> None:
        """Give an input a constant value; a missing input is added."""
        node = self.nodes[index]
        while len(node.input) <= at:
            node.input.append("")
        known = self._known(index, at)
        value = value if known is None else value.astype(known.dtype)  # ops require one type for all vectors of sizes
        if known is not None and self.solution.found.tensor(index, at) is not None:
            self.versions[index, at] = value
        else:
            node.input[at] = self._constant(f"{node.output[0]}_sizes", value)

    def _known(self, index: int, at: int) -> Array | None:
        """The value of an input before the cut. None if it is computed, or the node had no such input."""
        return self.values.at(index, at) if at < len(self.solution.found.places[index].node.input) else None

    def _rescale(self, index: int, at: int, old: Sequence[int], new: Sequence[int], fill: Mapping[int, int]) -> None:
        """Change sizes in an integer vector input, as Rescale describes."""
        node = self.nodes[index]
        name = node.input[at]
        values = self._known(index, at)
        flat = None if values is None else values.reshape(-1)
        # −1 is inferred, 0 copies a size, and a 1 in Expand takes the input's size: only an explicit size has to change
        changed = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b and (flat is None or int(flat[i]) == a)]
        if not changed and not fill:
            return
        if flat is not None and self.solution.found.tensor(index, at) is not None:
            written = [fill.get(i, new[i] if i in changed else int(v)) for i, v in enumerate(flat)]
            self.versions[index, at] = np.array(written, flat.dtype)
            return
        node.input[at] = self._scaled(index, name, old, new, changed, self.before)
        if fill:
            self._overwrite(index, at, dict(fill), len(new), np.dtype(np.int64))

    def _patch(self, index: int, at: int, values: Mapping[int, int]) -> None:
        """Replace elements of an integer vector; a computed vector remains computed."""
        known = self._known(index, at)
        assert known is not None, "a cut passed through an op with unknown integers"
        flat = known.reshape(-1)
        if self.solution.found.tensor(index, at) is not None:
            written = [values.get(i, int(v)) for i, v in enumerate(flat)]
            self.versions[index, at] = np.array(written, flat.dtype).reshape(known.shape)
        else:
            self._overwrite(index, at, values, flat.size, flat.dtype)

    def _overwrite(self, index: int, at: int, values: Mapping[int, int], size: int, dtype: np.dtype[Any]) -> None:
        """Replace elements of a computed vector with two nodes: multiply by 0 or 1, then add the new elements."""
        node = self.nodes[index]
        name = node.input[at]
        kept = self._constant(f"{name}_kept", np.array([i not in values for i in range(size)], dtype))
        added = self._constant(f"{name}_added", np.array([values.get(i, 0) for i in range(size)], dtype))
        zeroed, total = self.additions.fresh(f"{name}_zeroed"), self.additions.fresh(f"{name}_patched")
        self.before.setdefault(index, []).extend(
            [
                helper.make_node("Mul", [name, kept], [zeroed], name=zeroed),
                helper.make_node("Add", [zeroed, added], [total], name=total),
            ]
        )
        node.input[at] = total

    def _scaled(
        self,
        index: int,
        name: str,
        old: Sequence[int],
        new: Sequence[int],
        changed: Sequence[int],
        where: dict[int, list[onnx.NodeProto]],
        result: str | None = None,
    ) -> str:
        """Add nodes that multiply a vector of sizes by new / old where they differ; returns the name of the result."""
        factors = np.array([new[i] if i in changed else 1 for i in range(len(new))], np.int64)
        divisors = np.array([old[i] if i in changed else 1 for i in range(len(old))], np.int64)
        product, found = self.additions.fresh(f"{name}_product"), result or self.additions.fresh(f"{name}_cut")
        where.setdefault(index, []).extend(
            [
                helper.make_node("Mul", [name, self._constant(f"{name}_factors", factors)], [product], name=product),
                helper.make_node(
                    "Div",
                    [product, self._constant(f"{name}_divisors", divisors)],
                    [found],
                    name=self.additions.fresh(f"{found}_sizes"),
                ),
            ]
        )
        return found

    def _restore_output(self, index: int, old: Sequence[int], new: Sequence[int]) -> None:
        """A Shape of a cut value is multiplied back to the sizes before the cut, unless no user reads an element that changed."""
        node = self.nodes[index]
        changed = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
        if self._only_others_read(index, set(changed)):
            return
        name = node.output[0]
        node.output[0] = self.additions.fresh(f"{name}_after")
        self._scaled(index, node.output[0], new, old, changed, self.behind, result=name)

    def _only_others_read(self, index: int, changed: set[int]) -> bool:
        """Whether every user selects single elements that did not change."""
        found = self.solution.found
        graph, name = found.places[index].graph, found.places[index].node.output[0]
        users = [i for i, place in enumerate(found.places) if place.graph.scope == graph.scope and name in place.node.input]
        for user in users:
            node = found.places[user].node
            picks = self.values.at(user, 1) if len(node.input) == 2 and node.input[0] == name else None
            spec = found.spec(user)
            if picks is None or spec is None or spec.shape.index_at != 1 or changed & set(picks.reshape(-1).tolist()):
                return False
        ends = {o.name for o in graph.proto.output} | {n for p in found.places if p.bodies for n in captured(p.node)}
        return bool(users) and name not in ends

    def _constant(self, wanted: str, value: Version) -> str:
        return self.additions.constant(wanted, partial(self._taken, value))

    def _write_constants(self) -> tuple[str, ...]:
        """Replace a tensor that all users need in the same version; otherwise give the users of each version a copy. Returns
        the copied tensors.
        """
        wanted: dict[str, dict[tuple[int, int], Version | None]] = {}
        found = self.solution.found
        outputs = {found.stored(graph, value.name) for graph in found.graphs for value in graph.proto.output}
        for index, place in enumerate(found.places):
            for at in range(len(place.node.input)):
                tensor = found.tensor(index, at)
                if tensor is not None:
                    wanted.setdefault(tensor, {})[index, at] = self.versions.get((index, at))
        copied, replaced = [], {}
        for tensor, users in wanted.items():
            versions = list(users.values())
            first = versions[0]
            if all(v is None for v in versions):
                continue
            if first is not None and tensor not in outputs and all(v is not None and same(v, first) for v in versions):
                replaced[tensor] = first
                continue
            copied.append(tensor)
            self._copy(tensor, {place: v for place, v in users.items() if v is not None})
        self.additions.write()
        for tensor, version in replaced.items():
            self._assign(tensor, self._taken(version))
        return tuple(copied)

    def _taken(self, version: Version) -> Array:
        return version.take(self.model) if isinstance(version, Part) else version

    def _copy(self, tensor: str, users: dict[tuple[int, int], Version]) -> None:
        names: list[tuple[Version, str]] = []
        for (index, at), version in users.items():
            name = next((n for v, n in names if same(v, version)), None)
            if name is None:
                name = self._constant(f"{tensor}_cut", version)
                names.append((version, name))
            self.nodes[index].input[at] = name

    def _assign(self, tensor: str, value: Array) -> None:
        self.model.weights[tensor] = np.asarray(value, order="C")
        graph = self.model.proto.graph
        for declared in (*graph.input, *graph.value_info):  # IR version 3 lists initializers there, some exporters here
            if declared.name == tensor:
                set_shape(declared, value.shape)

    def _write_nodes(self) -> None:
        touched = {*self.before, *self.behind}
        # replacing nodes copies them with their bodies, so inner graphs come first; `places` has them before their node
        changed = {id(p.graph): p.graph.proto for p in self.places if any(self.places[i].graph is p.graph for i in touched)}
        for key, proto in changed.items():
            own = [i for i, place in enumerate(self.places) if id(place.graph) == key]
            ordered = [n for i in own for n in (*self.before.get(i, []), self.nodes[i], *self.behind.get(i, []))]
            replace_all(proto.node, ordered)
        if changed:
            self.model.weights.refresh()

    def _record_shapes(self) -> None:
        found = self.solution.found
        main = Graph(self.model.proto.graph)
        for graph in (main, *(body for place in all_places(main) for body in place.bodies)):
            inner = (*graph.proto.input, *graph.proto.output) if graph.scope else ()
            for value in (*graph.proto.value_info, *inner):
                scoped = f"{graph.scope}/{value.name}" if graph.scope else value.name
                self._record(value, found.axes.get(scoped))

    def _record(self, value: onnx.ValueInfoProto, axes: Axes | None) -> None:
        dims = value.type.tensor_type.shape.dim
        if axes is None or len(axes) != len(dims):
            return
        for dim, labels in zip(dims, axes, strict=True):
            kept = self.solution.kept(labels, self.removed)
            if kept is not None:
                dim.dim_value = kept.size
