"""What pruning costs each layer: error over density, and how much the model's outputs feel it.

1. One walk of the dense model. At each layer, H of its inputs at sampled positions; the kept weights and their best values at
   several densities; their error relative to the layer's output.
2. At the same place, the layer alone is pruned to each density of PROBES and the rest runs on a few samples: how far the outputs
   move per unit of error is the layer's sensitivity. It is measured by pruning, because noise of the same size moves outputs less
   and unevenly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxsparse.calibration.walk import Walk
from onnxsparse.ir.model import Model
from onnxsparse.progress import tell
from onnxsparse.recovery.alps import Moments, choose, error, refit
from onnxsparse.recovery.divergence import Reference
from onnxsparse.recovery.inputs import Inputs, gather
from onnxsparse.recovery.patterns import Largest
from onnxsparse.recovery.units import Floats, Unit

DENSITIES = (0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85)
"""Densities at which the error of a layer is measured; between them its logarithm is interpolated."""

PROBES = (0.1, 0.2, 0.4)
"""Densities to which a layer is pruned to measure its sensitivity; the geometric mean over them varies less than one of them."""

PROBED_SAMPLES = 16
"""Samples on which sensitivity is measured; each runs the rest of the model once for each layer."""

TINY = 1e-12
"""Smallest relative error, so that logarithms are finite."""


@dataclass(frozen=True)
class LayerCurve:
    """One unit: the relative error of its output at DENSITIES, and the divergence of the model's outputs per unit of it."""

    unit: Unit
    errors: tuple[float, ...]
    sensitivity: float

    def loss(self, densities: NDArray[np.float64]) -> NDArray[np.float64]:
        """The predicted divergence of the outputs at these densities, which falls to 0 at 1."""
        logs = np.interp(densities, DENSITIES, np.log(np.maximum(self.errors, TINY)))
        beyond = np.clip((1 - densities) / (1 - DENSITIES[-1]), 0, 1)
        found: NDArray[np.float64] = self.sensitivity * np.exp(logs) * beyond
        return found


def measure(model: Model, units: Sequence[Unit], walk: Walk, seed: int) -> tuple[list[LayerCurve], dict[str, Floats]]:
    """The curve of every unit; and H of the tensors that several nodes use, by name. `walk`: of `model`, at its start."""
    reference = Reference(walk.outputs(model, PROBED_SAMPLES))
    curves, shared = [], {}
    for number, unit in enumerate(units):
        tell("measuring layers", number, len(units))
        walk.advance(unit.at)
        h = unit_moments(unit, walk, seed)
        if len(unit.sites) > 1:
            shared[unit.candidate.name] = h
        curves.append(curve(model, unit, h, walk, reference))
    return curves, shared


def unit_moments(unit: Unit, walk: Walk, seed: int) -> Floats:
    """H of a unit's inputs; of a tensor with several sites, the mean over them, each reached by a walk of its own."""
    found = Inputs.of(gather(walk, unit.sites[0], seed), centre=unit.shifts).moments()
    if len(unit.sites) == 1:
        return found
    ahead = walk.fork()
    for site in unit.sites[1:]:
        ahead.advance(site.index)
        found = found + Inputs.of(gather(ahead, site, seed), centre=False).moments()
    return found / len(unit.sites)


def curve(model: Model, unit: Unit, h: Floats, walk: Walk, reference: Reference) -> LayerCurve:
    """The errors and the sensitivity of one unit, before whose node the walk stands."""
    weight = unit.matrix(model)
    moments = Moments.of(h)
    power = error(weight, moments.h) or 1.0
    errors: list[float] = []
    moved: list[float] = []
    allowed = weight != 0
    variant = model.copy()
    for density in DENSITIES:
        mask = choose(weight, moments, Largest(math.ceil(density * weight.size), allowed))
        kept = refit(weight, mask, moments.h)
        errors.append(error(kept - weight, moments.h) / power)
        if density in PROBES:
            unit.store(variant, kept)
            moved.append(reference.divergence(walk.outputs(variant, PROBED_SAMPLES)) / max(errors[-1], TINY))
    sensitivity = float(np.exp(np.mean(np.log(np.maximum(moved, TINY)))))
    # errors are not smaller at lower densities; the search may find it so by chance
    errors = list(np.maximum.accumulate(errors[::-1])[::-1])
    return LayerCurve(unit, tuple(map(float, errors)), sensitivity)
