"""What wide tensors cost on the device: the latency that a target's cost backend predicts with them.

The work items are those of the float model, with the width of every tensor that the target computes in integers.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxsparse.cost.backends.base import CostBackend
from onnxsparse.cost.backends.work import Volume, WorkItem
from onnxsparse.cost.workload import workload
from onnxsparse.quantization.accuracy.mixed_precision import Candidate, followers, widths
from onnxsparse.quantization.plan.placement import Placement


@dataclass(frozen=True)
class WideCost:
    """Latencies by sets of wide tensors. `items`: layers with the widths of a model in which nothing is wide.

    `values`: name of a scale → the activations that share it.
    """

    backend: CostBackend
    items: tuple[WorkItem, ...]
    values: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, placement: Placement, backend: CostBackend) -> "WideCost":
        """For the tensors of a placement."""
        target, model = placement.anatomy.target, placement.anatomy.model
        values: dict[str, set[str]] = {}
        for name, root in placement.scaled.items():
            values.setdefault(root, set()).add(name)
        weights = {weight.stored.name for unit in placement.units for weight in unit.weights}
        stored = 8 * target.weights.grid.dtype.itemsize if target.weights.bits != 4 else 4
        bits = dict.fromkeys(placement.scaled, target.activations.bits) | dict.fromkeys(weights, stored)
        items = tuple(widened(item, bits) for item in workload(model).costed)
        return cls(backend, items, {root: frozenset(names) for root, names in values.items()})

    def latency_ms(self, wide: Collection[Candidate]) -> float:
        """The latency of the whole model, of the layers whose cost is known, in ms."""
        bits = self._widths(wide)
        return sum(self._item_ms(widened(item, bits)) for item in self.items)

    def added_ms(self, candidate: Candidate) -> float:
        """What one candidate adds by itself, to a model in which nothing else is wide."""
        bits = self._widths([candidate])
        touched = [item for item in self.items if bits.keys() & {*item.inputs, *item.outputs, *item.tensors}]
        return sum(self._item_ms(widened(item, bits)) - self._item_ms(item) for item in touched)

    def priced(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates with what they add, a weight's second width to its first."""
        added = [self.added_ms(each) for each in candidates]
        before = {second: added[first] for first, second in followers(candidates).items()}
        return [replace(each, added_ms=added[at] - before.get(at, 0.0)) for at, each in enumerate(candidates)]

    def _item_ms(self, item: WorkItem) -> float:
        cost = self.backend.cost(item)
        return 0.0 if cost is None else cost.latency_ms

    def _widths(self, wide: Collection[Candidate]) -> dict[str, int]:
        roots = [tensor.name for each in wide for tensor in each.tensors if not tensor.is_weight]
        return widths(wide) | {value: 16 for root in roots for value in self.values[root]}


def widened(item: WorkItem, bits: Mapping[str, int]) -> WorkItem:
    """A layer with other widths of some activations and weights. `bits`: name → width in bits."""

    def volumes(names: Sequence[str], held: tuple[Volume, ...] | None) -> tuple[Volume, ...] | None:
        if held is None or len(held) != len(names):
            return held
        pairs = zip(names, held, strict=True)
        return tuple(Volume(each.elements, (bits[name],)) if name in bits else each for name, each in pairs)

    coefficients = volumes(item.tensors, item.coefficients) or ()
    return replace(
        item, reads=volumes(item.inputs, item.reads), writes=volumes(item.outputs, item.writes), coefficients=coefficients
    )
