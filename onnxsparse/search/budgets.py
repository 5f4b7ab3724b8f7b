"""Budgets on what a model costs: NAME=VALUE, where the name is a total of the report."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from onnxsparse.cost.backends.base import MB, CostBackend
from onnxsparse.cost.backends.layer_model import FileBackend
from onnxsparse.cost.backends.work import WorkItem
from onnxsparse.cost.workload import Workload
from onnxsparse.errors import ParamError
from onnxsparse.ir.option_roles import Role
from onnxsparse.pipeline.registry import did_you_mean

NAMES = ("latency_ms", "fps", "nonzero_macs", "macs", "mem_p_mb", "mem_a_mb", "dram_mb")
"""Totals of the report that a budget may limit. fps is a lower limit, the others are upper ones."""


@dataclass(frozen=True)
class Budget:
    """The most that a total may be; for fps, the least."""

    name: str
    value: float

    @property
    def most(self) -> float:
        """The most that the cost may be; frames per second are a latency in ms."""
        return 1000 / self.value if self.name == "fps" else self.value

    @property
    def cost(self) -> str:
        """The total that grows with the cost."""
        return "latency_ms" if self.name == "fps" else self.name


def read_budget(text: str) -> Budget:
    """The budget of a text NAME=VALUE. Raises ParamError for an unknown name, or a value that is not a positive number."""
    name, _, value = text.partition("=")
    if name not in NAMES:
        raise ParamError(f"--budget {text}: '{name}' is unknown; a budget has {', '.join(NAMES)}{did_you_mean(name, NAMES)}")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ParamError(f"--budget {text}: write it as {name}=NUMBER with a number above 0")
    return Budget(name, number)


BudgetText = Annotated[str, Role(lambda text, _option: read_budget(text))]
"""A budget such as latency_ms=35."""

Price = Callable[[WorkItem], float]
"""What an item costs."""


@dataclass(frozen=True)
class Quantity:
    """A cost that may not exceed `most`: the sum of a price over all items, or, without a price, a total of the workload.

    A latency is a quantity on each variant of the target, so that the highest of them meets the budget.
    """

    name: str
    label: str
    most: float
    price: Price | None

    def value(self, load: Workload, float_bits: int) -> float:
        """The cost of a workload; 0 for what is unknown."""
        if self.price is not None:
            return sum(map(self.price, load.costed))
        if self.name == "macs":
            return float(load.layers.totals.macs or 0)
        held, _ = load.peak(float_bits)
        return (held or 0) / MB


@dataclass(frozen=True)
class Budgets:
    """Budgets on a target. `optimistic`: the target itself decides on latency, not the highest of its variants."""

    given: tuple[Budget, ...]
    backend: CostBackend
    optimistic: bool = False

    def quantities(self) -> list[Quantity]:
        """The costs that are limited."""
        found = []
        for budget in self.given:
            for label, backend in self._variants(budget.cost).items():
                found.append(Quantity(budget.cost, label, budget.most, price_of(budget.cost, backend)))
        return found

    def _variants(self, name: str) -> Mapping[str, CostBackend]:
        backend = self.backend
        if name != "latency_ms" or self.optimistic or not isinstance(backend, FileBackend):
            return {backend.name: backend}
        return {variant.name: variant for variant in backend.variants()}

    def key(self, name: str) -> str:
        """The total of a report by which a budget is judged."""
        return "latency_ms_high" if name == "latency_ms" and not self.optimistic else name

    @property
    def cost_key(self) -> str:
        """The total of a report that is the cost of a point: that of the first budget."""
        return self.key(self.given[0].cost)

    def excess(self, totals: Mapping[str, float | int | None]) -> list[float]:
        """For each budget, by which share of it the totals of a report exceed it; 0 or less is within. Unknown: infinite."""
        values = [totals[self.key(budget.cost)] for budget in self.given]
        pairs = zip(values, self.given, strict=True)
        return [math.inf if value is None else value / budget.most - 1 for value, budget in pairs]


def price_of(name: str, backend: CostBackend) -> Price | None:
    """What an item contributes to a total; None for a total that is no sum over items."""
    if name == "nonzero_macs":
        return lambda item: (item.macs or 0) * (item.nonzeros / item.weights if item.weights else 1)
    parts: dict[str, Callable[[WorkItem], float]] = {
        "latency_ms": lambda item: 0.0 if (cost := backend.cost(item)) is None else cost.latency_ms,
        "mem_p_mb": lambda item: 0.0 if (cost := backend.cost(item)) is None else cost.coefficient_bytes / MB,
        "dram_mb": lambda item: 0.0 if (cost := backend.cost(item)) is None else cost.dram_bytes / MB,
    }
    return parts.get(name)


def read_budgets(texts: Sequence[str]) -> tuple[Budget, ...]:
    """The budgets of several texts. Raises ParamError as `read_budget` does, and for a name that occurs twice."""
    found = tuple(map(read_budget, texts))
    names = [budget.cost for budget in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ParamError(f"--budget: {twice} is limited twice; give it once")
    return found
