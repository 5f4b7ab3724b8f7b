"""quantize raises the opset of older models where it writes a scale per channel."""

from typing import Any

import numpy as np
import pytest

from onnxsparse import Model
from onnxsparse.analysis.checker import first_fault
from onnxsparse.passes.quantize import Quantize
from tests.analysis.raising import ALL, run
from tests.graphs import BOOL, Array, model, node, value, weight


def small(opset: int, op: str = "Squeeze", **options: Any) -> Model:
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1]),
        node("Clip", "c", "r", min=0.0, max=6.0) if opset < 11 else node("Relu", "c", "r"),
        node("GlobalAveragePool", "r", "p"),
        node(op, "p", "y", name="last", **options),
    ]
    return model(nodes, {"x": "1x3x8x8"}, weights={"w": "4x3x3x3", "b": "4"}, opset=opset, ir_version=6)


def samples() -> list[dict[str, Array]]:
    return [{"x": weight("1x3x8x8", seed)} for seed in range(4)]


@pytest.mark.parametrize("opset", ALL)
def test_quantize_gives_older_models_a_scale_per_channel(opset: int) -> None:
    built = small(opset, axes=[2, 3])
    expected = run(built, samples()[0])["y"]
    report = Quantize(target="onnxruntime-x86").run(built, samples())
    assert f"opset raised from {opset} to 13, whose DequantizeLinear supports a scale per channel" in report.notes
    assert built.weights.shape("w_scale") == (4,)
    assert first_fault(built) is None
    assert np.abs(run(built, samples()[0])["y"] - expected).max() < 0.05


def test_quantize_says_why_a_model_keeps_its_opset() -> None:
    built = small(11, "Dropout", ratio=0.5)
    built.proto.graph.node[-1].output.append("mask")
    built.proto.graph.output.append(value("mask", "1x4x1x1", BOOL))
    report = Quantize(target="onnxruntime-x86").run(built, samples())
    assert any(
        note.startswith("opset stays 11, in which a weight tensor has a single scale: Dropout 'last'") for note in report.notes
    )
    assert any("(one scale per tensor)" in note for note in report.notes)
    assert built.opset() == 11
    assert built.weights.shape("w_scale") == ()


def test_quantize_leaves_the_opset_where_a_tensor_has_one_scale() -> None:
    built = small(11, axes=[2, 3])
    report = Quantize(target="onnxruntime-x86", per_tensor=True).run(built, samples())
    assert built.opset() == 11
    assert not any("opset" in note for note in report.notes)
