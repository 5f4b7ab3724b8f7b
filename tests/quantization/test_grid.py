"""Integers for floats: grids against tables worked out by hand and against onnxruntime; weights, biases, target files."""

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onnxsparse import ParamError
from onnxsparse.calibration.methods import Range
from onnxsparse.ir.model import Model
from onnxsparse.quantization.plan.placement import place
from onnxsparse.quantization.plan.scales import Choices
from onnxsparse.quantization.plan.target import load_target, names
from onnxsparse.quantization.write.grid import Floats, Grid
from onnxsparse.quantization.write.qdq import write_integers
from onnxsparse.quantization.write.weights import (
    LARGEST_FITTED_BIAS,
    quantize_bias,
    wide_enough,
)
from onnxsparse.runtime.session import runner
from tests.graphs import Array, model, node, weight

INT8 = Grid()
UINT8 = Grid(signed=False, symmetric=False)
NARROW = Grid(narrow=True)
OFFSET = Grid(symmetric=False)
GRIDS = {
    "int8": INT8,
    "uint8": UINT8,
    "offset int8": OFFSET,
    "int16": Grid(16),
    "uint16": Grid(16, signed=False, symmetric=False),
}


def reals(grid: Grid, values: Array, scale: float, zero_point: int) -> Array:
    """`values` quantized and dequantized."""
    return (grid.integers(values, scale, zero_point).astype(np.float64) - zero_point) * scale


