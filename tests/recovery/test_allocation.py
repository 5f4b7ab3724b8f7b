"""Allocation of densities: the budget is met, and what remains of it is spent."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsparse.recovery.allocation import Choices, allocate


def layer(kept: list[int], loss: list[float], weight: int = 1) -> Choices:
    return Choices(np.array(kept), np.array(loss), weight)


def test_by_hand() -> None:
    """Both layers may keep 2, 4 or 8 elements; the first, whose loss falls faster, keeps more."""
    layers = [layer([2, 4, 8], [9.0, 3.0, 0.0]), layer([2, 4, 8], [2.0, 1.0, 0.0])]
    assert allocate(layers, 10) == [8, 2]
    assert allocate(layers, 12) == [8, 4]
    assert allocate(layers, 4) == [2, 2]
    assert allocate(layers, 16) == [8, 8]
    assert allocate(layers, 3) is None


def test_an_element_costs_what_its_layer_uses_it_for() -> None:
    layers = [layer([0, 10], [1.0, 0.0], weight=100), layer([0, 10], [1.0, 0.0], weight=1)]
    assert allocate(layers, 10) == [0, 10]
    assert allocate(layers, 250) == [2, 10], "what remains of the budget is spent"


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_whole_step_of_the_budget_is_left(data: st.DataObject) -> None:
    """Convex losses: a layer that could keep one element more for what is left has got it."""
    layers = []
    for _ in range(data.draw(st.integers(1, 4))):
        count = data.draw(st.integers(2, 6))
        slopes = sorted((data.draw(st.floats(0.01, 5)) for _ in range(count - 1)), reverse=True)
        loss = [float(sum(slopes[at:])) for at in range(count)]
        layers.append(layer([10 * at for at in range(count)], loss, data.draw(st.integers(1, 5))))
    most = sum(int(one.kept[-1]) * one.weight for one in layers)
    budget = data.draw(st.integers(0, most))
    found = allocate(layers, budget)
    assert found is not None
    left = budget - sum(count * one.weight for count, one in zip(found, layers, strict=True))
    assert left >= 0
    assert all(count % 10 == 0 or left < one.weight for count, one in zip(found, layers, strict=True))
    assert left < max(one.weight for one in layers) * 10
