"""Importance of a weight: the loss expected from zeroing it, over the operations saved. The least important are zeroed first."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from onnxsparse.pruning.select import Histogram, Score, bin_edges


@dataclass(frozen=True)
class Scored:
    """The inputs of a score for one tensor: the histogram of its magnitudes, and MACs per element to the cost exponent."""

    histogram: Histogram
    cost: float


MakeScore = Callable[[Scored], Score]


def l1(tensor: Scored) -> Score:
    """Magnitude over cost; with cost 1, the global L1 score of the paper that the README names."""
    return lambda magnitudes, _bins: magnitudes / tensor.cost


def lamp(tensor: Scored) -> Score:
    """Layer-adaptive magnitude over cost: the square of a weight over the sum of squares of all weights at least as large.

    The sums are taken over the histogram's bins, each at most a 256th of its magnitude wide. Source: Lee et al.,
    Layer-adaptive sparsity for the magnitude-based pruning (ICLR 2021), doi 10.48550/arXiv.2010.07611.
    """
    histogram, edges = tensor.histogram, bin_edges()
    lower, upper = edges[histogram.bins], edges[histogram.bins + 1]
    middles = np.where(np.isfinite(upper), (lower + upper) / 2, lower)
    energy = histogram.counts * middles**2
    remaining = np.maximum(np.cumsum(energy[::-1])[::-1], np.finfo(np.float64).tiny)

    def score(magnitudes: NDArray[np.float64], bins: NDArray[np.intp]) -> NDArray[np.float64]:
        """Scores in the shape of `magnitudes`, given the histogram bin of each."""
        squares: NDArray[np.float64] = np.minimum(magnitudes, np.finfo(np.float32).max) ** 2
        scores: NDArray[np.float64] = squares / (remaining[np.searchsorted(histogram.bins, bins)] * tensor.cost)
        return scores

    return score


SCORES: dict[str, MakeScore] = {"lamp": lamp, "l1": l1}

if TYPE_CHECKING:
    ScoreName = str
else:
    ScoreName = Literal[tuple(SCORES)]
    """A key of SCORES, so that a new score is one function and one row."""
