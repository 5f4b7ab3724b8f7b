"""Models with integers run as they are written, on every processor; and as a processor runs them, told apart."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import onnxsparse.runtime.session
from onnxsparse.ir.model import Model
from onnxsparse.ir.sparse import every_graph
from onnxsparse.ops import find
from onnxsparse.passes.quantize import Quantize
from onnxsparse.pipeline.learning import Judging
from onnxsparse.pipeline.run import Pipeline
from onnxsparse.runtime.as_run import run_here, saturates
from onnxsparse.runtime.bisect import bisect
from onnxsparse.runtime.compare import compare
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import Execution, Feeds, exactly_written, processor_notes, runner
from tests.channels.cutting import halve, sound
from tests.graphs import FLOAT, INT32, UINT8, Array, model, node, value, weight
from tests.saturation import run_saturating

MS = {"com.microsoft": 1}
X, W = np.full((1, 4), 255, np.uint8), np.full((4, 2), 127, np.int8)
"""Four products of 255 and 127 are 129 540; in pairs of 16 bits, 2 × 32 767."""

ONE = {"s": np.float32(1), "z": np.uint8(0), "wz": np.int8(0)}


def run(built: Model, **feeds: Array) -> Array:
    """The first output, of a model that has no op left whose kernel multiplies integers, as those of some processors saturate."""
    written, kept = exactly_written(built)
    nodes = [n for graph in every_graph(written.proto) for n in graph.node]
    specs = [find(n.domain, n.op_type, built.opset(n.domain)) for n in nodes]
    assert not kept
    assert not [spec.op_type for spec in specs if spec is not None and (spec.quant.exact or spec.quant.form)]
    return next(iter(runner(built).run(feeds).values()))


class TestProductsOfIntegers:
    def test_integer_matmul(self) -> None:
        built = model([node("MatMulInteger", "x w xz wz", "y")], {"x": ("1x4", UINT8)}, ["y"], {"w": W, "xz": np.uint8(5), **ONE})
        assert run(built, x=X).tolist() == [[4 * 250 * 127] * 2]

    def test_integer_matmul_with_a_zero_point_for_each_column(self) -> None:
        held = {"w": W, "xz": np.uint8(0), "wz": np.array([0, 27], np.int8)}
        built = model([node("MatMulInteger", "x w xz wz", "y")], {"x": ("1x4", UINT8)}, ["y"], held)
        assert run(built, x=X).tolist() == [[4 * 255 * 127, 4 * 255 * 100]]

    @pytest.mark.parametrize(("zero", "kept"), [(np.int8(0), [127, 127]), (np.array([0, 27], np.int8), [127, 100])])
    def test_integer_convolution_pads_with_what_stands_for_zero(self, zero: Array, kept: list[int]) -> None:
        held = {"w": np.full((2, 4, 1, 2), 127, np.int8), "xz": np.uint8(5), "wz": zero}
        nodes = [node("ConvInteger", "x w xz wz", "y", pads=[0, 0, 0, 1])]
        built = model(nodes, {"x": ("1x4x1x2", UINT8)}, ["y"], held)
        found = run(built, x=np.full((1, 4, 1, 2), 255, np.uint8))
        assert found.dtype == np.int32
        assert found[0, :, 0].tolist() == [[8 * 250 * k, 4 * 250 * k] for k in kept]

    def test_matmul_of_integers_to_floats(self) -> None:
        held = {"w": W, "xs": np.float32(0.5), "ws": np.array([1, 2], np.float32), "b": np.array([1, -1], np.float32)}
        nodes = [node("MatMulIntegerToFloat", "x w xs ws _ _ b", "y", domain="com.microsoft")]
        built = model(nodes, {"x": ("1x4", UINT8)}, ["y"], held, domains=MS)
        assert run(built, x=X).tolist() == [[129540 / 2 + 1, 129540 - 1]]

    def test_matmul_of_floats_that_are_quantized_by_their_range(self) -> None:
        held = {"w": W, "ws": np.float32(1), "b": np.array([1, -1], np.float32)}
        nodes = [node("DynamicQuantizeMatMul", "x w ws _ b", "y", domain="com.microsoft")]
        built = model(nodes, {"x": "1x4"}, ["y"], held, domains=MS)
        # the range of 255 and 0 has steps of 1
        assert run(built, x=X.astype(np.float32)).tolist() == [[129541, 129539]]

    @pytest.mark.parametrize("op", ["QLinearMatMul", "QGemm"])
    def test_products_with_scales(self, op: str) -> None:
        held = {"w": W, "t": np.float32(2048), **ONE}
        order = "x s z w s wz t z" if op == "QLinearMatMul" else "x s z w s wz _ t z"
        built = model(
            [node(op, order, "y", domain="" if op[1] == "L" else "com.microsoft")], {"x": ("1x4", UINT8)}, ["y"], held, domains=MS
        )
        assert run(built, x=X).tolist() == [[63, 63]]  # 129 540 / 2048 = 63.25; 32 with sums that saturate

    @pytest.mark.parametrize("opset", [10, 17])
    def test_convolution_with_a_scale_for_each_output(self, opset: int) -> None:
        held = {"w": np.full((2, 4, 1, 1), 127, np.int8), "ws": np.array([1, 2], np.float32), "wz": np.zeros(2, np.int8)}
        held |= {"t": np.float32(2048), "s": ONE["s"], "z": ONE["z"]}
        built = model([node("QLinearConv", "x s z w ws wz t z", "y")], {"x": ("1x4x1x1", UINT8)}, ["y"], held, opset=opset)
        assert run(built, x=X.reshape(1, 4, 1, 1)).reshape(-1).tolist() == [63, 127]  # 126.504 in the second

    def test_attention_on_integers_is_attention_on_floats(self) -> None:
        rng = np.random.default_rng(0)
        integers = {"w": rng.integers(-127, 128, (8, 24), np.int8), "x": rng.integers(0, 256, (1, 3, 8), np.uint8)}
        held = {"w": integers["w"], "b": weight("24"), "xs": np.float32(1 / 64), "ws": np.float32(1 / 256), "xz": np.uint8(128)}
        nodes = [node("QAttention", "x w b xs ws _ xz", "y", domain="com.microsoft", num_heads=2)]
        built = model(nodes, {"x": ("1x3x8", UINT8)}, ["y"], held, domains=MS)
        real = {"w": (integers["w"] / 256).astype(np.float32), "b": held["b"]}
        floats = model(
            [node("Attention", "x w b", "y", domain="com.microsoft", num_heads=2)], {"x": "1x3x8"}, ["y"], real, domains=MS
        )
        given = ((integers["x"].astype(np.float32) - 128) / 64).astype(np.float32)
        assert np.allclose(run(built, x=integers["x"]), run(floats, x=given), atol=1e-5)

    def test_what_stands_in_a_body_is_written_out_too(self) -> None:
        inner = node("MatMulInteger", "x w", "b")
        branch = helper.make_graph([inner], "branch", [], [value("b", "1x2", INT32)])
        nodes = [node("If", "c", "y", then_branch=branch, else_branch=branch)]
        built = model(nodes, {"x": ("1x4", UINT8), "c": ("1", onnx.TensorProto.BOOL)}, ["y"], {"w": W})
        assert run(built, x=X, c=np.array([True])).tolist() == [[129540] * 2]
        assert not processor_notes(built)

    def test_values_keep_their_names_and_the_model_stays_as_it_is(self) -> None:
        built = model(
            [node("MatMulInteger", "x w", "a"), node("Cast", "a", "y", to=FLOAT)], {"x": ("1x4", UINT8)}, ["y"], {"w": W}
        )
        before = built.to_bytes()
        found = runner(built, also=["a"]).run({"x": X})
        assert found["a"].tolist() == found["y"].tolist() == [[129540] * 2]
        assert built.to_bytes() == before

    def test_what_cannot_be_written_out_is_named(self) -> None:
        lstm = {
            "w": np.ones((1, 2, 12), np.int8),
            "r": np.ones((1, 3, 12), np.int8),
            "s": np.full((1,), 0.01, np.float32),
            "wz": np.zeros((1,), np.int8),
        }
        order = "x w r _ _ _ _ _ s wz s wz"
        nodes = [node("DynamicQuantizeLSTM", order, "y", name="", domain="com.microsoft", hidden_size=3)]
        built = model(nodes, {"x": "2x1x2"}, ["y"], lstm, domains=MS)
        said = "the model: #0 y depends on the processor: DynamicQuantizeLSTM: it multiplies integers inside of one kernel"
        assert processor_notes(built) == [said]
        feeds = Samples(({"x": weight("2x1x2")}, {"x": weight("2x1x2", 1)}))
        assert said in compare(built, built, feeds).notes
        assert said in bisect(built, built, feeds).notes


def positive(op: str) -> Model:
    """Two layers whose products all have one sign, as large as they come: what saturates most."""
    first = {"Conv": "8x8x3x3", "Gemm": "8x16", "MatMul": "16x8"}[op]
    second = {"Conv": "4x8x1x1", "Gemm": "8x5", "MatMul": "8x5"}[op]
    every: dict[str, dict[str, Any]] = {"Conv": {"pads": [1] * 4}, "Gemm": {"transB": 1}, "MatMul": {}}
    bias = " b" if op == "Gemm" else ""
    nodes = [node(op, f"x w{bias}", "a", **every[op]), node(op, "a v", "y")]
    held = {"w": np.abs(weight(first)) + 1, "v": second, **({"b": "8"} if bias else {})}
    return model(nodes, {"x": "1x8x6x6" if op == "Conv" else "2x16"}, ["y"], held, opset=21, ir_version=10)


def inputs(built: Model, count: int = 4) -> list[Feeds]:
    sizes = [d.dim_value for d in built.proto.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    return [{"x": (np.abs(rng.standard_normal(sizes)) + 0.5).astype(np.float32)} for _ in range(count)]


def quantized(built: Model, **options: Any) -> Model:
    done = built.copy()
    Quantize(**options).run(done, inputs(built))
    return done


class TestAsRun:
    @pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
    def test_a_run_that_saturates_is_told_apart_from_the_file(self, op: str) -> None:
        built = positive(op)
        done = quantized(built, target="onnxruntime-x86")
        found = compare(built, done, Samples(tuple(inputs(built))), as_run=run_saturating)
        (output,) = found.outputs
        assert output.sqnr_db is not None and output.as_run_sqnr_db is not None
        assert output.sqnr_db > 40 > output.as_run_sqnr_db + 5
        assert output.lowest_db is not None
        assert found.passes(output.lowest_db)  # limits go by the file
        assert output.lowest_db > output.as_run_sqnr_db
        assert any(f"{output.as_run_sqnr_db:.2f} dB as it runs here" in text for text in found.notes)
        assert any("no VNNI" in text and "onnxruntime-x86-avx2" in text for text in found.notes)
        assert found.to_json()["outputs"][0]["as_run_sqnr_db"] == output.as_run_sqnr_db  # type: ignore[index]  # a list of rows

    @pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
    def test_weights_of_seven_bits_do_not_saturate(self, op: str) -> None:
        built = positive(op)
        done = quantized(built, target="onnxruntime-x86-avx2")
        assert np.abs(done.weights["w"].astype(int)).max() == 63
        found = compare(built, done, Samples(tuple(inputs(built))), as_run=run_saturating)
        assert found.outputs[0].as_run_sqnr_db == pytest.approx(found.outputs[0].sqnr_db, abs=0.1)
        assert not any("as it runs here" in text for text in found.notes)

    def test_a_model_without_integers_has_one_session(self, monkeypatch: pytest.MonkeyPatch) -> None:
        built = positive("MatMul")
        done = quantized(built, target="onnxruntime-x86")
        started: list[str] = []
        start = onnxsparse.runtime.session.start

        def watched(given: Model, *rest: Any) -> Any:
            started.append("integers" if any("Quantize" in n.op_type for n in given.proto.graph.node) else "floats")
            return start(given, *rest)

        monkeypatch.setattr(onnxsparse.runtime.session, "start", watched)
        compare(built, done, Samples(tuple(inputs(built))), as_run=run_here)
        assert sorted(started) == ["floats", "integers", "integers"]

    def test_a_difference_that_is_no_saturation_is_not_called_one(self) -> None:
        built = positive("MatMul")
        done = quantized(built, target="onnxruntime-x86")
        noisy = done.copy()
        noisy.weights["v_scale"] = noisy.weights["v_scale"].astype(np.float32) * np.float32(1.5)

        def run_noisy(given: Model, custom_ops: object = ()) -> Any:
            return runner(noisy if given is done else given)

        found = compare(built, done, Samples(tuple(inputs(built))), as_run=run_noisy)
        assert any("does not saturate" in text for text in found.notes)

    @pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
    def test_this_processor_is_one_of_the_two(self, op: str) -> None:
        """Where sums saturate, the numpy of these tests makes what onnxruntime makes; elsewhere the file is what runs."""
        built = positive(op)
        done = quantized(built, target="onnxruntime-x86")
        feed = inputs(built)[0]
        expected = (run_saturating(done) if saturates(run_here) else runner(done)).run(feed)["y"].astype(np.float64)
        assert np.abs(run_here(done).run(feed)["y"].astype(np.float64) - expected).max() <= 0.02 * np.abs(expected).max()

    def test_only_a_target_that_runs_here_is_tried_here(self) -> None:
        built = positive("MatMul")
        for target, tried in (("cv22", False), ("onnxruntime-x86", True)):
            step = FedQuantize(target=target)
            found = Pipeline([step]).run(built.copy(), Judging()).comparison
            assert found is not None
            assert (found.outputs[0].as_run_sqnr_db is not None) is tried


class FedQuantize(Quantize):
    """Quantize with the data of these tests, which no option names."""

    def check(self) -> None:
        """Nothing is missing."""

    def check_model(self, model: Model) -> None:
        """Everything fits."""

    def run(self, given: Model, samples: Any = None) -> Any:
        return super().run(given, inputs(given))


MEASURING: dict[str, Callable[[Model], object]] = {
    "ranges and biases": lambda built: quantized(partly(built)),
    "requantizing": lambda built: quantized(partly(built), requantize=True),
    "wide layers": lambda built: quantized(built, wide_layers=1),
    "least SQNR": lambda built: quantized(built, min_sqnr=60),
    "equalization": lambda built: quantized(built, equalize=True),
    "diagnosis": lambda built: quantized(built, diagnose=True),
    "comparison": lambda built: compare(built, partly(built)),
    "bisection": lambda built: bisect(built, partly(built)),
}


def partly(built: Model) -> Model:
    return quantized(built, exclude=("y",))


@pytest.mark.parametrize("measure", MEASURING)
def test_nothing_is_measured_on_fused_integers(measure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No session that tells a figure holds a quantizer that onnxruntime may fuse, or an op that multiplies integers."""
    seen: list[onnxruntime.SessionOptions] = []
    start = onnxsparse.runtime.session.start

    def watched(given: Model, options: Any, *rest: Any) -> Any:
        if any("Quantize" in n.op_type for n in given.proto.graph.node):
            seen.append(options)
        return start(given, options, *rest)

    monkeypatch.setattr(onnxsparse.runtime.session, "start", watched)
    MEASURING[measure](positive("Gemm"))
    assert seen
    assert {o.graph_optimization_level for o in seen} == {onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL}


