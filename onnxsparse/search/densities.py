"""The density of every layer, so that a model meets budgets at the least predicted loss.

1. Measure what pruning costs each layer (`recovery.database`), unless this is known for the same model and samples.
2. Allocate as `prune` does, at the price of the budget that is exceeded most.
3. While another budget is exceeded, give it a share of the price, and allocate again; if that does not help, allow less at these
   prices.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from onnxsparse.analysis.layer_filter import Nameable, choose
from onnxsparse.analysis.layers import layers
from onnxsparse.cost.backends.work import WorkItem
from onnxsparse.cost.workload import Workload, workload
from onnxsparse.ir.model import Model
from onnxsparse.pipeline.base import budget_bytes
from onnxsparse.pipeline.reuse import reused
from onnxsparse.pruning.candidates import select_candidates
from onnxsparse.recovery.allocation import FLOOR, Choices, allocate, densities_of
from onnxsparse.recovery.database import Database
from onnxsparse.recovery.recover import Recovery, Rules
from onnxsparse.recovery.units import Unit, find_units
from onnxsparse.runtime.samples import Samples
from onnxsparse.search.budgets import Quantity

UNITS = 10**9
"""Whole units of cost in a budget."""

ROUNDS = 12
"""Allocations until all budgets are met."""

TIGHTER = 0.995
"""Factor on a budget that is still exceeded when all of it is priced, since items may use several tensors."""

Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Densities:
    """What each weight keeps. `texts`: the option layer_sparsity of prune; empty: nothing is pruned.

    `exceeded`: the largest share of a budget, if even the lowest densities use more than it; None otherwise.
    """

    texts: tuple[str, ...] = ()
    exceeded: float | None = None


def allocated(model: Model, samples: Samples, quantities: Sequence[Quantity], memory: str, seed: int, bits: int) -> Densities:
    """The densities at which `model` uses at most all of every quantity. `bits`: of float activations.

    Raises ModelError and BackendError for samples or models that onnxruntime does not run.
    """
    facts = layers(model)
    candidates, _ = select_candidates(model, facts, (), (), "search", by_operations=False)

    def measured() -> Database:
        """The curves of all layers."""
        recovery = Recovery(model, facts.totals, Rules(), samples, None, budget_bytes(memory), seed)
        recovery.prepare(candidates, "left dense")
        return recovery.database(samples.source, "element")

    units, _ = find_units(model, candidates)
    allocating = Allocating(units, workload(model), quantities, bits)
    if allocating.highest <= 1:
        return Densities()
    if allocating.lowest > 1:
        return Densities(exceeded=allocating.lowest)
    with threadpool_limits(limits=1, user_api="blas"):
        database = reused("sensitivity", model, samples, (memory, seed), measured)
    return Densities(tuple(layer_sparsities(model, units, allocating.run(database))))


def lowest_share(model: Model, quantities: Sequence[Quantity], bits: int) -> float:
    """The largest share of a quantity that `model` uses at the lowest densities of all layers."""
    candidates, _ = select_candidates(model, layers(model), (), (), "search", by_operations=False)
    return Allocating(find_units(model, candidates)[0], workload(model), quantities, bits).lowest


def sparse(load: Workload) -> Workload:
    """A workload at the lowest density of all weights, also of those that cannot be pruned."""
    return replace(load, items=tuple(replace(item, nonzeros=math.ceil(FLOOR * item.nonzeros)) for item in load.items))


@dataclass
class Allocating:
    """One allocation of `units` to `quantities`, which are costs of `load`. `bits`: of float activations."""

    units: Sequence[Unit]
    load: Workload
    quantities: Sequence[Quantity]
    bits: int

    def __post_init__(self) -> None:
        self.kept = [densities_of(unit.candidate, 1.0, None) for unit in self.units]
        self.floors = [int(counts[0]) for counts in self.kept]

    @property
    def highest(self) -> float:
        """The largest share of a quantity that is used if nothing is pruned."""
        return float(self._used({}).max())

    @property
    def lowest(self) -> float:
        """The largest share of a quantity that is used at the lowest densities."""
        return float(self._used(self._gone(self.floors)).max())

    def run(self, database: Database) -> list[int]:
        """The elements that each unit keeps."""
        curves = [database.curve(unit) for unit in self.units]
        losses = [curve.loss(counts) for curve, counts in zip(curves, self.kept, strict=True) if curve is not None]
        tables = [self._table(unit, counts) for unit, counts in zip(self.units, self.kept, strict=True)]
        dense = self._used({})
        price, limit = np.eye(len(dense))[int(dense.argmax())], 1.0
        for number in range(ROUNDS):
            choices = [
                Choices(counts, loss, np.maximum.accumulate(np.ceil(UNITS * (price @ table)).astype(np.int64)))
                for counts, loss, table in zip(self.kept, losses, tables, strict=True)
            ]
            rest = limit - price @ dense
            budget = int(UNITS * rest) + sum(int(each.cost[-1]) for each in choices)
            found = allocate(choices, budget, convex=False)
            if found is None:
                break
            used = self._used(self._gone(found))
            if used.max() <= 1:
                return found
            if number < ROUNDS // 2:
                price, limit = shifted(price, used), limit * TIGHTER
            else:
                limit *= TIGHTER / float(used.max())
        return self.floors

    def _table(self, unit: Unit, kept: NDArray[np.int64]) -> Shares:
        """Shares of each priced quantity that the items of a unit use at each choice, all other units dense."""
        found = np.zeros((len(self.quantities), kept.size))
        candidate = unit.candidate
        for item in self.load.costed:
            if candidate.name not in item.tensors:
                continue
            others = item.nonzeros - (candidate.elements - candidate.zeros)
            variants = [replace(item, nonzeros=others + int(count)) for count in kept]
            for number, quantity in enumerate(self.quantities):
                if quantity.price is not None:
                    found[number] += [quantity.price(variant) / quantity.most for variant in variants]
        return found

    def _gone(self, kept: Sequence[int]) -> Mapping[str, int]:
        """Tensor → the elements that become zero."""
        pairs = zip([unit.candidate for unit in self.units], kept, strict=True)
        return {c.name: c.elements - c.zeros - count for c, count in pairs}

    def _used(self, gone: Mapping[str, int]) -> Shares:
        """The share of each quantity that is used."""
        items = tuple(fewer(item, gone) for item in self.load.items)
        load = replace(self.load, items=items)
        return np.array([quantity.value(load, self.bits) / quantity.most for quantity in self.quantities])


def fewer(item: WorkItem, gone: Mapping[str, int]) -> WorkItem:
    """An item whose tensors have fewer nonzero elements. `gone`: tensor → elements that become zero."""
    count = sum(gone.get(name, 0) for name in item.tensors)
    return replace(item, nonzeros=item.nonzeros - count) if count else item


def shifted(price: Shares, used: Shares) -> Shares:
    """Prices, of which the quantity that is exceeded most gets half."""
    worst = np.eye(len(used))[int(used.argmax())]
    found: Shares = (price + worst) / 2
    return found


def layer_sparsities(model: Model, units: Sequence[Unit], kept: Sequence[int]) -> list[str]:
    """The option layer_sparsity of prune for these units: first all layers dense, then those that are not."""
    facts = layers(model)
    found = []
    for unit, count in zip(units, kept, strict=True):
        candidate = unit.candidate
        if count >= candidate.elements - candidate.zeros:
            continue
        # half an element more than is to go, so that rounding to decimals does not change the number
        share = 1 - (count - 0.5) / candidate.elements
        found += [f"{exact_pattern(facts, node, model.name)}={share:.12f}" for node in candidate.nodes]
    return ["*=0", *found] if found else []


def exact_pattern(facts: Sequence[Nameable], node: str, model: str) -> str:
    """A pattern that matches one node alone: its name, if that is enough."""
    plain = not re.match(r"op:|re:|@", node) and not any(c in node for c in "*?[")
    if plain and choose(facts, [node], "search", model) == {node}:
        return node
    return rf"re:\A{re.escape(node)}\Z"
