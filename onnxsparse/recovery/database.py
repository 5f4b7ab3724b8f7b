"""What pruning costs each layer: error over density, and how much the model's outputs feel it.

1. One walk of the dense model. At each layer, H of its inputs at sampled positions; the kept weights and their best values at
   several densities; their error relative to the layer's output.
2. At the same place, the layer alone is pruned to each density of PROBES and the rest runs on a few samples: how far the outputs
   move per unit of error is the layer's sensitivity. It is measured by pruning, because noise of the same size moves outputs less
   and unevenly.
"""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from onnxsparse.calibration.walk import Walk
from onnxsparse.ir.array_types import Floats
from onnxsparse.ir.mapped import byte_view
from onnxsparse.ir.model import Model
from onnxsparse.progress import tell
from onnxsparse.pruning.sparsity_pattern import Pattern
from onnxsparse.recovery.allocation import Counts
from onnxsparse.recovery.alps import Equations, Moments, choose, error
from onnxsparse.recovery.divergence import Reference
from onnxsparse.recovery.moments import unit_moments
from onnxsparse.recovery.patterns import keeper
from onnxsparse.recovery.tasks import in_parallel
from onnxsparse.recovery.units import Unit
from onnxsparse.runtime.samples import Samples

DENSITIES = (0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85)
"""Densities at which the error of a layer is measured; between them its logarithm is interpolated."""

PROBES = (0.1, 0.2, 0.4)
"""Densities to which a layer is pruned to measure its sensitivity; the geometric mean over them varies less than one of them."""

PROBED_SAMPLES = 16
"""Samples on which sensitivity is measured; the rest of the model runs on them once for each layer and density of PROBES."""

PROBED_LAYERS = 100
"""Layers up to which all densities are probed on the same samples. With more, each is probed on some of them, so that time grows
with the layers and not with their square."""

MEASURED_WORK = 250_000_000
"""Product of elements and columns of a layer beyond which only some of its rows are measured."""

FEWEST_ROWS = 32
"""Least number of rows of a large layer that are measured."""

SETTLED = 0.003
"""Share of the kept weights below which a change ends the choice of weights for a curve."""

TINY = 1e-12
"""Smallest relative error, so that logarithms are finite."""


Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class LayerCurve:
    """One weight tensor: the relative error of its layer's output at DENSITIES, and the divergence of the model's outputs per
    unit of it. `digest`: of the tensor's values. `macs`: multiply-accumulates with the tensor.
    """

    tensor: str
    digest: str
    nodes: tuple[str, ...]
    elements: Annotated[int, Field(gt=0)]
    macs: Annotated[int, Field(ge=0)]
    errors: Annotated[tuple[Finite, ...], Field(min_length=len(DENSITIES), max_length=len(DENSITIES))]
    sensitivity: Finite

    def loss(self, kept: Counts | int) -> NDArray[np.float64]:
        """The predicted divergence of the outputs with these numbers of nonzero elements; it falls to 0 at all of them."""
        densities = np.asarray(kept) / self.elements
        logs = np.interp(densities, DENSITIES, np.log(np.maximum(self.errors, TINY)))
        beyond = np.clip((1 - densities) / (1 - DENSITIES[-1]), 0, 1)
        found: NDArray[np.float64] = self.sensitivity * np.exp(logs) * beyond
        return found


@dataclass(frozen=True)
class Database:
    """The curves of a model. `graph`: the fingerprint of its graph.

    `source`, `samples`, `seed`: the data that was learned from. `pattern`: as the option --pattern says it.
    """

    model: str
    graph: str
    source: str
    samples: int
    seed: int
    pattern: str
    layers: tuple[LayerCurve, ...]
    densities: tuple[float, ...] = DENSITIES

    def curve(self, unit: Unit) -> LayerCurve | None:
        """The curve of a unit; None if it has none."""
        return next((curve for curve in self.layers if curve.tensor == unit.candidate.name), None)