class TestGrids:
    @pytest.mark.parametrize(
        ("grid", "low", "high", "scale", "zero_point"),
        [
            (INT8, -1, 127, 1, 0),
            (INT8, -254, 10, 2, 0),
            (INT8, 63.5, 127, 1, 0),  # zero is in every range
            (UINT8, 0, 255, 1, 0),
            (UINT8, -1, 254, 1, 1),
            (UINT8, -51, 0, 0.2, 255),
            (UINT8, 5, 51, 0.2, 0),
            (UINT8, -10.4, 244.6, 1, 10),  # the zero point is a whole number
            (OFFSET, 0, 255, 1, -128),
            (OFFSET, -255, 0, 1, 127),
            (NARROW, -127, 3, 1, 0),
            (Grid(16), -1, 32767, 1, 0),
            (Grid(16, signed=False, symmetric=False), -35, 65500, 1, 35),
            (Grid(power_of_two=True), -1, 127, 1, 0),
            (Grid(power_of_two=True), -1, 128, 2, 0),
            (Grid(power_of_two=True), -0.3, 0.3, 1 / 256, 0),  # 0.3 / 127 = 1 / 423
        ],
    )
    def test_parameters(self, grid: Grid, low: float, high: float, scale: float, zero_point: int) -> None:
        found = grid.parameters(low, high)
        assert found[0] == float(np.float32(scale))
        assert found[1] == zero_point

    @pytest.mark.parametrize(
        ("grid", "integers"),
        [
            (INT8, [-128, -128, -127, -2, -2, 0, 0, 2, 2, 127, 127]),
            (NARROW, [-127, -127, -127, -2, -2, 0, 0, 2, 2, 127, 127]),
        ],
    )
    def test_halves_go_to_even_and_ends_saturate(self, grid: Grid, integers: list[int]) -> None:
        values = np.array([-300, -128, -127, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 127, 200])
        assert grid.integers(values, 1.0).tolist() == integers
        assert reals(grid, values, 1.0, 0).tolist() == integers

    def test_a_zero_point_moves_and_saturates(self) -> None:
        values = np.array([-3.0, -1.0, 0, 0.5, 127])
        assert UINT8.integers(values, 0.5, 3).tolist() == [0, 1, 3, 4, 255]
        assert reals(UINT8, values, 0.5, 3).tolist() == [-1.5, -1, 0, 0.5, 126]
        assert UINT8.span(0.5, 3) == (-1.5, 126)
        assert NARROW.span(0.5, 0) == (-63.5, 63.5)

    @pytest.mark.parametrize(("scale", "exponent"), [(1.0, 0), (0.25, 2), (8.0, -3), (0.3, None), (2.0**-20, 20)])
    def test_exponents(self, scale: float, exponent: int | None) -> None:
        assert Grid.exponent(scale) == exponent

    @pytest.mark.parametrize("largest", [1e-45, 1e-38])
    def test_no_scale_is_zero_even_where_onnxruntime_flushes_small_numbers(self, largest: float) -> None:
        for grid in (INT8, UINT8, Grid(power_of_two=True)):
            scale, _ = grid.parameters(0, largest)
            assert np.float32(scale) >= np.finfo(np.float32).tiny

    def test_what_was_always_zero_counts_as_up_to_one(self) -> None:
        assert INT8.parameters(0, 0) == (float(np.float32(1 / 127)), 0)
        assert UINT8.parameters(0, 0) == (float(np.float32(1 / 255)), 0)

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(sorted(GRIDS)), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.booleans())
    @example("int16", 0.0, 0.0, True)
    def test_a_range_is_covered_and_zero_is_exact(self, kind: str, a: float, b: float, power: bool) -> None:
        grid = GRIDS[kind]
        if power and grid.symmetric:
            grid = Grid(grid.bits, power_of_two=True)
        low, high = min(a, b), max(a, b)
        scale, zero_point = grid.parameters(low, high)
        first, last = grid.span(scale, zero_point)
        assert first - 0.51 * scale <= min(low, 0) <= max(high, 0) <= last + 0.51 * scale
        assert reals(grid, np.zeros(1), scale, zero_point) == 0
        assert scale == float(np.float32(scale))
        if grid.power_of_two:
            assert Grid.exponent(scale) is not None
            largest = max(abs(low), abs(high)) or 1  # what was always zero counts as up to one
            assert scale == np.finfo(np.float32).tiny or largest > 0.49 * last  # no larger than it must be

    @pytest.mark.parametrize("kind", GRIDS)
    def test_onnxruntime_computes_the_same_integers(self, kind: str) -> None:
        grid = GRIDS[kind]
        values = np.concatenate([weight("4000") * 3, weight("100", 1) * 1e4, np.arange(-300, 300, dtype=np.float32) / 2])
        scale, zero_point = grid.parameters(-7.3, 9.1)
        found = quantized_by_onnxruntime(values.astype(np.float32), grid, scale, zero_point)
        # a quotient that float32 rounds to a half goes the other way; of 16 bits, float32 has eight left for the fraction
        assert np.count_nonzero(found != grid.integers(values, scale, zero_point)) <= (8 if grid.bits == 16 else 0)
        assert np.array_equal(quantized_by_onnxruntime(values, grid, 0.5, 0), grid.integers(values, 0.5))


def quantized_by_onnxruntime(values: Array, grid: Grid, scale: float, zero_point: int) -> Array:
    domain = "com.microsoft" if grid.bits == 16 else ""
    parameters = {"s": np.float32(scale), "z": np.array(zero_point, grid.dtype)}
    nodes = [node("QuantizeLinear", "x s z", "y", domain=domain)]
    built = model(nodes, {"x": str(values.size)}, ["y"], parameters, domains={"com.microsoft": 1})
    built.proto.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="y"))
    return runner(built).run({"x": values})["y"]


class TestBiases:
    def test_by_hand(self) -> None:
        found = quantize_bias(np.array([1, -0.3], np.float32), np.array([0.5, 0.25]), 0.5)
        assert found.integers.tolist() == [4, -2]
        assert found.integers.dtype == np.int32
        assert found.scale.tolist() == [0.25, 0.125]

    def test_groups_share_the_scales(self) -> None:
        """Outputs of a grouped ConvTranspose: group 0's first and second, then group 1's."""
        found = quantize_bias(np.array([1, 1, 2, 2], np.float32), np.array([0.5, 0.25]), 1.0)
        assert found.integers.tolist() == [2, 4, 4, 8]
        assert found.scale.tolist() == [0.5, 0.25, 0.5, 0.25]

    def test_a_scale_is_raised_where_the_bias_is_too_large_and_nowhere_else(self) -> None:
        bias: Floats = np.array([1.0, -1000.0, 0.0])
        scale = wide_enough(np.array([1e-6, 1e-6, 1e-6]), bias, 1e-2)
        assert scale[[0, 2]].tolist() == [1e-6, 1e-6]
        integers = quantize_bias(bias, scale, 1e-2).integers
        assert integers[0] == pytest.approx(10**8)
        assert integers[1] * scale[1] * 1e-2 == pytest.approx(-1000, rel=1e-6)
        assert -LARGEST_FITTED_BIAS <= integers[1] < -0.99 * LARGEST_FITTED_BIAS


