"""The first question: what will this model cost there, and what would make it cheaper?"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from onnxsparse.backends.advice import Advice, advise
from onnxsparse.backends.hardware import Hardware, Number, load_hardware, number_names
from onnxsparse.backends.layer_model import MB, LayerCost, LayerModel
from onnxsparse.backends.work import WorkItem
from onnxsparse.model import Model
from onnxsparse.workload import Workload, workload


@dataclass(frozen=True)
class Row:
    """One layer of the device. `cost` None: not known, and not in the totals."""

    item: WorkItem
    cost: LayerCost | None
    advice: Advice | None


@dataclass(frozen=True)
class Span:
    """How far one number of the target, within its range, moves the model's latency."""

    number: str
    low_ms: float
    high_ms: float

    @property
    def width_ms(self) -> float:
        return abs(self.high_ms - self.low_ms)


@dataclass(frozen=True)
class Deployment:
    """A model on a target. `variants`: latency on targets that explain the same measurements, this one included."""

    hardware: Hardware
    load: Workload
    rows: tuple[Row, ...]
    variants: dict[str, float]
    spans: tuple[Span, ...]
    bits: int

    @property
    def latency_ms(self) -> float:
        """Of the layers whose cost is known."""
        return total_ms(row.cost for row in self.rows)

    @property
    def fps(self) -> float | None:
        return 1000 / self.latency_ms if self.latency_ms else None

    @property
    def unknown(self) -> tuple[str, ...]:
        """Layers whose cost is not known."""
        return tuple(row.item.node for row in self.rows if row.cost is None)

    @property
    def mem_p_mb(self) -> float:
        """Encoded coefficients, in 10⁶ bytes."""
        return sum(row.cost.coefficient_bytes for row in self.rows if row.cost is not None) / MB

    @property
    def mem_a_mb(self) -> float | None:
        """Inputs, outputs and the most intermediates alive at a time, in 10⁶ bytes."""
        elements, _ = self.load.peak()
        return None if elements is None else elements * self.bits / 8 / MB

    @property
    def dram_mb(self) -> float:
        """Bytes to and from DRAM per inference, in 10⁶."""
        known = [row.cost for row in self.rows if row.cost is not None]
        return sum(c.coefficient_bytes + c.input_bytes * c.passes + c.output_bytes for c in known) / MB

    def time_by_bound(self) -> dict[str, float]:
        """Milliseconds spent in layers of each bound."""
        found: dict[str, float] = {}
        for row in self.rows:
            if row.cost is not None:
                found[row.cost.bound.value] = found.get(row.cost.bound.value, 0.0) + row.cost.latency_ms
        return found


def deploy(model: Model, target: str | Path = "cv22", bits: int = 8) -> Deployment:
    """The predicted cost of `model` on a shipped target or a TOML file. Activations and coefficients take `bits` each."""
    hardware = load_hardware(target)
    load = workload(model)
    layer_model = LayerModel(hardware, bits)
    rows = tuple(make_row(layer_model, item) for item in load.items)
    others = [hardware, *(load_hardware(name) for name in hardware.variants)]
    variants = {h.name: latency_ms(LayerModel(h, bits), load) for h in others}
    return Deployment(hardware, load, rows, variants, tuple(spans(layer_model, load)), bits)


def make_row(model: LayerModel, item: WorkItem) -> Row:
    cost = model.cost(item)
    return Row(item, cost, None if cost is None else advise(model, item, cost))


def latency_ms(model: LayerModel, load: Workload) -> float:
    return total_ms(model.cost(item) for item in load.items)


def total_ms(costs: Iterator[LayerCost | None]) -> float:
    return sum(cost.latency_ms for cost in costs if cost is not None)


def spans(model: LayerModel, load: Workload) -> Iterator[Span]:
    """The model's latency at the low and the high end of every number's range, widest first."""
    found = []
    for name in number_names():
        number: Number = getattr(model.hardware.numbers, name)
        if number.low < number.high:
            ends = (latency_ms(with_number(model, name, value), load) for value in (number.low, number.high))
            found.append(Span(name, *ends))
    yield from sorted(found, key=lambda span: -span.width_ms)


def with_number(model: LayerModel, name: str, value: float) -> LayerModel:
    numbers = model.hardware.numbers
    changed = replace(numbers, **{name: replace(getattr(numbers, name), value=value)})
    return LayerModel(replace(model.hardware, numbers=changed), model.bits)
