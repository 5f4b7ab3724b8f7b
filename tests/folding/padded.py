"""Models with a Pad before a layer, and what became of it."""

from typing import Any

import numpy as np
import onnx

from onnxsparse import Model
from tests.folding.folded import assert_same, folded
from tests.graphs import ASIDE, op_types

X = {"x": "1x4x7x9"}
W = {"w": "6x4x3x3"}
BEHIND = [0, 0, 0, 0, 0, 0, 1, 1]
"""Before: none; after: one row and one column, as a convolution of stride 2 pads in TensorFlow."""
LONG = np.array(BEHIND, np.int64)


def attributes(built: Model, name: str = "y") -> dict[str, Any]:
    found = next(n for n in built.proto.graph.node if name in n.output)
    return {a.name: onnx.helper.get_attribute_value(a) for a in found.attribute}


SAME_DB = 120
"""To float rounding: another kernel may sum in another order."""


def assert_folds(built: Model, *kept: str) -> Model:
    done, _ = folded(built)
    assert [op for op in op_types(done) if op not in ASIDE] == list(kept)
    assert_same(built, done, SAME_DB)
    again, report = folded(done)
    assert report.notes == ["nothing to fold"]
    assert again.to_bytes() == done.to_bytes()
    return done


def assert_stays(built: Model) -> None:
    done, report = folded(built)
    assert "Pad" in op_types(done)
    assert not any("Pad" in note for note in report.notes), report.notes
