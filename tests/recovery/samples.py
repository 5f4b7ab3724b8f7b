"""Inputs to learn from, and how close a changed model is to its original on others."""

import numpy as np
from numpy.typing import NDArray

from onnxsparse import Model, compare
from onnxsparse.runtime.samples import Samples


def inputs(count: int, shape: str, seed: int = 0) -> NDArray[np.float32]:
    """Correlated inputs: mixtures of a few patterns, as real activations are."""
    rng = np.random.default_rng(seed)
    size = tuple(map(int, shape.split("x")))
    patterns = np.random.default_rng(1).standard_normal((20, int(np.prod(size))))
    found: NDArray[np.float32] = (rng.standard_normal((count, 20)) @ patterns).reshape(count, *size[1:]).astype(np.float32)
    return found


def level(original: Model, changed: Model, inputs: NDArray[np.float32]) -> float:
    """The SQNR of the only output in dB on `inputs`, one sample each."""
    (name,) = (value.name for value in original.proto.graph.input)
    found = compare(original, changed, Samples([{name: x[None]} for x in inputs])).outputs[0].sqnr_db
    assert found is not None
    return found
