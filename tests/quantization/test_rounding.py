"""Rounding by what it does to outputs: against trying everything, on layers of all kinds, and gated by held-out samples."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsparse import Model, ParamError, Quantize, compare
from onnxsparse.calibration.methods import Range
from onnxsparse.ir.array_types import Floats
from onnxsparse.quantization.accuracy import rounding
from onnxsparse.quantization.accuracy.rounded_layers import find_layers
from onnxsparse.quantization.accuracy.second_order import DAMPING, Steps, descended, making_up, rounded, successive
from onnxsparse.quantization.plan.placement import place
from onnxsparse.quantization.plan.scales import Choices
from onnxsparse.quantization.plan.target import load_target
from onnxsparse.quantization.write.qdq import write_integers
from onnxsparse.runtime.samples import Samples
from tests.graphs import Array, model, node
from tests.quantization.int8_models import coarse, floats, quantize

COARSE: dict[str, Any] = {"target": "onnxruntime-x86", "weight_bits": 4}

WIDE = 40
"""Columns that fill a block and a part of one in `second_order` if its BLOCK is 16."""


def problem(seed: int, groups: int = 1, rows: int = 3, columns: int = 3, high: int = 1) -> tuple[Floats, Floats, Steps]:
    """Weights, second moments of correlated inputs, and coarse steps; a few weights are zero."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((groups, 200, columns)) @ rng.standard_normal((groups, columns, columns))
    weight = rng.standard_normal((groups, rows, columns)) * (rng.random((groups, rows, columns)) > 0.1)
    scale = np.abs(weight).max(2, keepdims=True) / high + 1e-3
    return weight, inputs.swapaxes(1, 2) @ inputs / 200, Steps(scale, -high, high, weight != 0)


def costs(integers: Floats, weight: Floats, h: Floats, steps: Steps) -> Floats:
    """The error of each row's outputs."""
    off = integers * steps.scale - weight
    found: Floats = ((off @ h) * off).sum(2)
    return found


@pytest.mark.parametrize(("groups", "columns"), [(1, WIDE), (3, 5)])
def test_errors_are_made_up_for_by_a_factor_of_the_inverse(groups: int, columns: int) -> None:
    _, h, _ = problem(0, groups, 1, columns)
    upper, diagonal = making_up(h), np.diagonal(h, axis1=1, axis2=2).mean(1)
    damped = h + DAMPING * diagonal[:, None, None] * np.eye(columns)
    assert np.allclose(upper.swapaxes(1, 2) @ upper @ damped, np.eye(columns), atol=1e-9)
    assert not np.tril(upper, -1).any()


@given(st.integers(0, 2**31))
@settings(max_examples=60)
def test_no_single_weight_can_be_rounded_better(seed: int) -> None:
    weight, h, steps = problem(seed)
    found = rounded(weight, h, steps)
    best = costs(found, weight, h, steps)
    for at, step in itertools.product(np.ndindex(weight.shape), (-1, 1)):
        other = found.copy()
        other[at] = np.clip(other[at] + step, steps.low, steps.high) if steps.free[at] else 0
        assert (costs(other, weight, h, steps) >= best - 1e-9).all()


def test_rounding_is_close_to_the_best_of_all() -> None:
    """Each row's 3⁵ roundings are tried; the nearest ones cost three times the best."""
    chosen, nearest, least = 0.0, 0.0, 0.0
    for seed in range(20):
        weight, h, steps = problem(seed, rows=1, columns=5)
        every = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=5)))[None]
        every = np.where(steps.free, every, 0)
        least += costs(every, weight, h, steps).min()
        chosen += costs(rounded(weight, h, steps), weight, h, steps).sum()
        nearest += costs(steps.nearest(weight), weight, h, steps).sum()
    assert least <= chosen < 1.25 * least < 0.7 * nearest


