"""Importance of a weight: what losing it costs. The least important per operation saved go first."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from onnxsparse.pruning.select import Histogram, Score, bin_edges


@dataclass(frozen=True)
class Scored:
    """What a score knows of one tensor: its items by magnitude, and what one of them costs."""

    histogram: Histogram
    cost: float


MakeScore = Callable[[Scored], Score]


def l1(tensor: Scored) -> Score:
    """The magnitude itself, over the cost: with cost 1, the paper's global L1."""
    return lambda magnitudes, _bins: magnitudes / tensor.cost


def lamp(tensor: Scored) -> Score:
    """Layer-adaptive magnitude: a weight's square over the sum of squares of the tensor's weights at least as large.

    The sums are taken over the histogram's bins (a 256th of a magnitude wide). Source: Lee et al., Layer-adaptive sparsity
    for the magnitude-based pruning (ICLR 2021), doi 10.48550/arXiv.2010.07611.
    """
    histogram, edges = tensor.histogram, bin_edges()
    lower, upper = edges[histogram.bins], edges[histogram.bins + 1]
    middles = np.where(np.isfinite(upper), (lower + upper) / 2, lower)
    energy = histogram.counts * middles**2
    remaining = np.maximum(np.cumsum(energy[::-1])[::-1], np.finfo(np.float64).tiny)

    def score(magnitudes: NDArray[np.float64], bins: NDArray[np.intp]) -> NDArray[np.float64]:
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
