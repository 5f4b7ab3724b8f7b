"""The knee: up to where pruning single weights pays, and from where on cutting channels does.

The chart of Best of both (doi 10.1145/3578356.3592583) for any model: predicted latency over sparsity_op, for the model as it is
and with a share of the channels of every inner layer, under each variant of the target. Nothing is pruned for it: every layer is
given the same density, and a narrower model's sizes are computed.
"""

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from onnxsparse.cost.backends.base import CostBackend
from onnxsparse.cost.backends.layer_model import FileBackend
from onnxsparse.cost.backends.work import WorkItem
from onnxsparse.cost.registry import Backend
from onnxsparse.cost.workload import Workload
from onnxsparse.errors import ParamError

SPARSITIES = (*(i / 20 for i in range(20)), 0.96, 0.97, 0.98)
CHANNEL_FACTORS = (1.0, 0.8, 0.6, 0.5)
KNEE_SLOPE = 0.5
"""Past the knee, one more point of sparsity saves less than this share of what the first ones saved."""


@dataclass(frozen=True)
class Curve:
    """Latency at each of SPARSITIES. `knee`: from where on pruning pays less than half of what it did at first, or None.

    `complete` False: the cost of some layer is unknown, so that latencies are lower bounds and the knee is of what is known.
    """

    variant: str
    channel_factor: float
    latency_ms: tuple[float, ...]
    knee: float | None
    complete: bool = True


@dataclass(frozen=True)
class Width:
    """Which of an item's sides a narrower model makes narrower."""

    inputs: bool
    outputs: bool


def curves(load: Workload, backend: Backend) -> tuple[Curve, ...]:
    """Every variant of the target × every channel factor. Raises ParamError for a backend that does not predict."""
    if not isinstance(backend, FileBackend):
        raise ParamError(f"{backend.name} does not predict from a file's numbers, so it has no curve; name another target")
    targets = backend.variants()
    found = {factor: latencies(costed(load, narrow(load, factor)), targets) for factor in CHANNEL_FACTORS}
    complete = [all(target.cost(item) is not None for item in load.costed) for target in targets]
    return tuple(
        Curve(target.name, factor, tuple(by_target[i]), find_knee(by_target[i]), complete[i])
        for i, target in enumerate(targets)
        for factor, by_target in found.items()
    )


def costed(load: Workload, items: list[WorkItem]) -> list[WorkItem]:
    """Those that are not assumed free."""
    return [item for item in items if item.node not in load.free]


def latencies(items: list[WorkItem], targets: Sequence[CostBackend]) -> list[list[float]]:
    """For each target, milliseconds at each of SPARSITIES."""
    found: list[list[float]] = [[] for _ in targets]
    for sparsity in SPARSITIES:
        pruned = [replace(item, nonzeros=round(item.weights * (1 - sparsity))) for item in items]
        for target, latencies_ms in zip(targets, found, strict=True):
            costs = (target.cost(item) for item in pruned)
            latencies_ms.append(sum(cost.latency_ms for cost in costs if cost is not None))
    return found


def find_knee(latencies: list[float]) -> float | None:
    """The sparsity behind which no step saves much. A plateau with savings behind it is none: where coefficients are what is
    waited for, pruning pays nothing until they are smaller encoded than dense, and much from there on.
    """
    points = list(zip(SPARSITIES, latencies, strict=True))
    slopes = [(a[1] - b[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(points)]
    paying = [at for at, slope in enumerate(slopes, start=1) if slope > KNEE_SLOPE * slopes[0]]
    last = max(paying, default=0)
    return SPARSITIES[last] if last < len(slopes) else None


def narrow(load: Workload, factor: float) -> list[WorkItem]:
    """The items of a model in which every inner activation has `factor` of its channels; inputs and outputs stay."""
    widths = list(item_widths(load))
    return [narrow_item(item, width, factor) for item, width in zip(load.items, widths, strict=True)]


def item_widths(load: Workload) -> Iterator[Width]:
    """An activation narrows if a layer with weights made it and one reads it, with others in between or not."""
    made = narrowing(load, forward=True)
    read = narrowing(load, forward=False)
    inner = made & read
    for item in load.items:
        yield Width(any(name in inner for name in item.inputs), any(name in inner for name in item.outputs))


def narrowing(load: Workload, *, forward: bool) -> set[str]:
    """The activations behind (or before) a layer with weights."""
    found: set[str] = set()
    for item in load.items if forward else reversed(load.items):
        near, far = (item.inputs, item.outputs) if forward else (item.outputs, item.inputs)
        if item.weights or any(name in found for name in near):
            found.update(far)
    return found


def narrow_item(item: WorkItem, width: Width, factor: float) -> WorkItem:
    into, out = (factor if wide else 1.0 for wide in (width.inputs, width.outputs))
    # a depthwise layer has as many filters as channels: its weights narrow once
    weights = out if item.depthwise else into * out
    return replace(
        item,
        macs=None if item.macs is None else round(item.macs * (weights if item.weights else into)),
        coefficients=tuple(volume.scaled(weights) for volume in item.coefficients),
        nonzeros=round(item.nonzeros * weights),
        reads=None if item.reads is None else tuple(volume.scaled(into) for volume in item.reads),
        writes=None if item.writes is None else tuple(volume.scaled(out) for volume in item.writes),
        output_channels=round(item.output_channels * (1.0 if item.depthwise else out)),
    )


def curves_json(found: tuple[Curve, ...]) -> list[dict[str, object]]:
    return [
        {
            "variant": c.variant,
            "channel_factor": c.channel_factor,
            "sparsity_op": list(SPARSITIES),
            "latency_ms": list(c.latency_ms),
            "knee": c.knee,
            "complete": c.complete,
        }
        for c in found
    ]


def curves_csv(found: tuple[Curve, ...]) -> str:
    """One row per point."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["variant", "channel_factor", "sparsity_op", "latency_ms", "knee", "complete"])
    for c in found:
        writer.writerows(
            [c.variant, c.channel_factor, s, ms, s == c.knee, c.complete] for s, ms in zip(SPARSITIES, c.latency_ms, strict=True)
        )
    return out.getvalue()
