"""Uncertainty of a prediction: the effect of each uncertain number, and the measurement that would narrow it most."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxsparse.cost.backends.base import CostBackend
from onnxsparse.cost.backends.layer_model import FileBackend
from onnxsparse.cost.backends.work import WorkItem
from onnxsparse.cost.workload import Workload

Times = NDArray[np.float64]

MAX_CANDIDATES = 24
"""The slowest layers, whose measurement is considered; fast ones say little about the whole."""


@dataclass(frozen=True)
class Span:
    """The model's latency at the low and the high end of one number's range."""

    number: str
    low_ms: float
    high_ms: float

    @property
    def width_ms(self) -> float:
        """Effect of the number on the latency."""
        return abs(self.high_ms - self.low_ms)


@dataclass(frozen=True)
class Narrowing:
    """Measuring `node` alone would narrow the model's latency from a range `before_ms` wide to one `after_ms` wide."""

    node: str
    before_ms: float
    after_ms: float


def spans(backend: FileBackend, load: Workload) -> Iterator[Span]:
    """A span for every number with a range, widest first."""
    found = []
    for name, number in backend.ranges().items():
        ends = (sum(layer_times(backend.with_value(name, value), load.costed)) for value in (number.low, number.high))
        found.append(Span(name, *ends))
    yield from sorted(found, key=lambda span: -span.width_ms)


def layer_times(backend: CostBackend, items: Iterable[WorkItem]) -> list[float]:
    """Milliseconds per item; 0 if unknown, so that the sum is a lower bound."""
    costs = (backend.cost(item) for item in items)
    return [0.0 if cost is None else cost.latency_ms for cost in costs]


def possible_targets(backend: FileBackend) -> Iterator[FileBackend]:
    """Every variant of the target, unchanged and with each number at either end of its range."""
    for variant in backend.variants():
        yield variant
        for name, number in variant.ranges().items():
            yield from (variant.with_value(name, value) for value in (number.low, number.high))


def best_measurement(backend: FileBackend, load: Workload) -> Narrowing | None:
    """The single layer whose measurement would narrow the model's latency most; None if none would, or nothing is uncertain.

    1. Predict layers and model on all possible targets.
    2. For each of the slowest layers, fit the model's latency as a linear function of the layer's, over the targets.
    3. The range of the residuals is the uncertainty that remains once the layer is measured; take the layer with the smallest.
    """
    if not backend.ranges() and not backend.hardware.variants:
        return None
    times = layer_times(backend, load.costed)
    slowest = sorted(range(len(times)), key=lambda i: -times[i])[:MAX_CANDIDATES]
    table = np.array([layer_times(target, load.costed) for target in possible_targets(backend)])
    if table.size == 0:
        return None
    whole = table.sum(1)
    before = float(np.ptp(whole))
    left = {i: float(np.ptp(residual(table[:, i], whole))) for i in slowest}
    best = min(left, key=left.__getitem__, default=None)
    return None if best is None or left[best] >= before else Narrowing(load.costed[best].node, before, left[best])


def residual(known: Times, wanted: Times) -> Times:
    """The part of `wanted` that a linear function of `known` (least squares) does not explain."""
    columns = np.stack([known, np.ones_like(known)], 1)
    solution = np.linalg.lstsq(columns, wanted, rcond=None)[0]
    left: Times = wanted - columns @ solution
    return left
