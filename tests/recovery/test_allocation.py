"""Allocation of densities: the budget is met, and what remains of it is spent."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsparse.recovery.allocation import Choices, allocate, by_table, lost, used


def layer(kept: list[int], loss: list[float], weight: int = 1) -> Choices:
    return Choices(np.array(kept), np.array(loss), np.array(kept) * weight)


@pytest.mark.parametrize("convex", [True, False])
def test_by_hand(convex: bool) -> None:
    """Both layers may keep 2, 4 or 8 elements; the first, whose loss falls faster, keeps more."""
    layers = [layer([2, 4, 8], [9.0, 3.0, 0.0]), layer([2, 4, 8], [2.0, 1.0, 0.0])]
    assert allocate(layers, 10, convex=convex) == [8, 2]
    assert allocate(layers, 12, convex=convex) == [8, 4]
    assert allocate(layers, 4, convex=convex) == [2, 2]
    assert allocate(layers, 16, convex=convex) == [8, 8]
    assert allocate(layers, 3, convex=convex) is None


@pytest.mark.parametrize("convex", [True, False])
def test_an_element_costs_what_its_layer_uses_it_for(convex: bool) -> None:
    layers = [layer([0, 10], [1.0, 0.0], weight=100), layer([0, 10], [1.0, 0.0], weight=1)]
    assert allocate(layers, 10, convex=convex) == [0, 10]
    assert allocate(layers, 250, convex=convex) == [2, 10], "what remains of the budget is spent"


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_whole_step_of_the_budget_is_left(data: st.DataObject) -> None:
    """Convex losses: a layer that could keep one element more for what is left has got it."""
    layers, weights = [], []
    for _ in range(data.draw(st.integers(1, 4))):
        count = data.draw(st.integers(2, 6))
        slopes = sorted((data.draw(st.floats(0.01, 5)) for _ in range(count - 1)), reverse=True)
        loss = [float(sum(slopes[at:])) for at in range(count)]
        weights.append(data.draw(st.integers(1, 5)))
        layers.append(layer([10 * at for at in range(count)], loss, weights[-1]))
    most = sum(int(one.cost[-1]) for one in layers)
    budget = data.draw(st.integers(0, most))
    found = allocate(layers, budget, convex=data.draw(st.booleans()))
    assert found is not None
    left = budget - sum(count * weight for count, weight in zip(found, weights, strict=True))
    assert left >= 0
    assert all(count % 10 == 0 or left < weight for count, weight in zip(found, weights, strict=True))
    assert left < max(weights) * 10


def test_a_layer_whose_cost_has_a_step_takes_all_that_is_free() -> None:
    """Below 8 elements, the first layer is bound by something else, and its elements cost nothing."""
    flat = Choices(np.array([2, 4, 8, 16]), np.array([8.0, 4.0, 2.0, 0.0]), np.array([5, 5, 5, 20]))
    assert allocate([flat, layer([1, 2], [1.0, 0.5])], 7, convex=False) == [8, 2]
    assert allocate([flat, layer([1, 2], [1.0, 0.5])], 22, convex=False) == [16, 2]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_tables_find_the_best_choices(data: st.DataObject) -> None:
    """Against all combinations, for costs in any steps; of whole choices, before the rest is spent."""
    layers = []
    for _ in range(data.draw(st.integers(1, 3))):
        count = data.draw(st.integers(1, 4))
        loss = sorted((data.draw(st.floats(0, 5)) for _ in range(count)), reverse=True)
        cost = np.cumsum([data.draw(st.integers(0, 9)) for _ in range(count)])
        layers.append(Choices(np.arange(1, count + 1), np.array(loss), cost))
    budget = data.draw(st.integers(sum(int(one.cost[0]) for one in layers), sum(int(one.cost[-1]) for one in layers) + 3))
    every = itertools.product(*(range(one.kept.size) for one in layers))
    best = min(lost(layers, found) for found in every if used(layers, found) <= budget)
    found = by_table(layers, budget)
    assert used(layers, found) <= budget
    assert lost(layers, found) == pytest.approx(best)
