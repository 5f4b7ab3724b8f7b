"""Factors on activations: they change no output, and make ranges fit powers of two."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxsparse import Model
from onnxsparse.calibration.methods import Range
from onnxsparse.quantization.accuracy.output_noise import Tensor
from onnxsparse.quantization.accuracy.tensor_factors import Groups, coarseness, fitted
from onnxsparse.quantization.plan.placement import Placement, place
from onnxsparse.quantization.plan.target import load_target
from tests.graphs import NAMINGS, Array, model, node
from tests.quantization.int8_models import coarse, joined, outputs, quantize, residual, samples, silu, sqnr_db


def clipped(opset: int = 13) -> Model:
    """Two convolutions with a ReLU6 between them, its bounds as inputs or attributes, and a residual addition."""
    bounds: dict[str, Any] = {"min": 0.0, "max": 6.0} if opset < 11 else {}
    nodes = [
        node("Conv", "x w0 b0", "a", pads=[1] * 4),
        node("Clip", "a" if bounds else "a low high", "c", **bounds),
        node("Conv", "c w1 b1", "d", pads=[1] * 4),
        node("Conv", "d w2", "e", pads=[1] * 4),
        node("Add", "d e", "s"),
        node("MaxPool", "s", "p", kernel_shape=[2, 2]),
        node("Conv", "p w3", "y"),
    ]
    weights: dict[str, str | Array] = {
        "w0": 4 * coarse("8x3x3x3", 0),
        "b0": "8",
        "w1": coarse("8x8x3x3", 1),
        "b1": "8",
        "w2": coarse("8x8x3x3", 2),
        "w3": coarse("4x8x1x1", 3),
    }
    limits = {} if bounds else {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    return model(nodes, {"x": "1x3x8x8"}, ["y"], weights | limits, opset=opset)


def powers(plain: Model) -> tuple[Model, dict[str, Range], dict[str, float]]:
    """A model with scaled activations, ranges that fit powers of two as badly as can be, and the factors."""
    work = plain.copy()
    placement = place(work, load_target("cv22").changed(power_of_two="activations"), {})
    ranges = dict.fromkeys(placement.calibrated, Range(-127.0, 127 * 1.01))
    return work, ranges, fitted(placement, ranges, alike(placement))[1]


def alike(placement: Placement) -> list[Tensor]:
    """All tensors of a placement, with the same noise."""
    weights = [weight.stored.name for unit in placement.units for weight in unit.weights]
    return [Tensor(name, name in weights, None, np.ones(1)) for name in (*placement.sources, *weights)]


@pytest.mark.parametrize("graph", [residual, silu, joined, clipped, lambda: clipped(10)])
def test_outputs_stay(graph: Callable[[], Model | onnx.ModelProto]) -> None:
    made = graph()
    plain = made if isinstance(made, Model) else Model.from_proto(made)
    work, _, factors = powers(plain)
    assert graph in (silu, joined) or any(factor != 1 for factor in factors.values())
    for feeds in samples(3):
        for name, wanted in outputs(plain, feeds).items():
            assert np.allclose(outputs(work, feeds)[name], wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_inner_activations_fit_and_those_of_the_interface_stay() -> None:
    _, ranges, factors = powers(clipped())
    assert factors["x"] == factors["y"] == 1
    inner = ranges.keys() - {"x", "y"}
    reach = np.array([ranges[name].high * factors[name] for name in inner])
    assert len(inner) == 4 and (coarseness(reach / 127) < 1.1).all()
    assert coarseness(np.array([1.01])) > 3.9
    assert coarseness(np.array([1.0, 2.0, 0.25])).tolist() == [1, 1, 1]


@pytest.mark.parametrize("loud", ["s", "d", None])
def test_the_factor_fits_what_the_outputs_feel(loud: str | None) -> None:
    """d and s have one factor, and steps that no factor fits both; without noise, nothing is scaled."""
    placement = place(clipped(), load_target("cv22").changed(power_of_two="activations"), {})
    high = {"d": 1.01, "s": 1.4}
    ranges = {each: Range(0.0, 127 * high.get(each, 1.0)) for each in placement.calibrated}
    tensors = [Tensor(each, False, None, np.array([1.0 if each == loud else 0.0])) for each in placement.sources]
    factors = fitted(placement, ranges, tensors)[1]
    if loud is None:
        assert factors == {}
    else:
        assert factors["d"] == factors["s"]
        assert coarseness(np.array([high[loud] * factors[loud]])) < 1.1


def test_what_an_addition_joins_has_one_factor() -> None:
    placement = place(clipped(), load_target("cv22"), {})
    groups = Groups.of(placement)
    assert groups.root("d") == groups.root("e") == groups.root("s") == groups.root("p") != groups.root("c")
    assert groups.root("a") == groups.root("c")
    assert {"x", "y"} <= groups.fixed


def test_bounds_that_callers_may_override_are_not_scaled() -> None:
    plain = clipped()
    plain.proto.graph.input.append(onnx.helper.make_tensor_value_info("high", onnx.TensorProto.FLOAT, []))
    groups = Groups.of(place(plain, load_target("cv22"), {}))
    assert {"a", "c"} <= groups.fixed


ATTRIBUTES: dict[str, dict[str, Any]] = {"MaxPool": {"kernel_shape": [3, 3], "pads": [1] * 4}, "Concat": {"axis": 1}}

BETWEEN = ("Relu", "Sigmoid", "Clip", "MaxPool", "Pad", "Resize", "Add", "Concat", "Identity", "Mul")


@st.composite
def chains(draw: st.DrawFn) -> Model:
    """Convolutions with biases, and up to three ops behind each, some of which join what two convolutions made."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, str | Array] = {
        "low": np.array(-0.2, np.float32),
        "high": np.array(0.3, np.float32),
        "two": np.array([2.0], np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    value, channels = "x", 3
    for at in range(draw(st.integers(2, 4))):
        made = [f"a{at}", f"b{at}"]
        for name in made:
            weights |= {f"w{name}": coarse(f"4x{channels}x3x3", len(weights)), f"c{name}": coarse("4", len(weights))}
            nodes.append(node("Conv", f"{value} w{name} c{name}", name, pads=[1] * 4))
        value, channels = made[0], 4
        for step, kind in enumerate(draw(st.lists(st.sampled_from(BETWEEN), max_size=3))):
            other = value if step else made[1]
            operands = {"Clip": "low high", "Pad": "pads", "Resize": "_ scales", "Add": other, "Concat": other, "Mul": "two"}
            inputs = f"{value} {operands.get(kind, '')}".strip()
            nodes.append(node(kind, inputs, f"{kind}{at}{step}", **ATTRIBUTES.get(kind, {})))
            value, channels = f"{kind}{at}{step}", channels * (2 if kind == "Concat" else 1)
    nodes.append(node("Conv", f"{value} last", "y"))
    weights["last"] = coarse(f"2x{channels}x1x1", 99)
    return model(nodes, {"x": "1x3x8x8"}, ["y"], weights, naming=draw(NAMINGS))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(chains(), st.integers(0, 2**31))
def test_no_output_of_a_generated_model_changes(built: Model, seed: int) -> None:
    work, rng = built.copy(), np.random.default_rng(seed)
    placement = place(work, load_target("cv22").changed(power_of_two="all"), {})
    reaches = rng.uniform(0.1, 10, len(placement.calibrated))
    ranges = {name: Range(-reach, reach) for name, reach in zip(placement.calibrated, reaches, strict=True)}
    fitted(placement, ranges, alike(placement))
    wanted, found = (outputs(each, samples(1)[0])["y"] for each in (built, work))
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(("attribute", "stays"), [({"value": 0.0}, False), ({"value": 1.0}, True)])
def test_elements_that_are_added_are_not_scaled(attribute: dict[str, Any], stays: bool) -> None:
    """A Pad of opset 10 adds its attribute's value around what a convolution made."""
    nodes = [
        node("Conv", "x w", "a"),
        node("Pad", "a", "p", pads=[0, 0, 1, 1, 0, 0, 1, 1], **attribute),
        node("Conv", "p v", "y"),
    ]
    plain = model(nodes, {"x": "1x3x8x8"}, ["y"], {"w": coarse("4x3x3x3", 0), "v": coarse("4x4x1x1", 1)}, opset=10)
    work, _, factors = powers(plain)
    assert (factors.get("a", 1.0) == 1) is stays
    feeds = samples(1)[0]
    assert np.allclose(outputs(plain, feeds)["y"], outputs(work, feeds)["y"], rtol=1e-4, atol=1e-5)


def test_bounds_that_another_node_reads_stay_for_it() -> None:
    """A Clip of the input, whose factor is 1, shares the bounds of the inner one."""
    plain = clipped()
    plain.proto.graph.node.append(node("Clip", "x low high", "other"))
    plain.proto.graph.output.append(onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, [1, 3, 8, 8]))
    work, _, factors = powers(plain)
    assert factors["c"] != 1
    feeds = {"x": 10 * samples(1)[0]["x"]}
    assert np.array_equal(outputs(plain, feeds)["other"], outputs(work, feeds)["other"])


def test_quantization_says_so_and_saves_ranges_of_the_model_as_it_was(tmp_path: Path) -> None:
    plain, data, saved, levels = clipped(), samples(20), [], []
    path = tmp_path / "r.json"
    for scales in ("none", "activations"):
        written, report = quantize(plain.copy(), data, power_of_two=scales, method="minmax", save_ranges=path)
        wanted, found = (outputs(each, samples(30)[29])["y"] for each in (plain, written))
        levels.append(sqnr_db(wanted, found))
        file = BytesIO()
        report.artifacts[path](file)
        saved.append(json.loads(file.getvalue())["ranges"])
    assert saved[0].keys() == saved[1].keys()
    assert all(np.allclose(saved[0][name], saved[1][name], rtol=1e-5) for name in saved[0])
    assert levels[1] > levels[0] - 3
    assert any("were scaled, so that their ranges fit powers of two" in note for note in report.notes)
