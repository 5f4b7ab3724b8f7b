"""The two SSDs of the paper as files, pruned in several ways, and their cost on the variants of cv22."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx

from benchmarks.paper.section import Context
from onnxsparse import Model, Prune, layers, load
from onnxsparse.analysis.layer import Totals
from onnxsparse.cost.backends.layer_model import FileBackend
from onnxsparse.cost.estimate import Deployment, deploy_on
from onnxsparse.cost.registry import find_backend
from sample_models.build import HE, LARGE, SMALL, TRAINED, build

WIDTHS = {"small": SMALL, "large": LARGE}

MAGNITUDES = {
    "trained": (TRAINED, 0),
    "trained, draw 2": (TRAINED, 1),
    "trained, draw 3": (TRAINED, 2),
    "He-normal": (HE, 0),
}
"""How large weights are in each layer (sample_models/build.py), and the seed: magnitudes of trained layers scatter widely."""

WAYS: dict[str, dict[str, Any]] = {
    "the same in every layer": {"scope": "layer", "score": "l1", "protect": "none"},
    "by default score": {},
    "global L1": {"score": "l1", "cost_exponent": 0.0, "protect": "none"},
}
"""Options of `prune`, whose default leaves each layer at least a fifth of the density that the target leaves the model."""


@dataclass(frozen=True)
class Published:
    """A row of the paper: sparsity_op as a share, GMACs that pruning leaves, latency, coefficients and activations in memory."""

    params_m: float
    gmacs: float
    sparsity_op: float
    gmacs_left: float
    latency_ms: float
    mem_p_mb: float
    mem_a_mb: float


PAPER = {
    "small": Published(5.4, 41.14, 0.80, 8.23, 35.03, 3.08, 12.72),
    "large": Published(22, 163.76, 0.95, 8.19, 84.51, 3.41, 21.08),
}


def path_of(context: Context, size: str, magnitudes: str) -> Path:
    """The file of a dense detector; made at its first use."""
    path = context.work / f"ssd_{size}_{magnitudes}.onnx"
    if not path.exists():
        drawn, seed = MAGNITUDES[magnitudes]
        onnx.save(build(WIDTHS[size], seed, drawn), path)
    return path


def pruned(path: Path, **options: Any) -> tuple[Model, Totals]:
    """A detector after `prune`, and its totals."""
    model = load(path)
    Prune(**options).run(model)
    return model, layers(model).totals


@cache
def variants() -> tuple[FileBackend, ...]:
    """cv22 and the targets that explain the same measurements."""
    found = find_backend("cv22")
    assert isinstance(found, FileBackend)
    return tuple(found.variants())


def costs(model: Model) -> dict[str, Deployment]:
    """Variant → the predicted cost."""
    return {backend.name: deploy_on(model, backend) for backend in variants()}


def coefficient_ends(model: Model, backend: FileBackend) -> Iterator[float]:
    """mem_p in MB at both ends of each constant of the coefficient encoding."""
    for name, number in backend.ranges().items():
        if name in ("bytes_per_nonzero", "bits_per_weight"):
            for value in (number.low, number.high):
                yield deploy_on(model, backend.with_value(name, value)).mem_p_mb
