"""Models that are quantized already: their scales taken away, or kept, and everything else that is done to such models."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from onnxsparse import Prune, layers
from onnxsparse.analysis.stored_weights import real_values
from onnxsparse.cost.backends.work import Volume, WorkItem
from onnxsparse.cost.estimate import Deployment, deploy
from onnxsparse.ir.model import Model, load
from onnxsparse.passes.annotate import Annotate
from onnxsparse.passes.quantize import Quantize
from onnxsparse.pipeline.base import StepReport
from onnxsparse.quantization.strip.dequantize import strip_scales
from onnxsparse.runtime.session import Execution, runner
from tests.channels.cutting import halve, sound
from tests.channels.test_quantized import quantized
from tests.graphs import FLOAT, UINT8, Array, model, node, proto, value, weight

MS = "com.microsoft"
TARGETS = ("cv22", "onnxruntime-x86")


def coarse(shape: str, seed: int) -> Array:
    """Weights none of which rounds to zero in eight bits, about as large as their sum needs."""
    values = weight(shape, seed)
    return np.where(np.abs(values) < 0.1, np.float32(0.1), values) / np.float32(np.sqrt(np.prod(values.shape[1:])))


def residual() -> onnx.ModelProto:
    nodes = [
        node("Conv", "x w0 b0", "a", pads=[1] * 4),
        node("Relu", "a", "ar"),
        node("Conv", "ar w1 b1", "c", pads=[1] * 4),
        node("Add", "c ar", "s"),
        node("Relu", "s", "sr"),
        node("MaxPool", "sr", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", "p", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f w2 b2", "y", transB=1),
    ]
    weights: dict[str, str | Array] = {
        "w0": coarse("8x3x3x3", 0),
        "w1": coarse("8x8x3x3", 1),
        "w2": coarse("5x8", 2),
        "b0": "8",
        "b1": "8",
        "b2": "5",
    }
    return proto(nodes, {"x": "1x3x8x8"}, ["y"], weights)


def silu() -> onnx.ModelProto:
    nodes = [
        node("Conv", "x w0 b0", "a", pads=[1] * 4),
        node("Sigmoid", "a", "as"),
        node("Mul", "a as", "am"),
        node("Conv", "am w1 b1", "c", pads=[1] * 4),
        node("Sigmoid", "c", "cs"),
        node("Mul", "c cs", "cm"),
        node("Conv", "cm w2", "y", pads=[1] * 4),
    ]
    weights: dict[str, str | Array] = {
        "w0": coarse("8x3x3x3", 0),
        "w1": coarse("8x8x3x3", 1),
        "w2": coarse("8x8x3x3", 2),
        "b0": "8",
        "b1": "8",
    }
    return proto(nodes, {"x": "1x3x8x8"}, ["y"], weights)


def joined() -> onnx.ModelProto:
    """A Concat with the input, resized; an output that others read, and one that is reshaped."""
    nodes = [
        node("Conv", "x w0 b0", "a", pads=[1] * 4),
        node("Relu", "a", "ar"),
        node("Conv", "ar w1", "c", pads=[1] * 4),
        node("Concat", "ar c x", "k", axis=1),
        node("Resize", "k _ sizes", "r", mode="nearest"),
        node("Conv", "r w2 b2", "y", pads=[1] * 4),
        node("Sigmoid", "y", "s"),
        node("Reshape", "s shape", "z"),
    ]
    weights: dict[str, str | Array] = {
        "w0": coarse("8x3x3x3", 0),
        "w1": coarse("8x8x3x3", 1),
        "w2": coarse("8x19x3x3", 2),
        "b0": "8",
        "b2": "8",
    }
    sizes: dict[str, Array] = {"sizes": np.array([1, 1, 2, 2], np.float32), "shape": np.array([1, -1], np.int64)}
    return proto(nodes, {"x": "1x3x8x8"}, ["y", "z"], {**weights, **sizes})


GRAPHS = {"residual": residual, "silu": silu, "joined": joined}
EVERY = pytest.mark.parametrize(("graph", "target"), [(g, t) for g in GRAPHS for t in TARGETS])


def samples(count: int = 8, scale: float = 1.0) -> list[dict[str, Array]]:
    rng = np.random.default_rng(0)
    return [{"x": (scale * rng.standard_normal((1, 3, 8, 8))).astype(np.float32)} for _ in range(count)]


def quantize(built: Model, data: list[dict[str, Array]] | None = None, **options: Any) -> tuple[Model, StepReport]:
    copy = built.copy()
    report = Quantize(**options).run(copy, samples() if data is None else data)
    onnx.checker.check_model(onnx.load_from_string(copy.to_bytes()), full_check=True)
    return copy, report


def stripped(built: Model) -> Model:
    copy = built.copy()
    strip_scales(copy)
    onnx.checker.check_model(onnx.load_from_string(copy.to_bytes()), full_check=True)
    return copy


def kinds(built: Model) -> list[str]:
    return [n.op_type for n in built.proto.graph.node]


def outputs(built: Model, feeds: Mapping[str, Array], execution: Execution = Execution.AS_WRITTEN) -> dict[str, NDArray[Any]]:
    return runner(built, execution=execution).run(dict(feeds))


def floats(built: Model, name: str) -> NDArray[np.float64]:
    return built.weights[name].astype(np.float64)


def constants(built: Model) -> dict[str, bytes]:
    return {name: built.weights[name].tobytes() for name in built.weights}


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


def test_scales_are_chosen_anew_only_when_asked() -> None:
    first, _ = quantize(Model.from_proto(residual()))
    kept, _ = quantize(first, samples(scale=10))
    again, report = quantize(first, samples(scale=10), requantize=True)
    assert kept.weights["x_scale"] == first.weights["x_scale"]
    assert floats(again, "x_scale") > 5 * floats(first, "x_scale")
    assert kinds(again) == kinds(first)
    # 3 weights, 3 biases, and activations: x, ar, c, sr and what is moved or averaged from there, y
    pairs = kinds(first).count("QuantizeLinear")
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


def trained() -> Model:
    """A float weight with a quantizer of its own and a Transpose behind it, as a QAT export has it."""
    nodes = [
        node("QuantizeLinear", "x sx zx", "xq"),
        node("DequantizeLinear", "xq sx zx", "xd"),
        node("QuantizeLinear", "w sw zw", "wq", axis=0),
        node("DequantizeLinear", "wq sw zw", "wd", axis=0),
        node("Transpose", "wd", "wt", perm=[1, 0]),
        node("MatMul", "xd wt", "y"),
    ]
    floats = weight("6x8")
    floats[0, :3] = 0
    points = np.array([5, -3, 0, 1, 2, 3], np.int8)
    held = {"sx": np.float32(0.03), "zx": np.uint8(120), "w": floats, "sw": np.full(6, 0.02, np.float32), "zw": points}
    return model(nodes, {"x": "4x8"}, ["y"], held)


@pytest.mark.parametrize("target", TARGETS)
def test_trained_scales_stay(target: str) -> None:
    after, report = quantize(trained(), [{"x": weight("4x8")}], target=target)
    assert after.to_bytes() == trained().to_bytes()
    assert "1 layers are quantized already" in report.notes[0]


def test_trained_weights_go_back_to_what_they_were_before_rounding() -> None:
    back = stripped(trained())
    assert kinds(back) == ["Transpose", "MatMul"]
    assert np.array_equal(back.weights["w"], trained().weights["w"])
    assert set(back.weights) == {"w"}


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


class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self) -> None:
        self.left = samples()

    def get_next(self) -> dict[str, Array] | None:
        return self.left.pop() if self.left else None


def static(built: onnx.ModelProto, folder: Path, way: QuantFormat, per_channel: bool = True) -> Model:
    """As onnxruntime's own quantizer makes it."""
    onnx.save(built, folder / "in.onnx")
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(folder / "in.onnx", folder / "out.onnx", Reader(), quant_format=way, per_channel=per_channel, **kinds)
    return Model.from_proto(onnx.load(folder / "out.onnx"))


