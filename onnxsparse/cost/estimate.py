"""The first question: what will this model cost there, and what would make it cheaper?"""

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
    """One layer of the device. `cost` None: not in the totals, for `reason`."""

    item: WorkItem
    cost: LayerCost | None
    advice: Advice | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Operation:
    """A model at work: `streams` in turn, each at `fps` frames per second. `busy`: share of the time.

    `complete` False: traffic and time are lower bounds.
    """

    fps: float
    streams: int
    dram_mb_per_s: float
    busy: float
    complete: bool = True


@dataclass(frozen=True)
class Deployment:
    """A model on a target. `variants`: latency on targets that explain the same measurements, this one included.

    `partial_variants`: those that have no cost for some layer, so that their latency is a lower bound. `other_ms`: measured time
    that belongs to no layer. `narrowing`: the layer whose measurement would tell most.
    """

    backend: Backend
    precision: Precision
    load: Workload
    rows: tuple[Row, ...]
    variants: dict[str, float]
    spans: tuple[Span, ...] = ()
    narrowing: Narrowing | None = None
    tail: Tail | None = None
    other_ms: float = 0.0
    partial_variants: tuple[str, ...] = ()

    @property
    def latency_ms(self) -> float:
        """Of the layers whose cost is known."""
        return sum(cost.latency_ms for cost in self.costs) + self.other_ms

    @property
    def costs(self) -> list[LayerCost]:
        return [row.cost for row in self.rows if row.cost is not None]

    @property
    def fps(self) -> float | None:
        return 1000 / self.latency_ms if self.latency_ms else None

    @property
    def fps_budget(self) -> float | None:
        """What the target's file asks for."""
        return self.backend.hardware.fps_budget if isinstance(self.backend, FileBackend) else None

    @property
    def unknown(self) -> tuple[Row, ...]:
        """Layers whose cost is not known."""
        return tuple(row for row in self.rows if row.cost is None)

    @property
    def free(self) -> tuple[Row, ...]:
        """Layers that are assumed to cost nothing."""
        return tuple(row for row in self.rows if row.item.node in self.load.free)

    @property
    def costs_complete(self) -> bool:
        """Whether every layer has a cost; if not, sums over layers are lower bounds."""
        return not self.unknown

    @property
    def bytes_complete(self) -> bool:
        """Whether what every layer reads and writes is known; a measured layer has its time without."""
        sized = (row.item.reads is not None and row.item.writes is not None for row in self.rows if row not in self.free)
        return self.costs_complete and all(sized)

    @property
    def complete(self) -> bool:
        """Whether all totals are complete: costs, on every variant of the target, memory, and MACs."""
        costs = self.bytes_complete and not self.partial_variants and self.mem_a_mb is not None
        return costs and self.load.layers.totals.complete

    @property
    def mem_p_mb(self) -> float:
        """Encoded coefficients, in 10⁶ bytes; those that layers share are held once, though each layer reads them."""
        held = {row.item.tensors or (row.item.node,): row.cost.coefficient_bytes for row in self.rows if row.cost is not None}
        return sum(held.values()) / MB

    @property
    def mem_a_mb(self) -> float | None:
        """Inputs, outputs and the most intermediates alive at a time, in 10⁶ bytes."""
        held, _ = self.load.peak(self.precision.activation_bits)
        return None if held is None else held / MB

    @property
    def memory_bytes(self) -> list[int | None]:
        """Inputs, outputs and intermediates held while each layer runs; None where a size is unknown."""
        return self.load.timeline(self.precision.activation_bits)

    @property
    def dram_mb(self) -> float:
        """Bytes to and from DRAM per inference, in 10⁶."""
        return sum(cost.dram_bytes for cost in self.costs) / MB

    @property
    def padded_layers(self) -> int:
        """Layers whose channels do not fill the target's alignment."""
        return sum(cost.padded_channels > 0 for cost in self.costs)

    def at(self, fps: float, streams: int = 1) -> Operation:
        """What `streams` cameras of `fps` frames per second ask for."""
        frames = fps * streams
        return Operation(fps, streams, self.dram_mb * frames, self.latency_ms * frames / 1000, self.bytes_complete)

    def time_by_bound(self) -> dict[str, float]:
        """Milliseconds spent in layers of each bound."""
        found: dict[str, float] = {}
        for cost in (cost for cost in self.costs if cost.bound is not Bound.FREE):
            found[cost.bound.value] = found.get(cost.bound.value, 0.0) + cost.latency_ms
        return found


