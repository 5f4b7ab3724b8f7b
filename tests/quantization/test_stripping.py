"""Quantizers are removed: a quantized model becomes the float model with rounded weights."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnxruntime.quantization import QuantFormat

from onnxsparse import layers
from onnxsparse.analysis.stored_weights import real_values
from onnxsparse.ir.model import Model, load
from onnxsparse.quantization.strip.dequantize import strip_scales
from tests.graphs import model, node, op_types, value
from tests.quantization.int8_models import (
    EVERY,
    GRAPHS,
    constants,
    floats,
    outputs,
    quantize,
    residual,
    samples,
    sqnr_db,
    static,
    stripped,
    trained,
)


@EVERY
def test_a_stripped_model_is_the_float_model_with_rounded_weights(graph: str, target: str) -> None:
    plain = Model.from_proto(GRAPHS[graph]())
    integers, _ = quantize(plain, target=target, correct_bias=False)
    back = stripped(integers)
    assert list(back.proto.graph.node) == list(plain.proto.graph.node)
    assert list(back.proto.graph.output) == list(plain.proto.graph.output)
    assert sorted(back.weights) == sorted(plain.weights)
    rounded = plain.copy()
    for layer in layers(integers):
        stored = layer.weights[0].stored
        assert stored.scale is not None
        step = floats(integers, stored.scale).max()
        rounded.weights[stored.name] = real_values(stored, integers.weights)
        assert np.abs(floats(rounded, stored.name) - floats(plain, stored.name)).max() <= step / 2 * 1.001
    for name in ("b0", "b1", "b2"):
        if name in plain.weights:
            assert np.abs(floats(back, name) - floats(plain, name)).max() < 1e-4
            rounded.weights[name] = back.weights[name]
    for name, found in outputs(back, samples(1)[0]).items():
        assert np.array_equal(found, outputs(rounded, samples(1)[0])[name]), name


def test_trained_weights_go_back_to_what_they_were_before_rounding() -> None:
    back = stripped(trained())
    assert op_types(back) == ["Transpose", "MatMul"]
    assert np.array_equal(back.weights["w"], trained().weights["w"])
    assert set(back.weights) == {"w"}


@pytest.mark.parametrize("way", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize("graph", list(GRAPHS))
def test_what_onnxruntime_quantized_becomes_float_again(graph: str, way: QuantFormat, tmp_path: Path) -> None:
    """The Relus that it took away included; what is left of the difference is the rounding of weights."""
    integers = static(GRAPHS[graph](), tmp_path, way)
    back = stripped(integers)
    assert not [kind for kind in op_types(back) if "Linear" in kind or kind == "QGemm"]
    plain = Model.from_proto(GRAPHS[graph]())
    assert sorted(op_types(back)) == sorted(op_types(plain))
    feeds = samples(9)[-1]  # the last was not calibrated on
    wanted, ours = outputs(plain, feeds), outputs(back, feeds)
    for name, found in wanted.items():
        assert sqnr_db(found, ours[name]) > 35, name
    _, report = quantize(integers)
    assert "3 layers are quantized already" in report.notes[0]
    again, report = quantize(integers, requantize=True)
    assert {c.tensor for c in report.changes} == {w.tensor for layer in layers(back) for w in layer.weights}
    assert op_types(again).count("Conv") == op_types(plain).count("Conv")


def test_what_stays_is_said() -> None:
    """A scale that follows from the input; integers that leave the graph; two scales for the same integers; a body."""
    then = helper.make_graph(
        [node("QuantizeLinear", "x s z", "bq"), node("DequantizeLinear", "bq s z", "bd")], "then", [], [value("bd", "2x8")]
    )
    other = helper.make_graph([node("Identity", "x", "be")], "else", [], [value("be", "2x8")])
    nodes = [
        node("DynamicQuantizeLinear", "x", "d ds dz"),
        node("MatMulInteger", "d m dz", "i"),
        node("QuantizeLinear", "x s z", "q"),
        node("QuantizeLinear", "x s z", "r", name="twice"),
        node("DequantizeLinear", "r s z", "f"),
        node("DequantizeLinear", "r t z", "g"),
        node("If", "cond", "h", then_branch=then, else_branch=other),
    ]
    matrix = np.arange(40, dtype=np.int8).reshape(8, 5)
    held = {"m": matrix, "s": np.float32(0.05), "t": np.float32(0.08), "z": np.uint8(120)}
    built = model(nodes, {"x": "2x8", "cond": ("1", onnx.TensorProto.BOOL)}, ["i", "q", "f", "g", "h"], held)
    before = built.to_bytes()
    found = strip_scales(built)
    assert found.quantizers == 0
    assert built.to_bytes() == before
    said = {skip.node: skip.reason for skip in found.skipped}
    assert "follow from each input" in said["i"]
    assert "leave the graph" in said["q"]
    assert "another scale" in said["twice"]
    assert "bodies" in said["h"]


def test_weights_in_a_side_file_are_stripped_too(tmp_path: Path) -> None:
    plain = Model.from_proto(residual())
    integers, _ = quantize(plain)
    integers.save(tmp_path / "m.onnx")
    whole = onnx.load(tmp_path / "m.onnx")
    onnx.save(whole, tmp_path / "e.onnx", save_as_external_data=True, size_threshold=0)
    back = load(tmp_path / "e.onnx")
    strip_scales(back)
    back.save(tmp_path / "f.onnx")
    found = load(tmp_path / "f.onnx")
    assert op_types(found) == op_types(plain)
    assert constants(found) == constants(stripped(integers))