def test_a_model_without_integers_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = []
    start = onnxsparse.runtime.session.start

    def watched(given: Model, options: Any, *rest: Any) -> Any:
        levels.append(options.graph_optimization_level)
        return start(given, options, *rest)

    monkeypatch.setattr(onnxsparse.runtime.session, "start", watched)
    runner(positive("Conv"))
    runner(positive("Conv"), execution=Execution.NODE_BY_NODE)
    level = onnxruntime.GraphOptimizationLevel
    assert levels == [level.ORT_ENABLE_ALL, level.ORT_DISABLE_ALL]


def test_a_cut_of_integers_is_proven_as_it_is_written() -> None:
    """The products of a QLinearConv saturate in pairs of neighbouring channels, which a cut makes others."""
    rng = np.random.default_rng(0)
    held: dict[str, Any] = {
        name: rng.integers(60, 128, shape, np.int8) for name, shape in (("w", (8, 4, 1, 1)), ("v", (2, 8, 1, 1)))
    }
    held |= {"t": np.float32(2048), "u": np.float32(2**18), **ONE}
    nodes = [node("QLinearConv", "x s z w s wz t z", "a"), node("QLinearConv", "a t z v s wz u z", "y")]
    built = model(nodes, {"x": ("1x4x1x1", UINT8)}, ["y"], held)
    sound(*halve(built))
