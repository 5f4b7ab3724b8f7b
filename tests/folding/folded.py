"""Folding a copy of a model, and checking that it computes the same."""

import numpy as np

from onnxsparse import Fold, Model, compare
from onnxsparse.analysis.checker import first_fault
from onnxsparse.pipeline.base import StepReport


def folded(built: Model, **options: bool) -> tuple[Model, StepReport]:
    done = built.copy()
    report = Fold(**options).run(done)
    assert first_fault(done) is None
    return done, report


def assert_same(a: Model, b: Model, min_sqnr_db: float = 100) -> None:
    result = compare(a, b)
    assert all(o.sqnr_db is not None and o.sqnr_db >= min_sqnr_db for o in result.outputs), result


def statistics(channels: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    named = {"bn.weight": rng.random(channels) + 0.5, "bn.bias": rng.standard_normal(channels)}
    named |= {"bn.mean": rng.standard_normal(channels), "bn.var": rng.random(channels) + 0.1}
    return {name: values.astype(np.float32) for name, values in named.items()}


BN = "bn.weight bn.bias bn.mean bn.var"
