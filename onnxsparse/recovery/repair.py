"""The final pass: in the order of the model, choose each layer's kept weights, and fit them to what the dense layer computes.

Two walks go side by side, of the dense model and of the model as pruned so far. At each layer:

1. the inputs of both at the same positions; the wanted outputs are the dense layer's;
2. the best dense weights for the new inputs, then the kept ones (ALPS), then least squares on them;
3. the bias takes the difference of the means;
4. on samples that were not learned from, the layer's output with and without this fit; the better of both stays.

Layers that keep all of their weights are fitted too, once an earlier layer has changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxsparse.calibration.positions import Inputs, gather, positions_each
from onnxsparse.calibration.walk import Walk
from onnxsparse.ir.array_types import Floats, Mask
from onnxsparse.ir.model import Model
from onnxsparse.progress import tell
from onnxsparse.recovery.alps import Equations, Keep, Moments, choose, refit
from onnxsparse.recovery.fit import Fit, add_bias
from onnxsparse.recovery.moments import unit_moments
from onnxsparse.recovery.units import Unit
from onnxsparse.runtime.samples import Samples

JUDGED_POSITIONS = 4_000
"""Output positions of a layer at which its fit is judged."""


@dataclass(frozen=True)
class Walks:
    """The dense model and the model as pruned so far, side by side over the same samples."""

    dense: Walk
    pruned: Walk

    @classmethod
    def over(cls, samples: Samples, dense: Model, pruned: Model, budget_bytes: int) -> "Walks":
        """Both at their start."""
        return cls(Walk(dense, samples, budget_bytes // 2), Walk(pruned, samples, budget_bytes // 2))

    def advance(self, to: int) -> None:
        """Run both up to a node."""
        for walk in (self.dense, self.pruned):
            walk.advance(to)


@dataclass
class Repair:
    """The final pass over `model`, which it changes. `dense`: the model before. `keepers`: tensor → what may be kept of it.

    `judged`: samples that nothing is learned from; None: every fit stays.
    """

    model: Model
    dense: Model
    keepers: Mapping[str, Keep]
    judged: Samples | None
    budget_bytes: int
    seed: int = 0
    few: int = 0
    """Layers with fewer positions than twice their columns."""
    left_out: list[str] = field(default_factory=list)
    """Nodes whose fit was worse than none on the samples that are judged on."""

    def run(self, units: Sequence[Unit], samples: Samples) -> None:
        """Prune and fit all units."""
        budget = self.budget_bytes if self.judged is None else self.budget_bytes * 3 // 4
        learned = Walks.over(samples, self.dense, self.model, budget)
        judged = None if self.judged is None else Walks.over(self.judged, self.dense, self.model, self.budget_bytes - budget)
        changed = False
        for number, unit in enumerate(units):
            tell("pruning and repairing layers", number, len(units))
            keep = self.keepers.get(unit.candidate.name)
            if keep is None and not changed:
                continue
            learned.advance(unit.at)
            if len(unit.sites) > 1:
                self._shared(unit, keep, learned.dense)
            else:
                self._fit(unit, keep, learned, judged)
            changed = True

    def _shared(self, unit: Unit, keep: Keep | None, dense: Walk) -> None:
        """Choose and fit a tensor that several nodes use, on the inputs of the dense model."""
        if keep is None:
            return
        weight, moments = unit.matrix(self.model), Moments.of(unit_moments(unit, dense, self.seed))
        unit.store(self.model, refit(weight, choose(weight, moments, keep), moments.h))

    def _fit(self, unit: Unit, keep: Keep | None, learned: Walks, judged: Walks | None) -> None:
        site = unit.sites[0]
        wanted, given = (Inputs.of(gather(w, site, self.seed), centre=unit.shifts) for w in (learned.dense, learned.pruned))
        weight = unit.matrix(self.dense)
        fit = Fit(weight, wanted, given)
        self.few += fit.few
        h, cross = fit.h, fit.products
        mask: Mask = weight != 0
        equations = Equations.of(h, fit.ridge)
        if keep is not None:
            best = equations.refit(weight, np.ones_like(mask), cross)
            mask = choose(best, Moments.of(h), keep, best @ h)
        fitted = equations.refit(weight, mask, cross)
        shift = fit.shift(fitted) if unit.shifts else None
        if judged is not None and self._worse(unit, np.where(mask, weight, 0), fitted, shift, judged):
            self.left_out.append(unit.candidate.nodes[0])
            fitted, shift = np.where(mask, weight, 0), None
        unit.store(self.model, fitted)
        if shift is not None:
            add_bias(self.model, unit, shift.reshape(-1))

    def _worse(self, unit: Unit, plain: Floats, fitted: Floats, shift: Floats | None, judged: Walks) -> bool:
        """Whether the outputs of a unit are farther from the dense ones with `fitted` and `shift` than with `plain` weights."""
        judged.advance(unit.at)
        each = positions_each(judged.dense, unit.sites[0], JUDGED_POSITIONS)
        wanted, given = (gather(w, unit.sites[0], self.seed, each) for w in (judged.dense, judged.pruned))
        target = unit.matrix(self.dense) @ wanted.swapaxes(1, 2)
        given = given.swapaxes(1, 2)
        off = [target - plain @ given, target - fitted @ given - (0.0 if shift is None else shift)]
        without, with_fit = (float((part**2).sum()) for part in off)
        return with_fit > without
