"""The final pass: in the order of the model, choose each layer's kept weights, and fit them to what the dense layer computes.

Two walks go side by side, of the dense model and of the model as pruned so far. At each layer:

1. the inputs of both at the same positions; the wanted outputs are the dense layer's;
2. the best dense weights for the new inputs, then the kept ones (ALPS), then least squares on them;
3. the bias takes the difference of the means.

Layers that keep all of their weights are fitted too, once an earlier layer has changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsparse.calibration.walk import Walk
from onnxsparse.ir.model import Model
from onnxsparse.progress import tell
from onnxsparse.recovery.alps import Keep, Moments, choose, refit
from onnxsparse.recovery.inputs import Inputs, gather
from onnxsparse.recovery.patterns import Mask
from onnxsparse.recovery.targets import Target
from onnxsparse.recovery.units import Floats, Unit
from onnxsparse.runtime.samples import Samples


@dataclass
class Repair:
    """The final pass over `model`, which it changes. `dense`: the model before. `keepers`: tensor → what may be kept of it.

    `shared`: H of tensors that several nodes use, measured on the dense model.
    """

    model: Model
    dense: Model
    keepers: Mapping[str, Keep]
    shared: Mapping[str, Floats]
    budget_bytes: int
    seed: int = 0
    few: int = 0
    """Layers with fewer positions than twice their columns."""

    def run(self, units: Sequence[Unit], samples: Samples) -> None:
        """Prune and fit all units."""
        first, second = (Walk(model, samples, self.budget_bytes // 2) for model in (self.dense, self.model))
        changed = False
        for number, unit in enumerate(units):
            tell("pruning and repairing layers", number, len(units))
            keep = self.keepers.get(unit.candidate.name)
            if keep is None and not changed:
                continue
            for walk in (first, second):
                walk.advance(unit.at)
            if len(unit.sites) > 1:
                self._shared(unit, keep)
            else:
                self._fit(unit, keep, first, second)
            changed = True

    def _shared(self, unit: Unit, keep: Keep | None) -> None:
        """Choose and fit a tensor that several nodes use, on the inputs of the dense model."""
        if keep is None:
            return
        weight, moments = unit.matrix(self.model), Moments.of(self.shared[unit.candidate.name])
        unit.store(self.model, refit(weight, choose(weight, moments, keep), moments.h))

    def _fit(self, unit: Unit, keep: Keep | None, first: Walk, second: Walk) -> None:
        site = unit.sites[0]
        wanted, given = (Inputs.of(gather(walk, site, self.seed), centre=unit.shifts) for walk in (first, second))
        weight = unit.matrix(self.dense)
        target = Target(weight, wanted, given)
        self.few += target.few
        mask: Mask = weight != 0
        h, products = target.h, target.products
        if keep is not None:
            best = refit(weight, np.ones_like(mask), h, products, target.ridge)
            mask = choose(best, Moments.of(h), keep, best @ h)
        target.store(self.model, unit, refit(weight, mask, h, products, target.ridge))
