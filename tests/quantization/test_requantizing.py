"""Quantizing a model that is quantized already: its scales are kept, or removed when asked."""

import pytest

from onnxsparse.ir.model import Model
from tests.graphs import op_types, weight
from tests.quantization.int8_models import EVERY, GRAPHS, TARGETS, constants, floats, quantize, residual, samples, trained


def test_scales_are_chosen_anew_only_when_asked() -> None:
    first, _ = quantize(Model.from_proto(residual()))
    kept, _ = quantize(first, samples(scale=10))
    again, report = quantize(first, samples(scale=10), requantize=True)
    assert kept.weights["x_scale"] == first.weights["x_scale"]
    assert floats(again, "x_scale") > 5 * floats(first, "x_scale")
    assert op_types(again) == op_types(first)
    # 3 weights, 3 biases, and activations: x, ar, c, sr and what is moved or averaged from there, y
    pairs = op_types(first).count("QuantizeLinear")
    assert report.notes[0] == f"{pairs + 6} quantizers removed first"


def test_without_scales_to_throw_away_nothing_is_said_of_them() -> None:
    plain = Model.from_proto(residual())
    asked, report = quantize(plain, requantize=True)
    assert not any("removed" in note for note in report.notes)
    assert asked.to_bytes() == quantize(plain)[0].to_bytes()


@EVERY
def test_quantizing_twice_changes_no_byte_and_says_so(graph: str, target: str) -> None:
    once, _ = quantize(Model.from_proto(GRAPHS[graph]()), target=target)
    twice, report = quantize(once, target=target)
    assert twice.to_bytes() == once.to_bytes()
    assert report.notes == ["nothing to do: 3 layers are quantized already, and nothing else is a layer with float weights"]
    assert not report.rewrote
    assert not report.changes


@EVERY
def test_what_is_float_is_quantized_around_what_is_not(graph: str, target: str) -> None:
    half, _ = quantize(Model.from_proto(GRAPHS[graph]()), target=target, only=("a",))
    whole, report = quantize(half, samples(scale=3), target=target)
    before, after = constants(half), constants(whole)
    scales = {name for name in before if name.endswith(("_scale", "_zero_point"))}
    assert {"x_scale", "w0_scale", "w0_zero_point"} <= scales
    for name in {*scales, "w0"}:
        assert after[name] == before[name], name
    assert [c.tensor for c in report.changes] == ["w1", "w2"]
    assert "1 layers were quantized already and keep their scales" in report.notes
    pairs = [n.input[0] for n in whole.proto.graph.node if n.op_type == "QuantizeLinear"]
    assert len(pairs) == len(set(pairs))


@pytest.mark.parametrize("target", TARGETS)
def test_trained_scales_stay(target: str) -> None:
    after, report = quantize(trained(), [{"x": weight("4x8")}], target=target)
    assert after.to_bytes() == trained().to_bytes()
    assert "1 layers are quantized already" in report.notes[0]
