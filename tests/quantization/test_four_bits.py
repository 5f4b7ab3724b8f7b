"""Weights of 4 bits: how they are stored, that they run as written, and what wide layers are among them."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxsparse import Model, ParamError, Prune, Quantize
from onnxsparse.analysis.layers import layers
from onnxsparse.cost.registry import predicting_backend
from onnxsparse.ir.model import Model as AnyModel
from onnxsparse.ir.weights import Array
from onnxsparse.quantization.accuracy.mixed_precision import candidates, wide_set
from onnxsparse.quantization.accuracy.mixed_precision import widths as widths_of
from onnxsparse.quantization.accuracy.output_noise import Tensor
from onnxsparse.quantization.accuracy.wide_cost import WideCost
from onnxsparse.quantization.plan.placement import place
from onnxsparse.quantization.plan.target import load_target
from onnxsparse.quantization.write.grid import Grid
from onnxsparse.quantization.write.weights import Sharing, quantize_weight, weight_scale
from onnxsparse.runtime.session import Execution
from tests.graphs import model, node, proto, weight
from tests.quantization.int8_models import MS, floats, outputs, quantize, residual, samples, sqnr_db

X86 = "onnxruntime-x86"


def kinds(built: AnyModel) -> dict[str, int]:
    """Weight → its stored type."""
    return {name: built.weights.proto(name).data_type for name in ("w0", "w1", "w2")}


@pytest.mark.parametrize(("opset", "domain"), [(13, MS), (21, "")])
def test_four_bits_are_stored_as_such_and_run(opset: int, domain: str) -> None:
    proto = residual()
    proto.opset_import[0].version = opset
    plain = Model.from_proto(proto)
    written, _ = quantize(plain.copy(), samples(), target=X86, weight_bits=4)
    assert set(kinds(written).values()) == {onnx.TensorProto.INT4}
    assert {node.domain for node in written.proto.graph.node if node.input[0] in kinds(written)} == {domain}
    assert max(np.abs(floats(written, name)).max() for name in kinds(written)) == 7
    feeds = samples(9)[8]
    wanted, found = (next(iter(outputs(each, feeds).values())) for each in (plain, written))
    assert 10 < sqnr_db(wanted, found) < 40
    as_run = next(iter(outputs(written, feeds, Execution.AS_RUN).values()))
    assert np.allclose(found, as_run, atol=0.02 * np.abs(found).max())


def test_a_zero_stays_zero_and_pruning_finds_it() -> None:
    plain = Model.from_proto(residual())
    Prune(sparsity=0.5, protect="none").run(plain)
    zeros = plain.weights["w1"] == 0
    written, _ = quantize(plain.copy(), samples(), target=X86, weight_bits=4)
    assert zeros.any() and not floats(written, "w1")[zeros].any()
    before = layers(written).totals.zero_weights or 0
    Prune(sparsity=0.8, protect="none").run(written)
    assert (layers(written).totals.zero_weights or 0) > before


def test_wide_weights_have_the_width_of_the_file() -> None:
    plain = Model.from_proto(residual())
    written, report = quantize(plain.copy(), samples(), target=X86, weight_bits=4, wide_layers=1)
    assert sorted(kinds(written).values()) == sorted([onnx.TensorProto.INT8, *[onnx.TensorProto.INT4] * 2])
    assert any("0 activations of 16, 1 weights of 8" in note for note in report.notes)


def three_widths(folder: Path) -> str:
    """The CV22's file for a device that has weights of 4 bits too."""
    text = files("onnxsparse.targets").joinpath("cv22.toml").read_text()
    path = folder / "three.toml"
    path.write_text(text.replace('wide = "int16"', 'wide = "int16"\nbits = [4, 8, 16]', 1))
    return str(path)


