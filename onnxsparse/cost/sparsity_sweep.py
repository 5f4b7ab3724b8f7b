"""Sweep of latency over sparsity, and its knee: the sparsity past which cutting channels pays more than pruning weights.

1. For each channel factor, scale the channels of every inner activation, and all sizes that follow (`narrow`).
2. For each sparsity, give every layer the same density and predict the latency on each variant of the target (`latencies`).
3. The knee is the sparsity past which one more point saves less than half of what the first points saved (`find_knee`).

No weights are changed; only sizes are computed. Source: the chart in Best of both (doi 10.1145/3578356.3592583).
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
from onnxsparse.cost.sensitivity import layer_times
from onnxsparse.cost.workload import Workload
from onnxsparse.errors import ParamError

SPARSITIES = (*(i / 20 for i in range(20)), 0.96, 0.97, 0.98)
"""Points of a curve: shares of zero weights, the same in every layer."""

CHANNEL_FACTORS = (1.0, 0.8, 0.6, 0.5)
"""Shares of the channels that are kept, one curve each."""

KNEE_SLOPE = 0.5
"""Past the knee, one more point of sparsity saves less than this share of what the first points saved."""


@dataclass(frozen=True)
class Curve:
    """Latency at each of SPARSITIES, for one variant of the target and one channel factor.

    `knee`: a sparsity of SPARSITIES; None if pruning pays up to the last one. `complete` False: the cost of some layer is
    unknown, so that latencies are lower bounds, and the knee is that of the known layers.
    """

    variant: str
    channel_factor: float
    latency_ms: tuple[float, ...]
    knee: float | None
    complete: bool = True


@dataclass(frozen=True)
class Width:
    """Which activations of an item have fewer channels in a narrower model."""

    inputs: bool
    outputs: bool


def curves(load: Workload, backend: Backend) -> tuple[Curve, ...]:
    """One curve per variant of the target and channel factor. Raises ParamError for a backend without a target file."""
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
    """The items that --assume-free does not count as 0."""
    return [item for item in items if not load.is_free(item)]


def latencies(items: list[WorkItem], targets: Sequence[CostBackend]) -> list[list[float]]:
    """For each target, milliseconds at each of SPARSITIES; items of unknown cost count as 0."""
    found: list[list[float]] = [[] for _ in targets]
    for sparsity in SPARSITIES:
        pruned = [replace(item, nonzeros=round(item.weights * (1 - sparsity)), two_of_four=False) for item in items]
        for target, latencies_ms in zip(targets, found, strict=True):
            latencies_ms.append(sum(layer_times(target, pruned)))
    return found


def find_knee(latencies: list[float]) -> float | None:
    """The sparsity past which no step saves KNEE_SLOPE of what the first step saved; None if the last step does.

    A plateau followed by savings is not a knee: a layer bound by coefficient traffic gains nothing until the encoding is smaller
    than dense, and much from there on.
    """
    points = list(zip(SPARSITIES, latencies, strict=True))
    slopes = [(a[1] - b[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(points)]
    paying = [at for at, slope in enumerate(slopes, start=1) if slope > KNEE_SLOPE * slopes[0]]
    last = max(paying, default=0)
    return SPARSITIES[last] if last < len(slopes) else None


def narrow(load: Workload, factor: float) -> list[WorkItem]:
    """The items of a model whose inner activations have `factor` of their channels; its inputs and outputs stay."""
    widths = list(item_widths(load))
    return [narrow_item(item, width, factor) for item, width in zip(load.items, widths, strict=True)]


def item_widths(load: Workload) -> Iterator[Width]:
    """Per item, whether its inputs and outputs narrow: those between two layers with weights, direct neighbours or not, do."""
    made = narrowing(load, forward=True)
    read = narrowing(load, forward=False)
    inner = made & read
    for item in load.items:
        yield Width(any(name in inner for name in item.inputs), any(name in inner for name in item.outputs))


def narrowing(load: Workload, *, forward: bool) -> set[str]:
    """The activations downstream of a layer with weights, or upstream if not `forward`."""
    found: set[str] = set()
    for item in load.items if forward else reversed(load.items):
        near, far = (item.inputs, item.outputs) if forward else (item.outputs, item.inputs)
        if item.weights or any(name in found for name in near):
            found.update(far)
    return found


def narrow_item(item: WorkItem, width: Width, factor: float) -> WorkItem:
    """The item with `factor` of the channels on the sides that `width` names; MACs, weights and volumes scale with them."""
    into, out = (factor if wide else 1.0 for wide in (width.inputs, width.outputs))
    # the weights of a depthwise layer have one axis of channels, others have two
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
    """The key `curve` of the report (docs/json.md)."""
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
    """CSV text with one row per point of every curve; `knee` marks the point that is the curve's knee."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["variant", "channel_factor", "sparsity_op", "latency_ms", "knee", "complete"])
    for c in found:
        writer.writerows(
            [c.variant, c.channel_factor, s, ms, s == c.knee, c.complete] for s, ms in zip(SPARSITIES, c.latency_ms, strict=True)
        )
    return out.getvalue()
