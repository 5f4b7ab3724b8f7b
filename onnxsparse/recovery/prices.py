"""What kept weights cost, and how much they may: in operations, in weights, or in the predicted latency of a target."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np

from onnxsparse.analysis.layer import Totals
from onnxsparse.cost.backends.base import CostBackend
from onnxsparse.cost.backends.work import WorkItem
from onnxsparse.cost.workload import Workload
from onnxsparse.errors import ParamError
from onnxsparse.pruning.candidates import Candidate
from onnxsparse.pruning.target import Target
from onnxsparse.recovery.allocation import Counts

NANOSECONDS = 10**6
"""In a millisecond: latencies are whole nanoseconds, so that budgets are exact."""


class Prices(Protocol):
    """Costs as whole numbers of one unit, and the budget in this unit."""

    @property
    def convex(self) -> bool:
        """Whether each further element of a tensor costs as much as the last."""

    def costs(self, candidate: Candidate, kept: Counts) -> Counts:
        """What a tensor costs with each of these numbers of nonzero elements, in rising order."""

    def budget(self, candidates: Sequence[Candidate]) -> int:
        """What these tensors may cost together."""

    def out_of_reach(self, excess: int, max_sparsity: float) -> ParamError:
        """The error if they cost `excess` more than the budget at their lowest densities."""


@dataclass(frozen=True)
class Operations:
    """A share of the operations, or of the weights. `totals`: of the dense model. `gained`: what became zero besides."""

    target: Target
    totals: Totals
    gained: int = 0
    convex: ClassVar[bool] = True

    def costs(self, candidate: Candidate, kept: Counts) -> Counts:
        """Operations, or weights."""
        return kept * self.target.weight(candidate)

    def budget(self, candidates: Sequence[Candidate]) -> int:
        """What is nonzero now, less what has to become zero."""
        held = sum((c.elements - c.zeros) * self.target.weight(c) for c in candidates)
        return held - max(0, self.target.need(self.totals) - self.gained)

    def out_of_reach(self, excess: int, max_sparsity: float) -> ParamError:
        """Names the highest share."""
        return self.target.out_of_reach(self.target.sparsity - excess / self.target.whole(self.totals), max_sparsity)


@dataclass(frozen=True)
class Latency:
    """The predicted latency of a model on a target, in nanoseconds. `load`: of the dense model. `limit_ms`: what it may be."""

    backend: CostBackend
    load: Workload
    limit_ms: float = math.inf
    convex: ClassVar[bool] = False

    def costs(self, candidate: Candidate, kept: Counts) -> Counts:
        """Of the items that use the tensor, where all other tensors are dense."""
        found = np.zeros(kept.size, np.int64)
        for item in self._items(candidate):
            others = item.nonzeros - (candidate.elements - candidate.zeros)
            found += np.array([self._nanoseconds(replace(item, nonzeros=others + int(count))) for count in kept], np.int64)
        return np.maximum.accumulate(found)

    @property
    def unknown(self) -> list[str]:
        """The nodes of unknown cost, which count as 0."""
        return [item.node for item in self.load.costed if self.backend.cost(item) is None]

    def dense(self, candidate: Candidate) -> int | None:
        """What the items that use a tensor cost as they are; None if that is unknown."""
        items = self._items(candidate)
        return None if any(self.backend.cost(item) is None for item in items) else sum(map(self._nanoseconds, items))

    def budget(self, candidates: Sequence[Candidate]) -> int:
        """What the items of other tensors leave of the limit. An item that uses several of these tensors is charged once."""
        fixed = sum(self._nanoseconds(item) for item in self.load.costed)
        return (
            math.floor(self.limit_ms * NANOSECONDS)
            - fixed
            + sum(self._nanoseconds(i) for c in candidates for i in self._items(c))
        )

    def out_of_reach(self, excess: int, max_sparsity: float) -> ParamError:
        """Names the lowest latency."""
        cap = f" with --max-layer-sparsity {max_sparsity:g}" if max_sparsity < 1 else ""
        least = math.ceil((self.limit_ms + excess / NANOSECONDS) * 1000) / 1000
        return ParamError(
            f"prune: --latency-ms {self.limit_ms:g} cannot be reached on {self.backend.name}: {least:g} ms is the least that "
            f"these layers allow{cap}"
        )

    def latency_ms(self, kept: Mapping[str, int], candidates: Sequence[Candidate]) -> float:
        """The latency if each tensor of `candidates` keeps this many elements."""
        gone = {c.name: c.elements - c.zeros - kept[c.name] for c in candidates}
        items = [
            replace(item, nonzeros=item.nonzeros - sum(gone.get(name, 0) for name in item.tensors)) for item in self.load.costed
        ]
        return sum(map(self._nanoseconds, items)) / NANOSECONDS

    def _items(self, candidate: Candidate) -> list[WorkItem]:
        return [item for item in self.load.costed if candidate.name in item.tensors]

    def _nanoseconds(self, item: WorkItem) -> int:
        cost = self.backend.cost(item)
        return 0 if cost is None else math.ceil(cost.latency_ms * NANOSECONDS)