@plain_dataclass
class Measuring:
    """Measures the curves of `units` of `model`, along a walk over samples."""

    model: Model
    units: Sequence[Unit]
    samples: Samples
    budget_bytes: int
    seed: int = 0
    pattern: Pattern = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._variant = self.model.copy()

    def run(self) -> tuple[LayerCurve, ...]:
        """The curve of every unit. Raises ModelError and BackendError as `Walk` does."""
        walk = Walk(self.model, self.samples, self.budget_bytes)
        reference = Reference(walk.outputs(self.model, range(min(PROBED_SAMPLES, len(walk.values)))))
        found = []
        for number, unit in enumerate(self.units):
            tell("measuring layers", number, len(self.units))
            walk.advance(unit.at)
            found.append(self._curve(unit, unit_moments(unit, walk, self.seed), walk, reference))
        return tuple(found)

    def _curve(self, unit: Unit, h: Floats, walk: Walk, reference: Reference) -> LayerCurve:
        """The curve of one unit, before whose node the walk stands."""
        whole = unit.matrix(self.model)
        rows = self._rows(unit)
        weight, moments = whole[:, rows], Moments.of(h)
        power = error(weight, moments.h) or 1.0
        allowed, equations = weight != 0, Equations.of(moments.h)

        def pruned(density: float) -> Floats:
            mask = choose(weight, moments, keeper(self.pattern, unit, allowed, math.ceil(density * weight.size)), settled=SETTLED)
            return equations.refit(weight, mask)

        kept = in_parallel(pruned, DENSITIES)
        errors = np.array([error(values - weight, moments.h) / power for values in kept])
        start = time.perf_counter()
        share = power / (error(whole, moments.h) or power)  # of these rows in the output of the layer
        found = []
        for at in map(DENSITIES.index, PROBES):
            changed = whole.copy()
            changed[:, rows] = kept[at]
            found.append((changed, share * float(errors[at])))
        sensitivity = self._sensitivity(unit, found, walk, reference)
        self.seconds += time.perf_counter() - start
        # errors are not smaller at lower densities; the search may find it so by chance
        falling = np.maximum.accumulate(errors[::-1])[::-1]
        candidate = unit.candidate
        return LayerCurve(
            tensor=candidate.name,
            digest=digest(unit, self.model),
            nodes=candidate.nodes,
            elements=candidate.elements,
            macs=candidate.uses * candidate.elements,
            errors=tuple(falling.tolist()),
            sensitivity=sensitivity,
        )

    def _rows(self, unit: Unit) -> NDArray[np.int64]:
        """The rows on which a unit is measured: all, or some of a large one, in order."""
        groups, rows, columns = unit.size
        most = max(FEWEST_ROWS, MEASURED_WORK // (groups * columns**2))
        if rows <= most:
            return np.arange(rows)
        return np.sort(np.random.default_rng((self.seed, unit.at)).choice(rows, most, replace=False))

    def _sensitivity(self, unit: Unit, found: Sequence[tuple[Floats, float]], walk: Walk, reference: Reference) -> float:
        """Divergence of the outputs per unit of error. `found`: weights pruned to PROBES, and their relative errors."""
        variant, moved = self._variant, []
        alone = unit.at if len(unit.sites) == 1 else None
        for (kept, off), samples in zip(found, probed(len(self.units), len(reference.outputs)), strict=True):
            unit.store(variant, kept)
            outputs = walk.outputs(variant, samples, changed=alone)
            moved.append(reference.divergence(outputs, samples) / max(off, TINY))
        unit.store(variant, unit.matrix(self.model))
        return float(np.exp(np.mean(np.log(np.maximum(moved, TINY)))))


def probed(layers: int, samples: int) -> list[list[int]]:
    """For each density of PROBES, the numbers of the samples on which it is probed in a model of so many layers."""
    each = min(samples, max(2, round(PROBED_SAMPLES * PROBED_LAYERS / layers)))
    return [[(each * at + number) % samples for number in range(each)] for at in range(len(PROBES))]


def digest(unit: Unit, model: Model) -> str:
    """A digest of the values of a unit's tensor in `model`, as 16 hexadecimal digits."""
    return hashlib.sha256(byte_view(np.ascontiguousarray(model.weights[unit.candidate.name]))).hexdigest()[:16]
