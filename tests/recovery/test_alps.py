"""ALPS and the refit: better than magnitude, close to the best where that can be known, and sound on singular inputs."""

import itertools

import numpy as np
import pytest

from onnxsparse.ir.array_types import Floats
from onnxsparse.pruning.sparsity_pattern import GroupPattern
from onnxsparse.recovery.alps import Moments, choose, error, refit
from onnxsparse.recovery.patterns import Largest, LargestOfGroups


def correlated(columns: int, seed: int = 0) -> Floats:
    """Second moments, 1 × columns × columns, of inputs that depend on each other."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((400, columns)) @ rng.standard_normal((columns, columns))
    found: Floats = (x.T @ x / 400)[None]
    return found


def some_weight(rows: int, columns: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_normal((1, rows, columns))


def test_the_refit_is_least_squares_on_the_support() -> None:
    rng = np.random.default_rng(2)
    x, weight = rng.standard_normal((50, 6)), some_weight(3, 6)
    mask = rng.random((1, 3, 6)) < 0.5
    found = refit(weight, mask, (x.T @ x / 50)[None], ridge=0.0)
    for row in range(3):
        at = mask[0, row]
        best, *_ = np.linalg.lstsq(x[:, at], x @ weight[0, row], rcond=None)
        assert np.allclose(found[0, row, at], best)
        assert not found[0, row, ~at].any()


def test_a_refit_to_other_inputs_gives_what_is_wanted() -> None:
    """Inputs that are half of the dense ones need twice the weights."""
    h, weight = correlated(5), some_weight(4, 5)
    assert np.allclose(refit(weight, np.ones((1, 4, 5), bool), h / 4, weight @ h / 2, ridge=0.0), 2 * weight)


def test_the_kept_weights_are_close_to_the_best_of_all() -> None:
    """Against all choices of 4 of the 8 weights of one row, over 20 rows; by magnitude, the loss is much larger."""
    found = by_size = best = 0.0
    for seed in range(20):
        h, weight = correlated(8, seed), some_weight(1, 8, seed)
        power = error(weight, h)
        masks = [np.isin(np.arange(8), kept)[None, None] for kept in itertools.combinations(range(8), 4)]
        masks += [choose(weight, Moments.of(h), Largest(4)), Largest(4)(np.abs(weight))]
        *every, mine, plain = (error(refit(weight, mask, h, ridge=0.0) - weight, h) / power for mask in masks)
        found, by_size, best = found + mine, by_size + plain, best + min(every)
    assert best <= found < 2 * best
    assert by_size > 1.5 * found


def test_groups_share_one_number_of_kept_weights() -> None:
    """Of two groups, the one whose inputs are strong keeps more."""
    h = np.stack([np.eye(6) * 100, np.eye(6)])
    mask = choose(np.concatenate([some_weight(1, 6), some_weight(1, 6, 5)]), Moments.of(h), Largest(6))
    assert mask.sum() == 6
    assert mask[0].sum() > mask[1].sum()


def test_zeros_stay_zeros() -> None:
    weight = some_weight(4, 6)
    weight[0, :, ::2] = 0
    mask = choose(weight, Moments.of(correlated(6)), Largest(10, weight != 0))
    assert mask.sum() == 10
    assert not mask[0, :, ::2].any()


ALIVE = np.array([1.0, 1, 0, 1, 1, 1])


@pytest.mark.parametrize("h", [np.zeros((1, 6, 6)), np.ones((1, 6, 6)), correlated(6) * ALIVE * ALIVE[:, None]])
def test_dead_columns_and_constant_inputs_give_finite_weights(h: Floats) -> None:
    weight = some_weight(3, 6)
    mask = choose(weight, Moments.of(h), Largest(9))
    assert mask.sum() == 9
    assert np.isfinite(refit(weight, mask, h)).all()


def test_two_of_four_inputs_at_each_kernel_position() -> None:
    """8 inputs at 3 positions: of each 4 inputs at a position the two largest."""
    magnitudes = np.random.default_rng(0).random((1, 2, 24))
    mask = LargestOfGroups(GroupPattern(2, 4), 8)(magnitudes)
    split, kept = magnitudes.reshape(2, 2, 4, 3), mask.reshape(2, 2, 4, 3)
    assert (kept.sum(2) == 2).all()
    assert (np.where(kept, split, 9).min(2) >= np.where(kept, 0, split).max(2)).all()


@pytest.mark.parametrize("seed", range(20))
def test_an_error_that_fewer_samples_than_columns_do_not_see_is_not_negative(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal((3, 12))
    unseen = np.linalg.svd(samples)[2][3:]
    difference = (rng.standard_normal((4, 9)) @ unseen)[None]
    assert 0 <= error(difference, (samples.T @ samples)[None]) < 1e-12