@pytest.mark.parametrize(
    ("allowed", "widths"), [(2.0, {}), (0.5, {"w": 8}), (0.003, {"w": 8, "v": 8}), (0.001, {"w": 16, "v": 8})]
)
def test_a_weight_of_4_bits_gets_8_and_then_16(allowed: float, widths: dict[str, int], tmp_path: Path) -> None:
    """By hand: with 8 bits, a 256th of the noise is left, 0.0039 · 0.6 of w, and 0.0039 · 0.1 of v."""
    target = load_target(three_widths(tmp_path)).changed(weight_bits=4)
    tensors = [Tensor("w", True, 0, np.array([0.6])), Tensor("v", True, 1, np.array([0.1]))]
    found = candidates(tensors, target)
    assert sum(each.noise for each in found) == pytest.approx(0.7)
    assert widths_of(wide_set(found, allowed)) == widths


def test_a_second_width_costs_what_it_adds_to_the_first(tmp_path: Path) -> None:
    target = three_widths(tmp_path)
    placement = place(
        model([node("Gemm", "x w", "y")], {"x": "1x512"}, ["y"], {"w": "512x512"}),
        load_target(target).changed(weight_bits=4),
        {},
    )
    cost = WideCost.of(placement, predicting_backend(target, "quantize"))
    first, second = cost.priced(candidates([Tensor("w", True, 0, np.ones(1))], placement.anatomy.target))
    assert 0 < first.added_ms < second.added_ms
    assert first.added_ms + second.added_ms == pytest.approx(cost.latency_ms([first, second]) - cost.latency_ms([]))


@pytest.mark.parametrize(("wanted_db", "widest"), [(20.0, 4), (36.0, 8), (66.0, 16)])
def test_three_widths_in_one_file(wanted_db: float, widest: int, tmp_path: Path) -> None:
    """Activations have 16 bits, so that weights decide."""
    plain = Model.from_proto(residual())
    target = three_widths(tmp_path)
    options = {"target": target, "weight_bits": 4, "activation_bits": 16, "rounding": "nearest"}
    written, report = quantize(plain.copy(), samples(40), min_sqnr=wanted_db, **options)
    stored: dict[int, int] = {onnx.TensorProto.INT4: 4, onnx.TensorProto.INT8: 8, onnx.TensorProto.INT16: 16}
    assert max(stored[kind] for kind in kinds(written).values()) == widest
    assert any("was requested: the worst output or slice has" in note for note in report.notes)
    feeds = samples(50)[49]
    level = sqnr_db(*(next(iter(outputs(each, feeds).values())) for each in (plain, written)))
    assert wanted_db - 3 < level < wanted_db + 24, report.notes


def test_rounding_is_gptq_if_nothing_else_is_asked_for() -> None:
    plain, data = Model.from_proto(residual()), samples(20)
    notes = {
        way: " ".join(quantize(plain.copy(), data, target=X86, weight_bits=4, rounding=way)[1].notes)
        for way in (None, "gptq", "nearest")
    }
    assert "gptq" in notes[None] and "gptq" in notes["gptq"] and "gptq" not in notes["nearest"]
    assert "gptq" not in " ".join(quantize(plain.copy(), data, target=X86)[1].notes)
    assert "gptq" not in " ".join(quantize(plain.copy(), data[:1], target=X86, weight_bits=4)[1].notes)