def sqnr_db(wanted: Array, found: Array) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum()))


@pytest.mark.parametrize("way", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize("graph", list(GRAPHS))
def test_what_onnxruntime_quantized_becomes_float_again(graph: str, way: QuantFormat, tmp_path: Path) -> None:
    """The Relus that it took away included; what is left of the difference is the rounding of weights."""
    integers = static(GRAPHS[graph](), tmp_path, way)
    back = stripped(integers)
    assert not [kind for kind in kinds(back) if "Linear" in kind or kind == "QGemm"]
    plain = Model.from_proto(GRAPHS[graph]())
    assert sorted(kinds(back)) == sorted(kinds(plain))
    feeds = samples(9)[-1]  # the last was not calibrated on
    wanted, ours = outputs(plain, feeds), outputs(back, feeds)
    for name, found in wanted.items():
        assert sqnr_db(found, ours[name]) > 35, name
    _, report = quantize(integers)
    assert "3 layers are quantized already" in report.notes[0]
    again, report = quantize(integers, requantize=True)
    assert {c.tensor for c in report.changes} == {w.tensor for layer in layers(back) for w in layer.weights}
    assert kinds(again).count("Conv") == kinds(plain).count("Conv")


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


RNG = np.random.default_rng(0)
OPERATORS: dict[str, tuple[onnx.NodeProto, str, list[str]]] = {
    "conv": (node("QLinearConv", "a s z w ws wz t u b", "o", pads=[1] * 4), "2x4x4x4", ["Conv"]),
    "grouped conv": (node("QLinearConv", "a s z wg ws wz t u", "o", group=2), "2x4x2x2", ["Conv"]),
    "matmul": (node("QLinearMatMul", "a s z m ms mz t u", "o"), "2x4x4x5", ["MatMul"]),
    "add": (node("QLinearAdd", "a s z a s z t u", "o", domain=MS), "2x4x4x4", ["Add"]),
    "mul with a constant": (node("QLinearMul", "a s z k s z t u", "o", domain=MS), "2x4x4x4", ["Mul"]),
    "concat": (node("QLinearConcat", "t u a s z k2 s z", "o", domain=MS, axis=1), "2x5x4x4", ["Concat"]),
    "global pool": (node("QLinearGlobalAveragePool", "a s z t u", "o", domain=MS), "2x4x1x1", ["GlobalAveragePool"]),
    "pool": (node("QLinearAveragePool", "a s z t u", "o", domain=MS, kernel_shape=[2, 2]), "2x4x3x3", ["AveragePool"]),
    "sigmoid": (node("QLinearSigmoid", "a s z t u", "o", domain=MS), "2x4x4x4", ["Sigmoid"]),
    "leaky": (node("QLinearLeakyRelu", "a s z t u", "o", domain=MS, alpha=0.2), "2x4x4x4", ["LeakyRelu"]),
    "softmax": (node("QLinearSoftmax", "a s z t u", "o", domain=MS, axis=-1, opset=13), "2x4x4x4", ["Softmax"]),
    "where": (node("QLinearWhere", "c a s z k s z t u", "o", domain=MS), "2x4x4x4", ["Where"]),
}
HELD: dict[str, Any] = {
    "s": np.float32(0.05),
    "z": np.uint8(120),
    "t": np.float32(0.08),
    "u": np.uint8(131),
    "w": RNG.integers(-60, 60, (4, 4, 3, 3), np.int8),
    "wg": RNG.integers(-60, 60, (4, 2, 3, 3), np.int8),
    "ws": RNG.random(4, np.float32) / 200 + np.float32(0.001),
    "wz": np.zeros(4, np.int8),
    "b": RNG.integers(-900, 900, 4, np.int32),
    "m": RNG.integers(0, 255, (4, 5), np.uint8),
    "ms": np.full(5, 0.005, np.float32),
    "mz": np.full(5, 100, np.uint8),
    "mt": RNG.integers(-60, 60, (5, 4), np.int8),
    "mts": np.full(5, 0.01, np.float32),
    "mtz": np.zeros(5, np.int8),
    "gb": np.arange(5, dtype=np.int32),
    "k": RNG.integers(100, 140, (1, 4, 1, 1), np.uint8),
    "k2": RNG.integers(100, 140, (2, 1, 4, 4), np.uint8),
    "c": RNG.random((2, 4, 4, 4)) < 0.5,
}


def operator(op: onnx.NodeProto, shape: str, x: str = "2x4x4x4") -> Model:
    nodes = [node("QuantizeLinear", "x s z", "a"), op, node("DequantizeLinear", "o t u", "y")]
    used = {name for n in nodes for name in n.input}
    built = model(nodes, {"x": x}, ["y"], {k: v for k, v in HELD.items() if k in used}, domains={MS: 1})
    built.proto.graph.output[0].CopyFrom(value("y", shape))
    return built


def within_a_step(built: Model, x: str, ops: list[str]) -> None:
    """On inputs that are on the grid, so that nothing is rounded but the result."""
    back = stripped(built)
    assert kinds(back) == ops
    feeds = {"x": (RNG.integers(80, 160, [int(n) for n in x.split("x")]) - 120).astype(np.float32) * HELD["s"]}
    integers, floats = outputs(built, feeds)["y"], outputs(back, feeds)["y"]
    assert integers.std() > 0
    inside = (floats > -131 * 0.08) & (floats < 124 * 0.08)
    assert inside.mean() > 0.9
    assert np.abs(integers - floats)[inside].max() <= 0.08 * 1.01, "a step of the result"


@pytest.mark.parametrize("name", list(OPERATORS))
def test_an_op_on_integers_is_its_float_op(name: str) -> None:
    op, shape, ops = OPERATORS[name]
    within_a_step(operator(op, shape), "2x4x4x4", ops)


def test_a_gemm_on_integers_is_a_gemm() -> None:
    op = node("QGemm", "a s z mt mts mtz gb t u", "o", domain=MS, transB=1)
    within_a_step(operator(op, "6x5", "6x4"), "6x4", ["Gemm"])


def test_what_is_moved_as_integers_is_moved_as_floats_with_its_padding() -> None:
    """Zero padding of integers is the lowest value there is: 0.05 · (0 − 120) = −6."""
    nodes = [
        node("QuantizeLinear", "x s z", "a"),
        node("Transpose", "a", "b", perm=[0, 1, 3, 2]),
        node("Pad", "b pads", "c"),
        node("MaxPool", "c", "d", kernel_shape=[1, 1]),
        node("DequantizeLinear", "d s z", "y"),
    ]
    held = {"s": HELD["s"], "z": HELD["z"], "pads": np.array([0, 0, 1, 0, 0, 0, 0, 0], np.int64)}
    built = model(nodes, {"x": "1x2x3x4"}, ["y"], held)
    built.proto.graph.value_info.add().CopyFrom(value("b", "1x2x4x3", UINT8))
    back = stripped(built)
    assert kinds(back) == ["Transpose", "Pad", "MaxPool"]
    assert {v.name: v.type.tensor_type.elem_type for v in back.proto.graph.value_info} == {"b": FLOAT}
    feeds = {"x": np.round(weight("1x2x3x4") * 20) * np.float32(0.05)}
    assert np.allclose(outputs(back, feeds)["y"], outputs(built, feeds)["y"], atol=1e-6)
    assert outputs(back, feeds)["y"][0, 0, 0, 0] == np.float32(-6)


@pytest.mark.parametrize(("scale", "put_back"), [(0.05, ["Relu"]), (6 / 255, ["Clip"])])
def test_a_relu_that_the_integers_were_is_put_back(scale: float, put_back: list[str]) -> None:
    nodes = [
        node("Conv", "x w", "a"),
        node("QuantizeLinear", "a s z", "aq"),
        node("DequantizeLinear", "aq s z", "ad"),
        node("Conv", "ad v", "y"),
    ]
    held = {"w": "4x3x1x1", "v": "4x4x1x1", "s": np.float32(scale), "z": np.uint8(0)}
    built = model(nodes, {"x": "1x3x8x8"}, ["y"], held)
    back = stripped(built)
    assert kinds(back) == ["Conv", *put_back, "Conv"]
    feeds = samples(1)[0]
    assert sqnr_db(outputs(built, feeds)["y"], outputs(back, feeds)["y"]) > 30


def test_blocks_and_integers_that_others_read_become_floats_beside_them() -> None:
    nodes = [
        node("DequantizeLinear", "q s z", "w", axis=0, block_size=4),
        node("MatMul", "x w", "a"),
        node("DequantizeLinear", "r t", "v"),
        node("MatMul", "a v", "y"),
        node("Shape", "r", "n"),
    ]
    rng = np.random.default_rng(0)
    held = {
        "q": rng.integers(0, 255, (8, 6), np.uint8),
        "s": rng.random((2, 6), np.float32),
        "z": rng.integers(0, 255, (2, 6), np.uint8),
        "r": rng.integers(-9, 9, (6, 3), np.int8),
        "t": np.float32(0.5),
    }
    built = model(nodes, {"x": "2x8"}, ["y", "n"], held, opset=21, ir_version=10)
    wanted = outputs(built, {"x": weight("2x8")}, execution=Execution.NODE_BY_NODE)["y"]
    back = stripped(built)
    assert kinds(back) == ["MatMul", "MatMul", "Shape"]
    assert [str(back.weights[name].dtype) for name in ("q", "r", "v")] == ["float32", "int8", "float32"]
    assert np.allclose(outputs(back, {"x": weight("2x8")})["y"], wanted, rtol=1e-5)


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
    held = {"m": RNG.integers(0, 9, (8, 5), np.int8), "s": HELD["s"], "t": HELD["t"], "z": HELD["z"]}
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
    assert kinds(found) == kinds(plain)
    assert constants(found) == constants(stripped(integers))
