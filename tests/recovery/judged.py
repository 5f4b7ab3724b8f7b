"""How close a changed model is to its original."""

import numpy as np
from numpy.typing import NDArray

from onnxsparse import Model, compare
from onnxsparse.runtime.samples import Samples


def level(original: Model, changed: Model, inputs: NDArray[np.float32]) -> float:
    """The SQNR of the only output in dB on `inputs`, one sample each."""
    (name,) = (value.name for value in original.proto.graph.input)
    found = compare(original, changed, Samples([{name: x[None]} for x in inputs])).outputs[0].sqnr_db
    assert found is not None
    return found