def outputs(built: Model, feed: dict[str, Array]) -> Array:
    found: Array = runner(built).run(feed)["y"]
    return found


def stored(built: Model, name: str) -> Array:
    found: Array = built.weights[name]
    return found


@functools.cache
def overflowing(op: str) -> Model:
    """Outputs of tiny weights and a bias of 50 beside ordinary ones; all products have one sign, so that their sum is large."""
    big = np.abs(weight("8x16x3x3")) if op == "Conv" else np.abs(weight("16x4x3x3"))
    tiny = [1, 3] if op == "Conv" else [1]
    index = (tiny,) if op == "Conv" else (slice(None), tiny)
    big[index] *= np.float32(3e-6)
    bias = np.array([0.5, 1, -0.5, 50, 0, 50, 1, 50], np.float32)
    return model([node(op, "x w b", "y", group=1 if op == "Conv" else 2)], {"x": "1x16x6x6"}, ["y"], {"w": big, "b": bias})


@pytest.mark.parametrize(("op", "target"), [("Conv", "cv22"), ("ConvTranspose", "cv22"), ("Conv", "onnxruntime-x86")])
def test_a_bias_that_would_overflow_still_fits_and_so_does_the_sum_with_it(op: str, target: str) -> None:
    built = overflowing(op)
    feed = {"x": np.abs(weight("1x16x6x6", 7))}
    expected = outputs(built, feed)
    ranges = {"x": Range(0, float(feed["x"].max())), "y": Range(float(expected.min()), float(expected.max()))}
    done = write_integers(place(built, load_target(target), {}), Choices(ranges)).model
    scales = stored(done, "b_scale").astype(np.float64)
    assert (np.abs(stored(done, "b") * scales - stored(built, "b")) <= 0.51 * scales).all()
    assert np.abs(outputs(done, feed) - expected).max() < 2.5 * stored(done, "y_scale")
    # the largest sums in 32-bit integers, before and after the bias is added; a step of the bias is one of the products
    sums, steps = (expected - stored(built, "b").reshape(-1, 1, 1), expected), scales.reshape(-1, 1, 1)
    assert all((np.abs(total / steps) < 2**31).all() for total in sums)


@pytest.mark.parametrize(("shape", "stays"), [("6", False), ("1", True), ("1x6", True), ("", True)])
def test_biases_of_a_gemm_are_integers_where_there_is_one_an_output(shape: str, stays: bool) -> None:
    built = model([node("Gemm", "x w b", "y")], {"x": "2x4"}, ["y"], {"w": "4x6", "b": weight(shape)})
    done = write_integers(place(built, load_target("cv22"), {}), Choices({"x": Range(-3, 3), "y": Range(-9, 9)})).model
    assert done.weights["b"].dtype == (np.float32 if stays else np.int32)
    feed = {"x": weight("2x4", 5).clip(-3, 3)}
    assert np.abs(outputs(done, feed) - outputs(built, feed)).max() < 0.2


@pytest.mark.parametrize("rows", [5, 6])
def test_the_bias_of_a_gemm_whose_weight_is_on_the_left_stays_float(rows: int) -> None:
    """The weight makes rows, the bias is added to columns."""
    built = model([node("Gemm", "w x b", "y")], {"x": "4x6"}, ["y"], {"w": f"{rows}x4", "b": "6"})
    done = write_integers(place(built, load_target("cv22"), {}), Choices({"x": Range(-3, 3), "y": Range(-9, 9)})).model
    assert done.weights["b"].dtype == np.float32
    assert done.weights["w"].dtype == np.int8
    assert done.weights.shape("w_scale") == (rows,)


