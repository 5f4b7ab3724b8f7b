"""Scales and integers of weights, by hand and over generated ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsparse.ir.weights import Array
from onnxsparse.quantization.write.grid import Floats, Grid
from onnxsparse.quantization.write.weights import Sharing, quantize_weight, weight_scale
from tests.graphs import weight

NARROW = Grid(narrow=True)


SHARINGS = [Sharing(), Sharing(0), Sharing(1), Sharing(0, 2), Sharing(1, 5), Sharing(2, 3)]


def spread(scale: Floats, sharing: Sharing) -> Floats:
    """The scale of every element of a weight with three axes."""
    if sharing.axis is None:
        return scale
    if sharing.block is None:
        return np.expand_dims(scale, [i for i in range(3) if i != sharing.axis])
    return np.repeat(scale, sharing.block, sharing.axis)


class TestWeights:
    ROWS = np.array([[1, -127, 3], [0.5, 0.25, 0], [0, 0, 0]], np.float32)

    def test_a_scale_for_every_channel_by_hand(self) -> None:
        scale = weight_scale(self.ROWS, Sharing(0), NARROW)
        assert scale.tolist() == pytest.approx([1, 0.5 / 127, 1])  # a row of zeros has the tensor's
        found = quantize_weight(self.ROWS, scale, Sharing(0), NARROW)
        assert found.integers.tolist() == [[1, -127, 3], [127, 64, 0], [0, 0, 0]]  # 63.5 goes to 64
        assert found.integers.dtype == np.int8
        assert found.zeros == 4

    def test_one_scale_by_hand(self) -> None:
        scale = weight_scale(self.ROWS, Sharing(), NARROW)
        assert scale.shape == ()
        assert quantize_weight(self.ROWS, scale, Sharing(), NARROW).integers.tolist() == [[1, -127, 3], [0, 0, 0], [0, 0, 0]]

    def test_columns(self) -> None:
        assert weight_scale(self.ROWS, Sharing(1), NARROW).tolist() == pytest.approx([1 / 127, 1, 3 / 127])

    @pytest.mark.parametrize("sharing", SHARINGS)
    def test_nothing_to_quantize(self, sharing: Sharing) -> None:
        empty = np.zeros((4, 5, 0), np.float32) if sharing.axis != 2 else np.zeros((0, 5, 3), np.float32)
        found = quantize_weight(empty, weight_scale(empty, sharing, NARROW), sharing, NARROW)
        assert found.integers.shape == empty.shape

    def test_all_zeros_have_a_scale_for_a_bias_as_fine_as_a_float(self) -> None:
        scale = weight_scale(np.zeros((2, 3), np.float32), Sharing(0), NARROW)
        assert scale.tolist() == [2.0**-24] * 2

    def test_powers_of_two_clip_where_that_costs_less(self) -> None:
        """127.5 of steps of 1 clips half a step of one weight; steps of 2 would round all others worse."""
        near = np.array([[127.4, *range(1, 100, 2)]], np.float32)
        far = np.array([[250.0, *range(1, 100, 2)]], np.float32)
        grid = Grid(narrow=True, power_of_two=True)
        assert weight_scale(near, Sharing(0), grid).tolist() == [1]
        assert weight_scale(far, Sharing(0), grid).tolist() == [2]

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 10**6), st.sampled_from(SHARINGS), st.booleans(), st.floats(1e-6, 1e4))
    def test_no_integer_is_off_by_more_than_half_a_step_and_zeros_stay(
        self, seed: int, sharing: Sharing, power: bool, size: float
    ) -> None:
        given = (weight("4x5x3", seed) * size).astype(np.float32)
        given[np.random.default_rng(seed).random(given.shape) < 0.3] = 0
        grid = Grid(narrow=True, power_of_two=power)
        scale = weight_scale(given, sharing, grid)
        integers: Array = quantize_weight(given, scale, sharing, grid).integers
        step = spread(scale, sharing)
        off = np.abs(integers.astype(np.float64) * step - given)
        inside = np.abs(given) <= 127.001 * step
        assert (off[inside] <= (0.5001 * np.broadcast_to(step, given.shape))[inside]).all()
        assert inside.all() or power
        assert not integers[given == 0].any()
        assert integers.min() >= -127