def deploy(
    model: Model, target: str | Path = "cv22", precision: Precision = EIGHT_BIT, assume_free: Sequence[str] = ()
) -> Deployment:
    """The predicted cost of `model` on a target: one that comes with the package, a TOML file, or a third party's.

    `assume_free`: patterns of nodes that count as 0. Raises ParamError for a target that there is not, or a pattern that matches
    nothing, BackendError where a target that measures cannot run the model.
    """
    return deploy_on(model, find_backend(target, precision), precision, assume_free)


def deploy_on(model: Model, backend: Backend, precision: Precision = EIGHT_BIT, assume_free: Sequence[str] = ()) -> Deployment:
    """The cost of `model` on a backend of one's own."""
    load = workload(model, assume_free)
    tail = find_tail(load, precision)
    if is_measuring(backend):
        return measured(model, backend, load, tail, precision)
    assert is_predicting(backend)
    unknown = frozenset(node.node for node in load.layers.unknown)
    rows = tuple(free_row(item) if item.node in load.free else predicted_row(backend, item, unknown) for item in load.items)
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
    return hasattr(backend, "measure")


def is_predicting(backend: Backend) -> TypeGuard[CostBackend]:
    return hasattr(backend, "cost")


def measured(model: Model, backend: MeasuringBackend, load: Workload, tail: Tail | None, precision: Precision) -> Deployment:
    found = backend.measure(model, load)
    rows = tuple(
        free_row(item) if item.node in load.free else measured_row(item, found.latency_ms.get(item.node, 0.0), precision)
        for item in load.items
    )
    whole = total(row.cost for row in rows) + found.other_ms
    return Deployment(backend, precision, load, rows, {backend.name: whole}, tail=tail, other_ms=found.other_ms)


def free_row(item: WorkItem) -> Row:
    """At no cost."""
    return Row(item, LayerCost(0.0, 0.0, 0.0, 0.0, Bound.FREE, 0, 0, 0, 0, 0))


def measured_row(item: WorkItem, ms: float, precision: Precision) -> Row:
    """The bytes are those that the work item has; where the time went is not told apart."""
    inputs, outputs = (total_bytes(volumes or (), precision.activation_bits) for volumes in (item.reads, item.writes))
    coefficients = total_bytes(item.coefficients, precision.coefficient_bits)
    sizes = (coefficients, inputs, outputs, 1, coefficients + inputs + outputs)
    return Row(item, LayerCost(ms, None, None, None, Bound.MEASURED, *sizes))


def predicted_row(backend: CostBackend, item: WorkItem, unknown: frozenset[str]) -> Row:
    cost = backend.cost(item)
    if cost is not None:
        return Row(item, cost, advise(backend, item, cost))
    supported = backend.hardware.supported_ops if isinstance(backend, FileBackend) else ()
    return Row(item, None, None, why_unknown(item, unknown, supported))


def why_unknown(item: WorkItem, unknown: frozenset[str], supported: tuple[str, ...]) -> str:
    if item.on_host:
        return "needs a host"
    if item.node in unknown:
        return "unknown op"
    if item.reads is None or item.writes is None or item.macs is None:
        return item.unknown or "an unknown op within"
    lacking = dict.fromkeys(op for op in item.op_types if op not in supported)
    return f"the target's supported ops have no {', '.join(lacking)}" if supported else "no cost on this target"


def total(costs: Iterable[LayerCost | None]) -> float:
    return sum(cost.latency_ms for cost in costs if cost is not None)
