"""Inputs of a linear op at sampled output positions, and their moments."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxsparse.analysis.linear_sites import Site
from onnxsparse.calibration.walk import Walk
from onnxsparse.errors import ModelError
from onnxsparse.ir.array_types import Floats, Singles
from onnxsparse.ir.mapped import let_go

POSITIONS = 24_000
"""Output positions of a layer that are sampled over all samples."""

MOST_BYTES = 256 * 10**6
"""Largest size of the sampled inputs of one layer, in bytes."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of one layer at sampled positions: groups × positions × columns, and their mean, groups × 1 × columns."""

    centred: Singles
    mean: Singles

    @property
    def count(self) -> int:
        """The number of positions."""
        return int(self.centred.shape[1])

    @classmethod
    def of(cls, columns: Singles, *, centre: bool) -> "Inputs":
        """From columns, which are changed. `centre`: whether the mean is subtracted, or left as a part of what weights match."""
        if not centre:
            return cls(columns, np.zeros_like(columns[:, :1]))
        mean = columns.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
        columns -= mean
        return cls(columns, mean)

    def pick(self, groups: NDArray[np.int64]) -> "Inputs":
        """Those of some groups."""
        return Inputs(self.centred[groups], self.mean[groups])

    def times(self, other: "Inputs") -> Floats:
        """The mean products with another version of these inputs: groups × own columns × its columns.

        The means are subtracted before, so that sums in float32 lose nothing that matters.
        """
        return (self.centred.swapaxes(1, 2) @ other.centred).astype(np.float64) / self.count

    def moments(self) -> Floats:
        """Second moments: groups × columns × columns."""
        return self.times(self)


def positions_each(walk: Walk, site: Site, positions: int = POSITIONS) -> int:
    """The number of positions of each sample at which a site's inputs are sampled, at most, so that MOST_BYTES hold them.

    `positions`: over all samples.
    """
    width = site.form.columns(walk.values[0][site.data], np.zeros(1, np.int64)).size
    most = min(positions, max(1, MOST_BYTES // (4 * width)))
    return max(1, -(-most // len(walk.values)))


def gather(walk: Walk, site: Site, seed: int, each: int | None = None) -> Singles:
    """The columns of a site at sampled positions of all samples of a walk, which stands before its node.

    `each`: positions of each sample, at most; None: as many as `positions_each`. The same seed, number and index of the site give
    the same positions, so that versions of a model meet at the same places. Raises ModelError for NaN and infinite values.
    """
    each = positions_each(walk, site) if each is None else each
    counts = [min(each, site.form.positions(values[site.data])) for values in walk.values]
    found, start = np.zeros((0, 0, 0), np.float32), 0
    for number, (values, count) in enumerate(zip(walk.values, counts, strict=True)):
        data = values[site.data]
        every = site.form.positions(data)
        rng = np.random.default_rng((seed, site.index, number))
        places = np.arange(every) if every <= each else np.sort(rng.choice(every, each, replace=False))
        part = site.form.columns(data, places).astype(np.float32)
        let_go(data)
        if not np.isfinite(part).all():
            raise ModelError(
                f"activation '{site.data}' of {walk.model.name} has NaN or infinite values on sample {number}; give other data, "
                "or --exclude the layers that read it"
            )
        if not number:
            found = np.empty((part.shape[0], sum(counts), part.shape[2]), np.float32)
        found[:, start : start + count] = part
        start += count
    return found