def test_blocks_of_columns_are_what_one_column_after_another_is(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, h, steps = problem(1, groups=2, rows=8, columns=WIDE, high=7)
    found = []
    for block in (1, 16, WIDE):
        monkeypatch.setattr("onnxsparse.quantization.accuracy.second_order.BLOCK", block)
        first = successive(weight, h, steps)
        found.append((first, descended(first, weight, h, steps)))
    assert all(np.array_equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    zeros = weight == 0
    assert zeros.any() and not found[0][1][zeros].any()


NODES = {
    "Conv": (node("Conv", "x w b", "y", kernel_shape=[3, 3], pads=[1] * 4, name=""), "6x16x3x3"),
    "grouped": (node("Conv", "x w b", "y", kernel_shape=[3, 3], group=2, strides=[2, 2]), "6x8x3x3"),
    "depthwise": (node("Conv", "x w b", "y", kernel_shape=[3, 3], group=16), "16x1x3x3"),
    "MatMul": (node("MatMul", "x w", "y"), "16x6"),
    "Gemm": (node("Gemm", "f w b", "y", transB=1), "6x16"),
}


def built(kind: str) -> tuple[Model, list[dict[str, Array]]]:
    """A model of one layer whose inputs are correlated, and samples."""
    one, shape = NODES[kind]
    weights: dict[str, str | Array] = {"w": coarse(shape, 3)}
    if "b" in one.input:
        weights["b"] = shape.split("x")[0]
    rng = np.random.default_rng(2)
    mix = rng.standard_normal((16, 4)).astype(np.float32)
    rows = (rng.standard_normal((64, 4)).astype(np.float32) @ mix.T for _ in range(60))
    if one.op_type in ("MatMul", "Gemm"):
        data = [{one.input[0]: each} for each in rows]
        return model([one], {one.input[0]: "64x16"}, ["y"], weights), data
    data = [{"x": each.T.reshape(1, 16, 8, 8)} for each in rows]
    return model([one], {"x": "1x16x8x8"}, ["y"], weights), data


@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("per_tensor", [False, True])
def test_every_kind_of_layer_gains(kind: str, per_tensor: bool) -> None:
    """On samples that nothing was learned from or judged on. A depthwise layer cannot use how channels are correlated."""
    plain, data = built(kind)
    levels = []
    for way in ("nearest", "gptq"):
        written, report = quantize(plain.copy(), data[:40], rounding=way, per_tensor=per_tensor, **COARSE)
        levels.append(compare(plain, written, Samples(data[40:])).outputs[0].sqnr_db or 0.0)
    assert levels[1] > levels[0] + (0 if kind == "depthwise" else 5)
    assert any("with gptq" in note for note in report.notes)


def test_zeros_stay_zeros_and_integers_stay_in_range() -> None:
    plain, data = built("Conv")
    weights = np.where(np.abs(plain.weights["w"]) < 0.12, np.float32(0), plain.weights["w"])
    plain.weights["w"] = weights
    written, _ = quantize(plain.copy(), data, rounding="gptq")
    integers = floats(written, "w")
    assert not integers[weights == 0].any()
    assert np.abs(integers).max() <= 127


def test_without_bias_correction_biases_stay() -> None:
    plain, data = built("Conv")
    found = [floats(quantize(plain.copy(), data, rounding=way, correct_bias=False)[0], "b") for way in ("nearest", "gptq")]
    assert np.array_equal(found[0], found[1])


def test_nearest_integers_stay_where_held_out_samples_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Integers that are as bad as can be: the model is that of nearest integers, and a note says so."""
    plain, data = built("Conv")
    expected, _ = quantize(plain.copy(), data)
    monkeypatch.setattr(rounding, "rounded", lambda wanted, _h, _steps: np.zeros_like(wanted))
    written, report = quantize(plain.copy(), data, rounding="gptq")
    assert any("nearest integers stay" in note for note in report.notes)
    assert written.proto.SerializeToString() == expected.proto.SerializeToString()
    assert np.array_equal(floats(written, "w"), floats(expected, "w"))


@pytest.mark.parametrize(("count", "used"), [(20, False), (40, True)])
def test_weights_follow_the_samples_only_if_enough_judge(monkeypatch: pytest.MonkeyPatch, count: int, used: bool) -> None:
    plain, data = built("Conv")
    calls: list[Floats] = []

    def own(_: rounding.Moments, weight: Floats) -> Floats:
        calls.append(weight)
        return weight

    monkeypatch.setattr(rounding.Moments, "refitted", own)
    quantize(plain.copy(), data[:count], rounding="gptq")
    assert bool(calls) == used


def test_shared_and_wide_weights_are_left_alone() -> None:
    nodes = [node("Conv", "x w", "a", pads=[1] * 4), node("Conv", "a w", "c", pads=[1] * 4), node("Conv", "c v", "y")]
    twice = model(nodes, {"x": "1x4x8x8"}, ["y"], {"w": coarse("4x4x3x3", 0), "v": coarse("4x4x1x1", 1)})
    placement = place(twice, load_target("cv22"), {})
    ranges = dict.fromkeys(placement.calibrated, Range(-4.0, 4.0))
    for wide, expected in (({}, ["v"]), ({"v": 16}, [])):
        written = write_integers(placement, Choices(ranges, wide_weights=wide))
        assert [layer.name for layer in find_layers(placement, written, True)] == expected


def test_one_sample_is_too_few() -> None:
    plain, data = built("Conv")
    with pytest.raises(ParamError, match="two or more"):
        Quantize(rounding="gptq").run(plain, data[:1])
    with pytest.raises(ParamError, match="--data"):
        Quantize(rounding="gptq").check()
