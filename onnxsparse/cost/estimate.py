"""The predicted or measured cost of a model on a target, layer by layer, with its totals.

1. Turn the model into work items, with fused nodes as a device runs them (`cost.workload`).
2. Ask the backend for the cost of every item, and predict what would make it cheaper (`backends.advice`).
3. Repeat with the target's variants and the ends of its numbers' ranges, to bound the error (`cost.sensitivity`).
4. Find the part that no accelerator runs (`cost.host_fallback`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from onnxsparse.cost.backends.advice import Advice, advise
from onnxsparse.cost.backends.base import EIGHT_BIT, MB, Bound, CostBackend, LayerCost, Precision
from onnxsparse.cost.backends.layer_model import FileBackend
from onnxsparse.cost.backends.work import WorkItem, total_bytes
from onnxsparse.cost.host_fallback import Tail, find_tail
from onnxsparse.cost.registry import Backend, MeasuringBackend, find_backend
from onnxsparse.cost.sensitivity import Narrowing, Span, best_measurement, spans
from onnxsparse.cost.workload import Workload, workload
from onnxsparse.ir.model import Model


@dataclass(frozen=True)
class Row:
    """One layer with its cost. If `cost` is None, the layer is not in the totals, and `reason` says why."""

    item: WorkItem
    cost: LayerCost | None
    advice: Advice | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Operation:
    """A model in operation: `streams` streams share the device, each at `fps` frames per second.

    `busy`: share of the time that the device computes; above 1 it does not keep up. `complete` False: traffic and `busy` are
    lower bounds.
    """

    fps: float
    streams: int
    dram_mb_per_s: float
    busy: float
    complete: bool = True


@dataclass(frozen=True)
class Deployment:
    """The cost of a model on a target."""

    backend: Backend
    precision: Precision
    load: Workload
    rows: tuple[Row, ...]
    """One row per work item, in order."""
    variants: dict[str, float]
    """Target → latency in ms, for this target and those that explain the same measurements of the device."""
    spans: tuple[Span, ...] = ()
    """Effect of every uncertain number of the target on the latency, widest first."""
    narrowing: Narrowing | None = None
    """The layer whose measurement would narrow the latency's range most; None if none would, or nothing is uncertain."""
    tail: Tail | None = None
    """The part that needs a host; None if there is none."""
    other_ms: float = 0.0
    """Measured time that belongs to no layer by name."""
    partial_variants: tuple[str, ...] = ()
    """Variants without a cost for some layer, whose latency is a lower bound."""

    @property
    def latency_ms(self) -> float:
        """Latency of the layers of known cost, and `other_ms`."""
        return sum(cost.latency_ms for cost in self.costs) + self.other_ms

    @property
    def costs(self) -> list[LayerCost]:
        """The known costs, in the order of the rows."""
        return [row.cost for row in self.rows if row.cost is not None]

    @property
    def fps(self) -> float | None:
        """Inferences per second, one after the other; None if the latency is 0."""
        return 1000 / self.latency_ms if self.latency_ms else None

    @property
    def fps_budget(self) -> float | None:
        """Frames per second that the target's file plans for; None if it names none."""
        return self.backend.hardware.fps_budget if isinstance(self.backend, FileBackend) else None

    @property
    def unknown(self) -> tuple[Row, ...]:
        """Layers of unknown cost."""
        return tuple(row for row in self.rows if row.cost is None)

    @property
    def costs_complete(self) -> bool:
        """Whether every layer has a cost; if not, sums over layers are lower bounds."""
        return not self.unknown

    @property
    def bytes_complete(self) -> bool:
        """Whether the traffic of every layer is known; a measured layer has a time even if it is not."""
        return self.costs_complete and all(item.reads is not None and item.writes is not None for item in self.load.costed)

    @property
    def complete(self) -> bool:
        """Whether all totals are complete: costs on every variant of the target, memory, and MACs."""
        costs = self.bytes_complete and not self.partial_variants and self.mem_a_mb is not None
        return costs and self.load.layers.totals.complete

    @property
    def mem_p_mb(self) -> float:
        """Coefficients as stored, in 10⁶ bytes; a tensor that layers share counts once, though each layer reads it."""
        held = {row.item.tensors or (row.item.node,): row.cost.coefficient_bytes for row in self.rows if row.cost is not None}
        return sum(held.values()) / MB

    @property
    def mem_a_mb(self) -> float | None:
        """Peak of inputs, outputs and live intermediates, in 10⁶ bytes; None if a size is unknown."""
        held, _ = self.load.peak(self.precision.activation_bits)
        return None if held is None else held / MB

    @property
    def memory_bytes(self) -> list[int | None]:
        """Bytes of inputs, outputs and intermediates held while each layer runs; None where a size is unknown."""
        return self.load.timeline(self.precision.activation_bits)

    @property
    def dram_mb(self) -> float:
        """DRAM traffic per inference, in 10⁶ bytes."""
        return sum(cost.dram_bytes for cost in self.costs) / MB

    @property
    def padded_layers(self) -> int:
        """Layers whose channels do not fill the target's alignment."""
        return sum(cost.padded_channels > 0 for cost in self.costs)

    def at(self, fps: float, streams: int = 1) -> Operation:
        """DRAM traffic and load for `streams` cameras of `fps` frames per second each."""
        frames = fps * streams
        return Operation(fps, streams, self.dram_mb * frames, self.latency_ms * frames / 1000, self.bytes_complete)

    def time_by_bound(self) -> dict[str, float]:
        """Bound → milliseconds in its layers; free layers are left out."""
        found: dict[str, float] = {}
        for cost in (cost for cost in self.costs if cost.bound is not Bound.FREE):
            found[cost.bound.value] = found.get(cost.bound.value, 0.0) + cost.latency_ms
        return found


