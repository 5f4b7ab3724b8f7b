"""The order of channels and its cost, against least squares done anew; and how many channels each group gives up."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxsparse import Model
from onnxsparse.channels.allocation import Allocation, LossCurve, allocate, steps
from onnxsparse.channels.groups import Group, solve
from onnxsparse.channels.selection import Choice
from onnxsparse.recovery.elimination import NONE, Reader, eliminate
from tests.graphs import model, node

Floats = NDArray[np.float64]

PAIRS = np.array([[0, 0, 1, 1, NONE, 2, 2, 3, 3]])
"""Nine columns of four channels; one column belongs to none."""


def moments(columns: int, seed: int) -> Floats:
    mixed = np.random.default_rng(seed).standard_normal((50, columns)) @ np.random.default_rng(seed + 1).standard_normal(
        (columns, columns)
    )
    found: Floats = (mixed.T @ mixed / 50)[None]
    return found


def least_error(weight: Floats, h: Floats, gone: NDArray[np.bool_]) -> float:
    """The error of the best weights whose columns `gone` are zero."""
    kept = np.flatnonzero(~gone)
    best = np.zeros_like(weight)
    best[:, kept] = np.linalg.solve(h[np.ix_(kept, kept)], (weight @ h)[:, kept].T).T
    return float(np.trace((weight - best) @ h @ (weight - best).T))


def readers(*seeds: int) -> tuple[list[Reader], list[tuple[Floats, Floats]]]:
    """Layers of 5 rows that read PAIRS, none of whose rows is a channel's own; and their weights and moments."""
    parts = [(np.random.default_rng(seed).standard_normal((5, 9)), moments(9, seed + 10)) for seed in seeds]
    return [Reader.of(w[None], h, PAIRS, np.full((1, 5), NONE), ridge=0) for w, h in parts], [(w, h[0]) for w, h in parts]


@pytest.mark.parametrize("seeds", [(0,), (1, 2)])
def test_the_order_and_its_errors_are_those_of_least_squares(seeds: tuple[int, ...]) -> None:
    made, parts = readers(*seeds)

    def total(removed: tuple[int, ...]) -> float:
        gone = np.isin(PAIRS[0], removed)
        return sum(least_error(w, h, gone) / float(np.trace(w @ h @ w.T)) for w, h in parts)

    found = eliminate(made, 4, marks=(2,))
    order: tuple[int, ...] = ()
    for _ in range(3):
        order += (min(set(range(4)) - set(order), key=lambda c: total((*order, c))),)
    assert tuple(found.order[:3]) == order
    assert found.errors == pytest.approx([total(order[:n]) for n in range(4)])
    assert sorted(found.order) == [0, 1, 2, 3]


def test_refitted_weights_are_the_best_ones() -> None:
    made, parts = readers(3)
    found = eliminate(made, 4, marks=(2,))
    (weight,), (dense, h) = found.refitted[2], parts[0]
    gone = np.isin(PAIRS[0], found.order[:2])
    assert not weight[0][:, gone].any()
    assert float(np.trace((weight[0] - dense) @ h @ (weight[0] - dense).T)) == pytest.approx(least_error(dense, h, gone))


def test_a_row_that_goes_with_its_channel_costs_nothing() -> None:
    """Channel 0 is read by row 0 alone, which it produces: removing it is free."""
    weight = np.zeros((1, 2, 2))
    weight[0] = [[5, 1], [0, 1]]
    reader = Reader.of(weight, np.eye(2)[None], np.array([[0, 1]]), np.array([[0, NONE]]), ridge=0)
    found = eliminate([reader], 2)
    assert found.order[0] == 0
    assert found.errors[1] == 0


def test_dead_inputs_cost_nothing_and_give_finite_numbers() -> None:
    h = moments(9, 4)
    h[:, PAIRS[0] == 2] = h[:, :, PAIRS[0] == 2] = 0
    reader = Reader.of(np.random.default_rng(5).standard_normal((1, 5, 9)), h, PAIRS, np.full((1, 5), NONE))
    found = eliminate([reader], 4)
    assert found.order[0] == 2
    assert np.isfinite(found.errors).all()


