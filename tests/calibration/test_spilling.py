"""Values of a walk that go to a temporary file."""

import numpy as np

from onnxsparse.calibration.walk import Store
from onnxsparse.ir.mapped import let_go


def test_spilled_values_are_the_same_after_they_were_let_go() -> None:
    store = Store(budget_bytes=0)
    values = [np.arange(3000, dtype=np.float32) + at for at in range(3)]
    kept = [store.keep(each) for each in values]
    assert all(isinstance(each, np.memmap) for each in kept)
    for each in kept:
        let_go(each)
    assert all(np.array_equal(a, b) for a, b in zip(values, kept, strict=True))


def test_values_in_memory_stay() -> None:
    values = np.arange(10.0)
    assert Store(budget_bytes=1000).keep(values) is values
    let_go(values)
    assert values.tolist() == list(range(10))
