"""Outputs of a classifier, and how often two models choose the same class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxsparse.ir.weights import Array
from onnxsparse.runtime.session import Feeds

FEWEST_CLASSES = 3

BOX = 4
"""Values of a box."""


@dataclass
class Choices:
    """Rows of one output, one row per sample, and those whose largest element is at the same index in both models.

    `shape`: per row; None before the first sample. `classifies`: whether the output may be a classifier's so far.
    """

    shape: tuple[int, ...] | None = None
    rows: int = 0
    agreeing: int = 0
    classifies: bool = True

    def add(self, a: Array, b: Array, batch: int | None) -> None:
        """Add one sample of both models, whose inputs have `batch` rows; None: the inputs do not tell.

        A classifier has rows of FEWEST_CLASSES floats and more: N×C or N×C×1×1.
        """
        self.shape = a.shape[1:] if self.shape is None else self.shape
        in_rows = a.ndim == 2 or (a.ndim == 4 and a.shape[2:] == (1, 1))
        floats = a.dtype.kind in "fV" and b.dtype.kind in "fV"
        if not (floats and in_rows and a.shape[1:] == self.shape and a.shape[1] >= FEWEST_CLASSES and batch == a.shape[0]):
            self.classifies = False
        if self.classifies:
            agreeing = a.argmax(1) == b.argmax(1)
            self.rows += agreeing.size
            self.agreeing += int(np.count_nonzero(agreeing))

    def share(self, others: Sequence[tuple[int, ...] | None]) -> float | None:
        """Share of the rows with the same class, 0 to 1; None if the output is no classifier's.

        `others`: shapes of the model's other outputs, without axis 0. An output with one value for each position of another holds
        scores of boxes, and one with 4 values beside other outputs holds a box.
        """
        if not self.classifies or not self.rows or self.shape is None:
            return None
        if others and self.shape[0] == BOX:
            return None
        if any(len(other) >= 2 and self.shape[0] in other for other in others if other is not None):
            return None
        return self.agreeing / self.rows


def batch_size(feeds: Feeds) -> int | None:
    """The size of axis 0 of the first input that has axes; None if there is none."""
    return next((int(array.shape[0]) for array in feeds.values() if array.ndim), None)