def curves(built: Model, *levels: float) -> list[LossCurve]:
    """Losses that grow with the square of the share of removed channels, times a level for each group."""
    found = []
    for group, level in zip(solve(built).groups, levels, strict=True):
        share = np.arange(group.classes.size) / group.classes.size
        found.append(LossCurve(group, group.classes, level * share**2))
    return found


def widths(built: Model, chosen: NDArray[np.int64]) -> list[int]:
    return [int(np.isin(group.classes, chosen, invert=True).sum()) for group in solve(built).groups]


def convolutions() -> Model:
    return model_of((3, 16, 16, 16, 4))


def model_of(chain_sizes: tuple[int, ...]) -> Model:
    names = [f"w{i}" for i in range(len(chain_sizes) - 1)]
    values = ["x", *(f"h{i}" for i in range(1, len(names))), "y"]
    nodes = [node("Conv", f"{a} {w}", b) for a, w, b in zip(values, names, values[1:], strict=False)]
    shapes = {w: f"{b}x{a}x1x1" for w, (a, b) in zip(names, itertools.pairwise(chain_sizes), strict=True)}
    return model(nodes, {"x": f"1x{chain_sizes[0]}x4x4"}, ["y"], shapes)


class TestAllocation:
    def test_a_sensitive_group_stays(self) -> None:
        built = convolutions()
        solution = solve(built)
        chosen = allocate(solution, curves(built, 1, 1000, 1), Choice(0.5, round_to=1), macs=int(0.6 * total(built)))
        first, second, third = widths(built, chosen)
        assert second == 16
        assert first < 16
        assert third < 16

    def test_the_target_is_met_and_nothing_is_cut_in_vain(self) -> None:
        built = convolutions()
        solution, most = solve(built), int(0.55 * total(built))
        found = Allocation(solution, curves(built, 1, 2, 3), Choice(0.5, round_to=1), by_macs=True)
        left = solution.macs(solution.removal(found.run(total(built) - most)))
        assert left <= most
        for index, step in enumerate(found.at):
            found.at[index] = step - 1
            assert not step or solution.macs(solution.removal(found.chosen())) > most
            found.at[index] = step

    def test_of_all_channels_the_cheapest_go(self) -> None:
        built = convolutions()
        chosen = allocate(solve(built), curves(built, 1, 1, 1000), Choice(0.25, round_to=4), macs=None)
        assert sorted(widths(built, chosen)) == [8, 12, 16]
        assert widths(built, chosen)[2] == 16

    def test_a_target_out_of_reach_takes_all(self) -> None:
        built = convolutions()
        chosen = allocate(solve(built), curves(built, 1, 1, 1), Choice(0.5, round_to=1, floor=2, cap=0.75), macs=1)
        assert widths(built, chosen) == [4, 4, 4]


def total(built: Model) -> int:
    solution = solve(built)
    return solution.macs(solution.removal(np.zeros(0, np.int64)))


@pytest.mark.parametrize(
    ("count", "choice", "found"),
    [
        (16, Choice(0.5), [0, 8]),
        (20, Choice(0.5), [0, 4, 12]),
        (6, Choice(0.5), [0]),
        (4, Choice(0.5, round_to=1), [0, 1, 2, 3]),
        (16, Choice(0.5, round_to=4, cap=0.5), [0, 4, 8]),
        (16, Choice(0.5, round_to=4, floor=12), [0, 4]),
    ],
)
def test_steps(count: int, choice: Choice, found: list[int]) -> None:
    assert steps(Group("g", np.arange(count), 1, ()), choice) == found


def test_wide_groups_have_few_steps() -> None:
    assert len(steps(Group("g", np.arange(1000), 1, ()), Choice(0.5, round_to=1))) <= 66
