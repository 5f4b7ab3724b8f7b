"""What pruning is to reach, towards which each zero counts by its operations or as one weight."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from onnxsparse.analysis.layer import Layers, Totals
from onnxsparse.errors import ModelError, ParamError
from onnxsparse.ir.model import Model
from onnxsparse.pruning.candidates import Candidate
from onnxsparse.pruning.coverage import require_counted

Kind = Literal["sparsity_op", "sparsity", "macs"]

MAX_MACS = 1 << 62
"""Gains are summed in signed 64-bit integers, which larger totals would overflow."""


@dataclass(frozen=True)
class Target:
    """A share, 0 to 1: of the weights' operations (sparsity_op) or of the weights (sparsity) that are zero; of all
    multiply-accumulates (macs) that are left."""

    kind: Kind
    share: float

    @property
    def by_operations(self) -> bool:
        """Whether zeros count by their operations."""
        return self.kind != "sparsity"

    @property
    def sparsity(self) -> float:
        """The share that is to be zero, 0 to 1."""
        return 1 - self.share if self.kind == "macs" else self.share

    def weight(self, candidate: Candidate) -> int:
        """What one zero element of a candidate counts."""
        return candidate.uses if self.by_operations else 1

    def whole(self, totals: Totals) -> int:
        """What the target is a share of: multiply-accumulates, or weights."""
        return {"sparsity_op": totals.weight_macs, "sparsity": totals.weights, "macs": totals.macs or 0}[self.kind]

    def reached(self, totals: Totals) -> int:
        """What is zero already, in the same unit."""
        return (totals.zero_macs if self.by_operations else totals.zero_weights) or 0

    def need(self, totals: Totals) -> int:
        """What is still to become zero; not positive if the target is reached."""
        return math.ceil(self.sparsity * self.whole(totals)) - self.reached(totals)

    def out_of_reach(self, highest: float, max_sparsity: float) -> ParamError:
        """The error if a share of at most `highest` can be zero, 0 to 1, where no layer may exceed `max_sparsity`."""
        cap = f" with --max-layer-sparsity {max_sparsity:g}" if max_sparsity < 1 else ""
        if self.kind == "macs":
            least = f"{math.ceil((1 - highest) * 1000) / 10:g} % is the least"
        else:
            least = f"{math.floor(highest * 1000) / 10:g} % is the most"
        return ParamError(f"prune: {self.kind} {self.share:g} cannot be reached: {least} that these layers allow{cap}")


def require_operations(facts: Layers, model: Model, *, partial: bool) -> None:
    """Check that the MACs of the layers can be weighed against each other.

    Raises ParamError if those of a layer with weights are unknown, unless `partial`, and ModelError if the total exceeds
    MAX_MACS.
    """
    if facts.totals.weight_macs > MAX_MACS:
        raise ModelError(f"{model.name} has {facts.totals.weight_macs:.1e} operations at these sizes, which no device runs")
    require_counted("prune", facts, model.name, partial=partial, otherwise="prune towards --sparsity")


def own_share(shares: Mapping[str, float], nodes: Iterable[str]) -> float | None:
    """The sparsity that the caller has set for a tensor: the highest of those of the nodes that use it; None: none."""
    return max((shares[node] for node in nodes if node in shares), default=None)
