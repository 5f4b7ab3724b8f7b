"""Which weights are pruned: where they are stored, who shares them, and which were never learnt."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnxsparse import ModelError, ParamError, layers
from onnxsparse.analysis import stored_weights as constants
from onnxsparse.ir.model import Model
from tests.graphs import chain, node, proto, weight
from tests.pruning.pruned import prune, reasons


class TestNeverLearnt:
    def leaves_alone(self, built: onnx.ModelProto, word: str) -> None:
        _, report = prune(built)
        assert not report.changes
        assert word in next(iter(reasons(report).values()))

    def test_the_ramp_of_a_detector(self) -> None:
        ramp = np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)
        self.leaves_alone(proto([node("Conv", "x w", "y")], {"x": "1x16x4x10"}, ["y"], {"w": ramp}), "ramp")

    def test_a_blur(self) -> None:
        row = np.array([1, 2, 1], np.float32)
        blur = np.tile((row[:, None] * row)[None, None] / 16, (8, 1, 1, 1))
        self.leaves_alone(proto([node("Conv", "x w", "y", group=8)], {"x": "1x8x9x9"}, ["y"], {"w": blur}), "same filter")

    def test_a_fourier_basis(self) -> None:
        n, k = np.arange(16), np.arange(9)[:, None]
        window = np.hanning(17)[:-1]
        basis = np.concatenate([np.cos(2 * np.pi * k * n / 16), np.sin(2 * np.pi * k[1:8] * n / 16)]) * window
        built = proto([node("Conv", "x w", "y")], {"x": "1x1x64"}, ["y"], {"w": basis[:, None].astype(np.float32)})
        self.leaves_alone(built, "symmetric")

    def test_a_permutation(self) -> None:
        eye = np.eye(8, dtype=np.float32)[::-1].copy()
        self.leaves_alone(proto([node("MatMul", "x w", "y")], {"x": "2x8"}, ["y"], {"w": eye}), "selects or moves")


class TestSharedWeights:
    def heads(self, count: int = 5) -> onnx.ModelProto:
        """One weight over a pyramid: 16², 8², 4², 2², 1² positions, and a private layer before each."""
        nodes, inputs, outputs = [], {}, []
        for i in range(count):
            nodes.append(node("Conv", f"p{i} shared", f"y{i}", name=f"head{i}"))
            inputs[f"p{i}"] = f"1x8x{16 >> i}x{16 >> i}"
            outputs.append(f"y{i}")
        return proto(nodes, inputs, outputs, {"shared": "4x8x1x1"})

    def test_each_use_counts(self) -> None:
        found = layers(Model.from_proto(self.heads()))
        assert found.totals.weights == 32
        assert found.totals.macs == 32 * (256 + 64 + 16 + 4 + 1)
        assert found.totals.weight_macs == found.totals.macs

    def test_it_is_pruned_once_for_all_its_users(self) -> None:
        pruned, report = prune(self.heads(), sparsity_op=0.5)
        assert [change.zeros_after for change in report.changes] == [16]
        assert layers(pruned).totals.sparsity_op == 0.5

    def test_excluding_one_user_spares_it(self) -> None:
        _, report = prune(self.heads(), exclude=("head2",))
        assert not report.changes
        assert "shares its weight with an excluded layer" in reasons(report)["head0"]


class TestWhereWeightsAre:
    def test_in_a_constant_node(self) -> None:
        constant = node("Constant", "", "w", value=numpy_helper.from_array(weight("32x32")))
        pruned, report = prune(proto([constant, node("MatMul", "x w", "y")], {"x": "2x32"}), sparsity_op=0.5)
        assert [change.tensor for change in report.changes] == ["w"]
        assert np.count_nonzero(pruned.weights["w"]) == 512

    def test_listed_as_an_input_too(self) -> None:
        built = proto([node("MatMul", "x w", "y")], {"x": "2x8", "w": "8x8"}, ["y"], {"w": "8x8"}, ir_version=3)
        pruned, _ = prune(built, sparsity_op=0.5)
        assert [value.name for value in pruned.proto.graph.input] == ["x", "w"]
        assert np.count_nonzero(pruned.weights["w"]) == 32

    def test_read_through_identity_cast_and_transpose(self) -> None:
        nodes = [
            node("Identity", "w", "i"),
            node("Cast", "i", "c", to=TensorProto.FLOAT),
            node("Transpose", "c", "t"),
            node("MatMul", "x t", "y"),
        ]
        pruned, _ = prune(proto(nodes, {"x": "2x8"}, ["y"], {"w": weight("6x8").astype(np.float16)}), sparsity_op=0.5)
        assert pruned.weights["w"].dtype == np.float16
        assert np.count_nonzero(pruned.weights["w"]) == 24

    def test_zero_of_a_dequantized_weight_is_the_zero_point(self) -> None:
        quantized = np.arange(-32, 32, dtype=np.int8).reshape(8, 8)
        points = np.arange(8, dtype=np.int8)
        nodes = [node("DequantizeLinear", "q s z", "w", axis=0), node("MatMul", "x w", "y")]
        built = proto(nodes, {"x": "2x8"}, ["y"], {"q": quantized, "s": np.full(8, 0.1, np.float32), "z": points})
        before = layers(Model.from_proto(built)).totals.zero_weights
        assert before == int((quantized == points[:, None]).sum()) == 1
        pruned, _ = prune(built, sparsity_op=0.5)
        assert int((pruned.weights["q"] == points[:, None]).sum()) == 32
        changed = pruned.weights["q"] != quantized
        assert np.array_equal(pruned.weights["q"][changed], np.broadcast_to(points[:, None], (8, 8))[changed])

    def test_assembled_from_gates(self) -> None:
        """W of an LSTM made of slices and a Concat, as torch.export writes it."""
        nodes = [
            node("Slice", "p zero six zero", "front"),
            node("Slice", "p six end zero", "back"),
            node("Concat", "back front", "order", axis=0),
            node("Unsqueeze", "order zero", "w"),
            node("LSTM", "x w r", "y", hidden_size=3),
        ]
        index = {n: np.array([v], np.int64) for n, v in (("zero", 0), ("six", 6), ("end", 12))}
        built = proto(nodes, {"x": "7x2x5"}, ["y"], {"p": "12x5", "r": "1x12x3", **index})
        found = layers(Model.from_proto(built))
        assert {use.tensor: use.uses for use in found[0].weights} == {"p": 14, "r": 14}
        pruned, _ = prune(built, sparsity_op=0.5)
        assert layers(pruned).totals.sparsity_op == pytest.approx(0.5, abs=0.02)

    def test_a_computed_weight_is_left_alone_with_the_reason(self) -> None:
        nodes = [node("Mul", "w g", "v"), node("MatMul", "x v", "y")]
        _, report = prune(proto(nodes, {"x": "2x8"}, ["y"], {"w": "8x8", "g": "8"}))
        assert reasons(report) == {"y": "its weight is computed in the graph, not stored"}
        assert "nothing was pruned" in report.notes[0]


@pytest.mark.parametrize("options", [{"sparsity_op": 0.6}, {"sparsity_op": 0.6, "pattern": "4x1"}, {"pattern": "2:4"}], ids=str)
def test_looking_at_weights_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch, options: dict[str, object]) -> None:
    built = Model.from_proto(chain(4, 8, 16, 4))
    whole, _ = prune(built, **options)
    monkeypatch.setattr(constants, "CHUNK", 7)
    monkeypatch.setattr(constants, "RELEASE_EVERY", 2)
    parts, report = prune(built, **options)
    assert report.changes
    assert parts.to_bytes() == whole.to_bytes()


class TestBadWeights:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, bad: float) -> None:
        array = weight("8x8")
        array[3, 4] = bad
        built = proto([node("MatMul", "x w", "y", name="dense")], {"x": "2x8"}, ["y"], {"w": array})
        with pytest.raises(ModelError, match="weight 'w' of node 'dense' has NaN or infinite elements"):
            prune(built)

    def test_no_elements(self) -> None:
        empty = np.zeros((0, 3, 1, 1), np.float32)
        built = proto([node("Conv", "x w", "y", name="c")], {"x": "1x3x8x8"}, ["y"], {"w": empty})
        with pytest.raises(ModelError, match=r"weight 'w' of node 'c' has no elements \(shape 0x3x1x1\)"):
            prune(built)

    def test_open_sizes(self) -> None:
        built = proto([node("Conv", "x w", "y")], {"x": "1x3xHxW"}, ["y"], {"w": "4x3x3x3"})
        with pytest.raises(ParamError, match=r"give them with --input-shape \(x: 1x3x\?x\?\)"):
            prune(built)
        _, report = prune(built, sparsity=0.5)
        assert report.changes
