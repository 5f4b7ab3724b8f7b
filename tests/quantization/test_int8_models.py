"""Quantized models are reported, pruned and cut as the real values that their integers stand for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnxruntime.quantization import QuantFormat

from onnxsparse import Prune, layers
from onnxsparse.analysis.stored_weights import real_values
from onnxsparse.cost.backends.work import Volume, WorkItem
from onnxsparse.cost.estimate import Deployment, deploy
from onnxsparse.ir.model import Model
from onnxsparse.passes.annotate import Annotate
from tests.channels.cutting import halve, sound
from tests.channels.test_quantized import quantized
from tests.graphs import Array, model, node
from tests.quantization.int8_models import EVERY, GRAPHS, MS, quantize, residual, static, stripped, trained


def test_zeros_of_a_float_weight_are_not_where_its_quantizers_zero_point_is() -> None:
    (layer,) = layers(trained())
    assert layer.zeros == 3
    pruned = trained()
    Prune(sparsity=0.5, protect="none").run(pruned)
    assert np.count_nonzero(pruned.weights["w"]) == 24


@pytest.mark.parametrize("points", [np.int8(7), np.array([7, -7, 100, 0], np.int8)])
def test_pruned_integers_are_at_the_zero_point(points: Array) -> None:
    rng = np.random.default_rng(0)
    integers = rng.integers(-128, 127, (4, 16), np.int8)
    integers[:, :2] = np.reshape(points, (-1, 1))
    nodes = [node("DequantizeLinear", "q s z", "w", axis=0), node("Gemm", "x w", "y", transB=1)]
    scale = np.full(np.shape(points), 0.1, np.float32)
    built = model(nodes, {"x": "2x16"}, ["y"], {"q": integers, "s": scale, "z": points})
    real = real_values(layers(built)[0].weights[0].stored, built.weights)
    assert layers(built)[0].zeros == np.count_nonzero(real == 0)
    Prune(sparsity=0.5, protect="none").run(built)
    after = real_values(layers(built)[0].weights[0].stored, built.weights)
    assert np.count_nonzero(after) == 32
    assert np.array_equal(after[after != 0], real[after != 0])
    assert np.abs(real[after == 0]).max() <= np.abs(after[after != 0]).min()
    assert deploy(built).load.items[0].nonzeros == 32


def test_four_bits_are_pruned_by_what_they_stand_for() -> None:
    """Codes 6 and 7 on a scale of 0.01 against codes 1 and 2 on one of 1."""
    codes = np.array([[6, 7] * 4, [1, 2] * 4], np.int8)
    nodes = [node("DequantizeLinear", "q s", "w", axis=0), node("Gemm", "x w", "y", transB=1)]
    scales = np.array([0.01, 1], np.float32)
    built = model(nodes, {"x": "2x8"}, ["y"], {"q": codes, "s": scales}, opset=21, ir_version=10)
    built.weights["q"] = codes.astype(helper.tensor_dtype_to_np_dtype(onnx.TensorProto.INT4))
    Prune(sparsity=0.5, protect="none", score="l1", max_layer_sparsity=1).run(built)
    assert built.weights["q"].astype(np.int8).tolist() == [[0] * 8, [1, 2] * 4]


def test_each_direction_of_a_recurrent_layer_has_its_own_zero() -> None:
    """Zero is 5 forwards and −5 backwards: 4 and 8 elements of the 2 × 3 × 8 inputs' weights; the states' have none."""
    forwards, backwards = np.ones((3, 8), np.int8), np.full((3, 8), 5, np.int8)
    forwards[0, :4], backwards[1] = 5, -5
    inner = {"w": np.stack([forwards, backwards]), "r": np.ones((2, 2, 8), np.int8), "b": "2x16"}
    points = {"s": np.full(2, 0.1, np.float32), "z": np.array([5, -5], np.int8)}
    lstm = node("DynamicQuantizeLSTM", "x w r b _ _ _ _ s z s z", "y", domain=MS, direction="bidirectional", hidden_size=2)
    built = model([lstm], {"x": "4x1x3"}, ["y"], {**inner, **points}, domains={MS: 1})
    assert [use.zeros for use in layers(built)[0].weights] == [12, 0]


@EVERY
@pytest.mark.parametrize("pruned", [False, True])
def test_an_int8_model_is_reported_as_the_float_model_it_came_from(graph: str, target: str, pruned: bool) -> None:
    plain = Model.from_proto(GRAPHS[graph]())
    if pruned:
        Prune(sparsity_op=0.5, protect="none").run(plain)
    integers, _ = quantize(plain, target=target)
    facts, ours = layers(plain), layers(integers)
    assert ours.totals == facts.totals
    assert [(la.node, la.macs, la.zeros) for la in ours] == [(la.node, la.macs, la.zeros) for la in facts]
    for backend in ("cv22", "cv22-stream", "roofline"):
        same_costs(deploy(plain, backend), deploy(integers, backend))
    notes = []
    for made in (plain.copy(), integers.copy()):
        Annotate().run(made)
        found = {n.name or n.output[0]: {p.key: p.value for p in n.metadata_props} for n in made.proto.graph.node}
        notes.append({name: props for name, props in found.items() if "params" in props})
    assert len(notes[0]) == 3
    assert notes[0] == notes[1]


def same_costs(plain: Deployment, integers: Deployment) -> None:
    """Eight bits are what the target computes floats in, so that only where a width comes from differs."""
    assert [without_widths(row.item) for row in integers.rows] == [without_widths(row.item) for row in plain.rows]
    assert [row.cost for row in integers.rows] == [row.cost for row in plain.rows]
    assert integers.mem_a_mb == plain.mem_a_mb
    assert integers.mem_p_mb == plain.mem_p_mb
    assert integers.latency_ms == plain.latency_ms
    assert integers.load.peak() == plain.load.peak()


def without_widths(item: WorkItem) -> WorkItem:
    def floats(volumes: tuple[Volume, ...] | None) -> tuple[Volume, ...] | None:
        return None if volumes is None else tuple(Volume(volume.elements) for volume in volumes)

    weights = floats(item.coefficients) or ()
    return replace(item, coefficients=weights, reads=floats(item.reads), writes=floats(item.writes))


@pytest.mark.parametrize("way", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_onnxruntimes_models_are_reported_and_pruned_like_float_ones(way: QuantFormat, tmp_path: Path) -> None:
    plain, integers = Model.from_proto(residual()), static(residual(), tmp_path, way)
    assert [layer.macs for layer in layers(integers)] == [layer.macs for layer in layers(plain)]
    theirs, ours = deploy(plain), deploy(integers)
    assert [row.cost and row.cost.latency_ms for row in ours.rows] == [row.cost and row.cost.latency_ms for row in theirs.rows]
    assert (ours.mem_a_mb, ours.mem_p_mb) == (theirs.mem_a_mb, theirs.mem_p_mb)
    Prune(sparsity_op=0.5, protect="none").run(integers)
    assert layers(integers).totals.sparsity_op == pytest.approx(0.5, abs=0.01)
    back = stripped(integers)
    assert layers(back).totals.sparsity_op == layers(integers).totals.sparsity_op


@pytest.mark.parametrize("way", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_onnxruntimes_models_are_cut(way: QuantFormat, tmp_path: Path) -> None:
    sound(*halve(static(residual(), tmp_path, way), seed=1))


@EVERY
def test_int8_models_are_cut(graph: str, target: str) -> None:
    integers, _ = quantize(Model.from_proto(GRAPHS[graph]()), target=target)
    sound(*halve(integers, seed=1))


def test_channels_of_integers_matter_as_the_reals_they_stand_for() -> None:
    """The same codes in every output, on scales of which every other is tiny: those go."""
    built = quantized()
    built.weights["wq"] = np.broadcast_to(built.weights["wq"][:1], (16, 3, 3, 3)).copy()
    built.weights["vq"] = np.full((4, 16, 1, 1), 9, np.int8)
    built.weights["sw"] = np.where(np.arange(16) % 2, np.float32(0.02), np.float32(0.0001))
    smaller, _ = halve(built)
    assert np.array_equal(smaller.weights["sw"], np.full(8, 0.02, np.float32))