MINE = """
format = 1
name = "mine"
integer_ops = ["Conv"]
[activations]
bits = 16
symmetric = true
[weights]
per_channel = false
"""


class TestTargets:
    def test_those_that_come_with_the_package(self) -> None:
        assert names() == ["cv22", "onnxruntime-x86", "onnxruntime-x86-avx2"]
        cv22, x86, avx2 = map(load_target, names())
        assert (cv22.activations.grid, cv22.weights.grid) == (INT8, NARROW)
        assert (x86.activations.grid, x86.weights.grid) == (UINT8, NARROW)
        assert (avx2.weights.grid.low, avx2.weights.grid.high, str(avx2.weights.grid.dtype)) == (-63, 63, "int8")
        # two products of the largest integers fit into 16 bits, which two of 8 bits do not
        assert [2 * t.activations.grid.high * t.weights.grid.high < 2**15 for t in (x86, avx2)] == [False, True]
        assert cv22.public and cv22.inferred  # what is known and what is a guess, told apart

    def test_a_file_of_ones_own(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text(MINE)
        found = load_target(str(tmp_path / "mine.toml"))
        assert found.activations.grid == Grid(16)
        assert not found.weights.per_channel
        assert found.integer_ops == ("Conv",)
        assert found.absorbs == ()

    def test_options_change_what_they_name_and_nothing_else(self) -> None:
        cv22 = load_target("cv22")
        assert cv22.changed() == cv22
        wide = cv22.changed(activation_bits=16, power_of_two="weights")
        assert (wide.activations.grid, wide.weights.grid) == (Grid(16), Grid(narrow=True, power_of_two=True))
        assert cv22.changed(power_of_two="all").changed(power_of_two="none") == cv22
        assert cv22.changed(power_of_two="activations").activations.grid == Grid(power_of_two=True)
        assert cv22.changed(weight_bits=16, per_channel=False).weights.grid == Grid(16, narrow=True)

    def test_powers_of_two_have_no_zero_points(self) -> None:
        with pytest.raises(ParamError, match="onnxruntime-x86 has activations with zero points, and scales that are powers"):
            load_target("onnxruntime-x86").changed(power_of_two="all")
        assert load_target("onnxruntime-x86").changed(power_of_two="weights").weights.power_of_two

    @pytest.mark.parametrize(
        ("old", "new", "line"),
        [
            ('name = "mine"', "", "name: Field required"),
            ('name = "mine"', 'name = "mine"\nspeed = 3', "speed: Unexpected keyword argument"),
            ("bits = 16", "bits = 4", "activations.bits: Input should be 8 or 16"),
            ("bits = 16", "bit = 16", "activations.bit: Unexpected keyword argument"),
            ('["Conv"]', "[]", "integer_ops: Tuple should have at least 1 item after validation, not 0"),
            ("format = 1", "format = 2", "format: Input should be 1"),
            ("symmetric = true", "signed = false", "activations: unsigned integers need a zero point: give symmetric = false"),
            ('["Conv"]', '["Conv", "Cnov"]', "integer_ops.1: 'Cnov' is not an op of ONNX"),
            ("format = 1", "format = ", "mine.toml is not TOML: "),
        ],
    )
    def test_a_wrong_file_is_refused_by_name(self, tmp_path: Path, old: str, new: str, line: str) -> None:
        (tmp_path / "mine.toml").write_text(MINE.replace(old, new, 1))
        with pytest.raises(ParamError) as caught:
            load_target(str(tmp_path / "mine.toml"))
        assert f"quantize: {tmp_path}/mine.toml" in str(caught.value) and line in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_no_such_target(self) -> None:
        with pytest.raises(ParamError, match=r"no target 'cv25': it is none of cv22, .*, onnxruntime-x86-avx2, nor a file"):
            load_target("cv25")