def deploy(
    model: Model, target: str | Path = "cv22", precision: Precision = EIGHT_BIT, assume_free: Sequence[str] = ()
) -> Deployment:
    """The predicted cost of `model` on a target: a name that comes with this or another package, or a TOML file.

    `assume_free`: patterns of nodes that count as 0. Raises ParamError for an unknown target or a pattern that matches no node,
    and BackendError if a target that measures cannot run the model.
    """
    return deploy_on(model, find_backend(target, precision), precision, assume_free)


def deploy_on(model: Model, backend: Backend, precision: Precision = EIGHT_BIT, assume_free: Sequence[str] = ()) -> Deployment:
    """The cost of `model` on a given backend. Raises ParamError and BackendError as `deploy` does."""
    load = workload(model, assume_free)
    tail = find_tail(load, precision)
    if is_measuring(backend):
        return measured(model, backend, load, tail, precision)
    assert is_predicting(backend)
    unknown = frozenset(node.node for node in load.layers.unknown)
    rows = tuple(free_row(item) if load.is_free(item) else predicted_row(backend, item, unknown) for item in load.items)
    if not isinstance(backend, FileBackend):
        return Deployment(backend, precision, load, rows, {backend.name: total(row.cost for row in rows)}, tail=tail)
    costs = {b.name: [b.cost(item) for item in load.costed] for b in backend.variants()}
    return Deployment(
        backend,
        precision,
        load,
        rows,
        variants={name: total(found) for name, found in costs.items()},
        spans=tuple(spans(backend, load)),
        narrowing=best_measurement(backend, load),
        tail=tail,
        partial_variants=tuple(name for name, found in costs.items() if None in found),
    )


def is_measuring(backend: Backend) -> TypeGuard[MeasuringBackend]:
    """Whether a backend measures whole models."""
    return hasattr(backend, "measure")


def is_predicting(backend: Backend) -> TypeGuard[CostBackend]:
    """Whether a backend predicts layers."""
    return hasattr(backend, "cost")


def measured(model: Model, backend: MeasuringBackend, load: Workload, tail: Tail | None, precision: Precision) -> Deployment:
    """The deployment of a model whose layers are measured; a layer without a kernel of its own has 0 ms."""
    found = backend.measure(model, load)
    rows = tuple(
        free_row(item) if load.is_free(item) else measured_row(item, found.latency_ms.get(item.node, 0.0), precision)
        for item in load.items
    )
    whole = total(row.cost for row in rows) + found.other_ms
    return Deployment(backend, precision, load, rows, {backend.name: whole}, tail=tail, other_ms=found.other_ms)


def free_row(item: WorkItem) -> Row:
    """The row of a layer that counts as 0."""
    return Row(item, LayerCost(0.0, 0.0, 0.0, 0.0, Bound.FREE, 0, 0, 0, 0, 0))


def measured_row(item: WorkItem, ms: float, precision: Precision) -> Row:
    """The row of a layer that took `ms`; its bytes follow from the work item, and the parts of its time are unknown."""
    inputs, outputs = (total_bytes(volumes or (), precision.activation_bits) for volumes in (item.reads, item.writes))
    coefficients = total_bytes(item.coefficients, precision.coefficient_bits)
    sizes = (coefficients, inputs, outputs, 1, coefficients + inputs + outputs)
    return Row(item, LayerCost(ms, None, None, None, Bound.MEASURED, *sizes))


def predicted_row(backend: CostBackend, item: WorkItem, unknown: frozenset[str]) -> Row:
    """The row of a layer with its predicted cost and advice, or the reason why there is none; `unknown`: nodes of unknown ops."""
    cost = backend.cost(item)
    if cost is not None:
        return Row(item, cost, advise(backend, item, cost))
    supported = backend.hardware.supported_ops if isinstance(backend, FileBackend) else ()
    return Row(item, None, None, why_unknown(item, unknown, supported))


def why_unknown(item: WorkItem, unknown: frozenset[str], supported: tuple[str, ...]) -> str:
    """Why a layer has no cost, as a clause; `supported`: the ops in the target's file, empty for all."""
    if item.on_host:
        return "needs a host"
    if item.node in unknown:
        return "unknown op"
    if item.reads is None or item.writes is None or item.macs is None:
        return item.unknown or "an unknown op within"
    lacking = dict.fromkeys(op for op in item.op_types if op not in supported)
    return f"the target's supported ops have no {', '.join(lacking)}" if supported else "no cost on this target"


def total(costs: Iterable[LayerCost | None]) -> float:
    """Milliseconds of all known costs."""
    return sum(cost.latency_ms for cost in costs if cost is not None)