def wider() -> onnx.ModelProto:
    """A Conv whose input channels are two blocks of 16, one with 24, a Gemm that reads its weight transposed, and a MatMul."""
    nodes = [
        node("Conv", "x w0 b0", "c0", pads=[1] * 4),
        node("Relu", "c0", "r0"),
        node("Conv", "r0 w1", "c1"),
        node("Relu", "c1", "r1"),
        node("GlobalAveragePool", "r1", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f w2 b2", "h", transB=1),
        node("MatMul", "h w3", "y"),
    ]
    weights: dict[str, str | Array] = {
        "w0": "24x32x3x3",
        "b0": "24",
        "w1": "32x24x1x1",
        "w2": "48x32",
        "b2": "48",
        "w3": "48x8",
    }
    built = proto(nodes, {"x": "1x32x6x6"}, ["y"], weights)
    built.opset_import[0].version = 21
    return built


class TestBlocks:
    def blocked(self, **options: object) -> tuple[AnyModel, AnyModel]:
        plain = Model.from_proto(wider())
        data = [{"x": weight("1x32x6x6", seed)} for seed in range(8)]
        return plain, quantize(plain.copy(), data, target=X86, weight_bits=4, weight_block=16, **options)[0]

    def test_scales_have_the_shape_that_onnx_wants_and_the_model_runs(self, tmp_path: Path) -> None:
        plain, written = self.blocked()
        shapes = {name: written.weights.shape(f"{name}_scale") for name in ("w0", "w1", "w2", "w3")}
        assert shapes == {"w0": (24, 2, 3, 3), "w1": (32,), "w2": (48, 2), "w3": (3, 8)}
        written.save(tmp_path / "m.onnx")
        onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
        feeds = {"x": weight("1x32x6x6", 99)}
        wanted, found = (next(iter(outputs(each, feeds).values())) for each in (plain, written))
        assert sqnr_db(wanted, found) > 10

    @pytest.mark.parametrize("rounding", ["nearest", "gptq"])
    def test_finer_scales_lose_less(self, rounding: str) -> None:
        feeds = [{"x": weight("1x32x6x6", seed)} for seed in range(90, 99)]
        plain, fine = self.blocked(rounding=rounding)
        coarse = quantize(plain.copy(), feeds[:8], target=X86, weight_bits=4, rounding=rounding)[0]
        levels = [
            sum(sqnr_db(*(next(iter(outputs(each, given).values())) for each in (plain, model))) for given in feeds)
            for model in (coarse, fine)
        ]
        assert levels[0] < levels[1]

    def test_nearest_integers_by_hand(self) -> None:
        values = np.array([[1, -7, 3, 0.5], [0, 0, 0, 14]], np.float32)
        grid, sharing = Grid(4, narrow=True), Sharing(1, 2)
        scale = weight_scale(values, sharing, grid)
        assert np.allclose(scale, [[1.0, 3 / 7], [2.0, 2.0]])  # a block of zeros has the tensor's
        found = quantize_weight(values, scale, sharing, grid)
        assert found.integers.astype(int).tolist() == [[1, -7, 7, 1], [0, 0, 0, 7]]
        assert np.allclose(sharing.times(found.integers, scale), np.array([[1, -7, 3, 3 / 7], [0, 0, 0, 14]], np.float64))
        assert sharing.of_outputs(scale, 0).tolist() == [1, 2]
        across = quantize_weight(values.T, weight_scale(values.T, Sharing(0, 2), grid), Sharing(0, 2), grid)
        assert np.array_equal(across.integers.astype(int).T, found.integers.astype(int))

    def test_zeros_stay_and_scales_can_be_taken_out_again(self) -> None:
        plain = Model.from_proto(wider())
        Prune(sparsity=0.5, protect="none").run(plain)
        zeros = plain.weights["w0"] == 0
        data = [{"x": weight("1x32x6x6", seed)} for seed in range(8)]
        written, _ = quantize(plain.copy(), data, target=X86, weight_bits=4, weight_block=16)
        assert not floats(written, "w0")[zeros].any()
        again, _ = quantize(written.copy(), data, target=X86, requantize=True)
        assert again.weights.proto("w0").data_type == onnx.TensorProto.INT8
        assert not floats(again, "w0")[zeros].any()

    def test_bad_input(self) -> None:
        with pytest.raises(ParamError, match=r"--weight-block needs opset 21, and .* has 17; convert it"):
            Quantize(target=X86, weight_bits=4, weight_block=32).check_model(Model.from_proto(residual()))
        others: list[dict[str, Any]] = [{}, {"weight_bits": 8}, {"weight_bits": 4, "per_tensor": True}]
        for options in others:
            with pytest.raises(ParamError, match="--weight-block is for weights of 4 bits"):
                Quantize(target=X86, weight_block=32, **options).run(Model.from_proto(wider()), samples())


def test_the_cv22_has_no_four_bits() -> None:
    with pytest.raises(ParamError, match="8 or 16 bits"):
        Quantize(weight_bits=4).run(Model.from_proto(residual()), samples())
