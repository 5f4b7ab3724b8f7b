"""Pruning, from the option to the numbers in the file."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from onnxsparse import ApplyMasks, ModelError, ParamError, Prune, layers
from onnxsparse.analysis import stored_weights as constants
from onnxsparse.ir.model import Model
from onnxsparse.pipeline.base import StepReport
from tests.graphs import NAMINGS, chain, model, node, proto, weight


def prune(built: onnx.ModelProto | Model, **options: object) -> tuple[Model, StepReport]:
    pruned = Model.from_proto(built) if isinstance(built, onnx.ModelProto) else built.copy()
    return pruned, Prune(**options).run(pruned)  # type: ignore[arg-type]  # options come from the test's table


def sparsity_of(pruned: Model) -> dict[str, float]:
    return {layer.node: layer.sparsity or 0.0 for layer in layers(pruned)}


def reasons(report: StepReport) -> dict[str, str]:
    return {skip.node: skip.reason for skip in report.skipped}


@pytest.mark.parametrize("score", ["lamp", "l1"])
@pytest.mark.parametrize("target", [0.0, 0.3, 0.5, 0.77, 0.95])
def test_global_pruning_lands_within_one_weight(score: str, target: float) -> None:
    pruned, report = prune(chain(3, 8, 16, 16, 4), sparsity_op=target, score=score)
    totals = layers(pruned).totals
    largest = max(use.uses or 0 for layer in layers(pruned) for use in layer.weights)
    assert totals.zero_macs is not None
    assert target * totals.weight_macs <= totals.zero_macs < target * totals.weight_macs + largest
    assert report.after == totals


def test_the_papers_setting_is_a_global_sort_by_magnitude() -> None:
    built = Model.from_proto(chain(3, 8, 16, 4))
    options = {"score": "l1", "cost_exponent": 0, "protect": "none", "max_layer_sparsity": 1}
    pruned, _ = prune(built, sparsity_op=0.6, **options)
    kept, gone = [], []
    for layer in layers(built):
        before, after = built.weights[layer.weights[0].tensor], pruned.weights[layer.weights[0].tensor]
        assert np.array_equal(after[after != 0], before[after != 0])
        kept.append(np.abs(before[after != 0]))
        gone.append(np.abs(before[after == 0]))
    assert np.concatenate(gone).max() <= np.concatenate(kept).min()


def test_plain_sparsity_counts_weights() -> None:
    pruned, _ = prune(chain(3, 8, 16, 4), sparsity=0.61)
    totals = layers(pruned).totals
    assert totals.zero_weights == int(np.ceil(0.61 * totals.weights))


def test_layer_scope_takes_every_layer_to_the_target_within_one_weight() -> None:
    pruned, _ = prune(chain(3, 8, 16, 16, 4), sparsity_op=0.8, scope="layer", protect="none")
    for layer in layers(pruned):
        assert layer.zeros == int(np.ceil(0.8 * layer.elements)), layer.node


def test_without_a_target_half_goes_and_that_is_said() -> None:
    _, report = prune(chain(3, 8, 16, 4))
    assert report.after is not None
    assert report.after.sparsity_op == pytest.approx(0.5, abs=0.01)
    assert any("no target was given" in note for note in report.notes)


def test_stem_and_output_are_spared_while_the_target_allows() -> None:
    pruned, report = prune(chain(8, 8, 32, 32, 8), sparsity_op=0.5)
    found = sparsity_of(pruned)
    assert found["conv0"] == found["conv3"] == 0
    assert not any("protected" in note for note in report.notes)


def test_protected_layers_are_cut_when_the_others_do_not_suffice_and_that_is_said() -> None:
    pruned, report = prune(chain(8, 8, 32, 32, 8), sparsity_op=0.9)
    assert sparsity_of(pruned)["conv0"] > 0
    assert any("conv0 (stem)" in note and "cannot be reached" in note for note in report.notes)


def test_protect_none_spares_nothing() -> None:
    pruned, report = prune(chain(8, 8, 32, 32, 8), sparsity_op=0.5, protect="none", cost_exponent=0)
    assert sparsity_of(pruned)["conv0"] > 0
    assert not any("protected" in note for note in report.notes)


def test_sizes_make_no_stem() -> None:
    """The input's sizes reach every Reshape, its data only the first layer."""
    nodes = [
        node("MatMul", "x a", "h0"),
        node("Shape", "x", "sizes"),
        node("Reshape", "h0 sizes", "r0"),
        node("MatMul", "r0 b", "h1"),
        node("Reshape", "h1 sizes", "r1"),
        node("MatMul", "r1 c", "h2"),
        node("Shape", "h1", "late"),
        node("Reshape", "h2 late", "y"),
    ]
    built = proto(nodes, {"x": "8x16"}, ["y"], {"a": "16x16", "b": "16x16", "c": "16x16"})
    _, report = prune(built, sparsity_op=0.2)
    spared = "spared, the target is reached without it: "
    assert reasons(report) == {"h0": f"{spared}stem", "h2": f"{spared}output layer"}


def depthwise_net() -> onnx.ModelProto:
    weights = {"a": "16x3x3x3", "d": "16x1x3x3", "p": "32x16x1x1", "q": "32x32x1x1", "z": "8x32x1x1"}
    nodes = [
        node("Conv", "x a", "stem"),
        node("Conv", "stem d", "dw", group=16),
        node("Conv", "dw p", "pw"),
        node("Conv", "pw q", "qw"),
        node("Conv", "qw z", "y", name="head"),
    ]
    return proto(nodes, {"x": "1x3x16x16"}, ["y"], weights)


def test_depthwise_layers_are_spared() -> None:
    pruned, _ = prune(depthwise_net(), sparsity_op=0.4)
    assert sparsity_of(pruned)["dw"] == 0


@pytest.mark.parametrize("cap", [0.6, 0.75, 1.0])
def test_no_layer_exceeds_the_cap(cap: float) -> None:
    pruned, _ = prune(chain(3, 8, 16, 16, 4), sparsity_op=0.55, max_layer_sparsity=cap, cost_exponent=0)
    for node_name, sparsity in sparsity_of(pruned).items():
        assert sparsity <= cap, node_name


def test_a_target_above_the_cap_is_refused_with_what_is_possible() -> None:
    with pytest.raises(ParamError, match=r"sparsity_op 0.9 cannot be reached: 50 % is the most .* with --max-layer-sparsity 0.5"):
        prune(chain(3, 8, 16, 4), sparsity_op=0.9, max_layer_sparsity=0.5)


def test_excluding_too_much_makes_the_target_impossible() -> None:
    with pytest.raises(ParamError, match="cannot be reached"):
        prune(chain(3, 8, 64, 4), sparsity_op=0.9, exclude=("conv1",))


def test_zeros_that_are_there_count_and_stay() -> None:
    once, _ = prune(chain(3, 8, 16, 16, 4), sparsity_op=0.5)
    twice, _ = prune(once, sparsity_op=0.8)
    assert layers(twice).totals.sparsity_op == pytest.approx(0.8, abs=0.01)
    for name in once.weights:
        assert not np.any((once.weights[name] == 0) & (twice.weights[name] != 0)), name


def test_a_target_already_met_changes_nothing() -> None:
    once, _ = prune(chain(3, 8, 16, 16, 4), sparsity_op=0.7)
    twice, report = prune(once, sparsity_op=0.7)
    assert not report.changes
    assert twice.to_bytes() == once.to_bytes()
    assert any("nothing was pruned" in note for note in report.notes)


def test_pruning_is_deterministic_even_where_all_weights_tie() -> None:
    built = chain(3, 8, 16, 4)
    for tensor in built.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.ones(tuple(tensor.dims), np.float32), tensor.name))
    first, _ = prune(built, sparsity_op=0.5)
    second, _ = prune(built, sparsity_op=0.5)
    assert first.to_bytes() == second.to_bytes()
    assert layers(first).totals.sparsity_op == pytest.approx(0.5, abs=0.01)


def test_biases_and_names_stay() -> None:
    built = chain(3, 8, 16, 4)
    built.metadata_props.add(key="author", value="someone")
    built.graph.node[0].doc_string = "the stem"
    pruned, _ = prune(built, sparsity_op=0.7)
    after = onnx.ModelProto.FromString(pruned.to_bytes())
    for tensor in (*built.graph.initializer, *after.graph.initializer):
        if tensor.name.endswith(".weight"):
            tensor.ClearField("raw_data")
    assert after == built


class TestPatterns:
    def test_only(self) -> None:
        pruned, report = prune(chain(3, 8, 16, 4), sparsity_op=0.3, only=("conv1",))
        assert {n for n, s in sparsity_of(pruned).items() if s} == {"conv1"}
        assert reasons(report)["conv0"] == "not among --only"

    @pytest.mark.parametrize("pattern", ["conv0", "re:^conv0", "*0.weight", "conv[0]"])
    def test_exclude(self, pattern: str) -> None:
        pruned, report = prune(chain(3, 8, 16, 4), sparsity_op=0.3, exclude=(pattern,), protect="none")
        assert sparsity_of(pruned)["conv0"] == 0
        assert reasons(report)["conv0"] == "excluded"

    def test_an_op_type(self) -> None:
        nodes = [node("Conv", "x a", "c"), node("Flatten", "c", "f"), node("Gemm", "f b", "y")]
        built = proto(nodes, {"x": "1x3x4x4"}, ["y"], {"a": "8x3x1x1", "b": "128x9"})
        pruned, _ = prune(built, sparsity_op=0.5, only=("op:Gemm",))
        assert {n for n, s in sparsity_of(pruned).items() if s} == {"y"}

    def test_a_module_prefix_ends_at_a_name_part(self) -> None:
        nodes = [node("Conv", "x a", "c", name="/net/conv1/Conv"), node("Conv", "c b", "y", name="/net/conv10/Conv")]
        built = proto(nodes, {"x": "1x8x4x4"}, ["y"], {"a": "8x8x1x1", "b": "8x8x1x1"})
        pruned, _ = prune(built, sparsity_op=0.3, exclude=("net.conv1",))
        assert {n for n, s in sparsity_of(pruned).items() if s} == {"/net/conv10/Conv"}

    def test_a_file_of_patterns(self, tmp_path: Path) -> None:
        (tmp_path / "layers.txt").write_text("# the ends\nconv0\n\nconv2\n")
        pruned, _ = prune(chain(3, 8, 16, 4), sparsity_op=0.3, exclude=(f"@{tmp_path}/layers.txt",))
        assert {n for n, s in sparsity_of(pruned).items() if s} == {"conv1"}

    @pytest.mark.parametrize("pattern", ["conv9", "op:Gemm", "re:nothing", "*.none", "conv"])
    def test_a_pattern_that_matches_nothing_is_an_error(self, pattern: str) -> None:
        with pytest.raises(ParamError, match=r"matches no layer of the model \(names look like 'conv0'"):
            prune(chain(3, 8, 16, 4), exclude=(pattern,))

    def test_a_broken_expression_is_an_error(self) -> None:
        with pytest.raises(ParamError, match="is not a regular expression"):
            prune(chain(3, 8, 16, 4), only=("re:(",))


class TestOwnTargets:
    def test_a_layer_of_its_own_and_the_others_make_up_for_it(self) -> None:
        pruned, _ = prune(chain(8, 8, 32, 32, 8), sparsity_op=0.5, layer_sparsity=("conv1=0.25", "conv3=0.5"))
        found = sparsity_of(pruned)
        assert found["conv1"] == 0.25
        assert found["conv3"] == 0.5
        assert layers(pruned).totals.sparsity_op == pytest.approx(0.5, abs=0.001)

    def test_every_layer_with_one_exception(self) -> None:
        pruned, _ = prune(chain(8, 8, 32, 8), sparsity_op=0.5, scope="layer", layer_sparsity=("conv1=0",))
        assert sparsity_of(pruned) == {"conv0": 0.5, "conv1": 0, "conv2": 0.5}

    @pytest.mark.parametrize("text", ["conv1", "conv1=2", "=0.5", "conv1=half"])
    def test_what_is_no_override_is_said(self, text: str) -> None:
        with pytest.raises(ParamError, match="write it as PATTERN=VALUE"):
            prune(chain(3, 4), layer_sparsity=(text,))


class TestStructure:
    @staticmethod
    def groups(array: np.ndarray, axis: int, size: int) -> np.ndarray:
        return np.moveaxis(array, axis, -1).reshape(-1, size)

    def test_two_of_four_along_the_input_axis(self) -> None:
        built = Model.from_proto(chain(4, 8, 16, 4))
        pruned, _ = prune(built, pattern="2:4", protect="none")
        for i in range(3):
            before, after = built.weights[f"conv{i}.weight"], pruned.weights[f"conv{i}.weight"]
            old, new = self.groups(np.abs(before), 1, 4), self.groups(np.abs(after), 1, 4)
            assert (np.count_nonzero(new, axis=1) == 2).all()
            assert np.array_equal(np.sort(new, axis=1)[:, 2:], np.sort(old, axis=1)[:, 2:])

    @pytest.mark.parametrize(("op", "transposed", "axis"), [("MatMul", None, 0), ("Gemm", None, 0), ("Gemm", 1, 1)])
    def test_two_of_four_of_matrices(self, op: str, transposed: int | None, axis: int) -> None:
        built = model([node(op, "x w", "y", transB=transposed)], {"x": "2x16"}, ["y"], {"w": "16x16"})
        pruned, _ = prune(built, pattern="2:4", protect="none")
        assert (np.count_nonzero(self.groups(pruned.weights["w"], axis, 4), axis=1) == 2).all()

    def test_groups_follow_the_weight_through_a_transpose(self) -> None:
        nodes = [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")]
        pruned, _ = prune(model(nodes, {"x": "2x16"}, ["y"], {"w": "12x16"}), pattern="2:4", protect="none")
        assert (np.count_nonzero(self.groups(pruned.weights["w"], 1, 4), axis=1) == 2).all()

    def test_an_input_axis_that_does_not_divide_is_left_alone(self) -> None:
        pruned, report = prune(chain(3, 8, 16, 4), pattern="2:4", protect="none")
        assert sparsity_of(pruned)["conv0"] == 0
        assert reasons(report)["conv0"] == "its input axis has 3 elements, not a multiple of 4"

    def test_groups_leave_protected_layers_alone(self) -> None:
        _, report = prune(chain(4, 8, 16, 4), pattern="2:4")
        assert reasons(report)["conv0"] == "protected: stem"

    def test_groups_and_a_target_exclude_each_other(self) -> None:
        with pytest.raises(ParamError, match="leave the target out"):
            prune(chain(4, 8, 16, 4), pattern="2:4", sparsity_op=0.5)

    @pytest.mark.parametrize(("rows", "columns"), [(4, 1), (1, 4), (4, 4), (3, 5)])
    def test_blocks_go_whole_and_land_within_one_block(self, rows: int, columns: int) -> None:
        built = chain(4, 8, 16, 4)
        pruned, _ = prune(built, pattern=f"{rows}x{columns}", sparsity_op=0.5, protect="none")
        totals = layers(pruned).totals
        uses = max(use.uses or 0 for layer in layers(pruned) for use in layer.weights)
        assert totals.zero_macs is not None
        assert 0.5 * totals.weight_macs <= totals.zero_macs < 0.5 * totals.weight_macs + rows * columns * uses
        array = pruned.weights["conv1.weight"]
        for row in range(0, 16, rows):
            for column in range(0, 8, columns):
                block = array[row : row + rows, column : column + columns] != 0
                positions = block.reshape(-1, *block.shape[2:])
                assert (positions.all(axis=0) | ~positions.any(axis=0)).all(), (row, column)

    @pytest.mark.parametrize("pattern", ["4:2", "0:4", "2:4:8", "blocks", "0x4"])
    def test_an_impossible_pattern_is_refused(self, pattern: str) -> None:
        with pytest.raises(ParamError, match=f"--pattern {pattern}: write element"):
            prune(chain(4, 8, 4), pattern=pattern)


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

    def test_behind_identity_cast_and_transpose(self) -> None:
        nodes = [
            node("Identity", "w", "i"),
            node("Cast", "i", "c", to=TensorProto.FLOAT),
            node("Transpose", "c", "t"),
            node("MatMul", "x t", "y"),
        ]
        pruned, _ = prune(proto(nodes, {"x": "2x8"}, ["y"], {"w": weight("6x8").astype(np.float16)}), sparsity_op=0.5)
        assert pruned.weights["w"].dtype == np.float16
        assert np.count_nonzero(pruned.weights["w"]) == 24

    def test_behind_dequantize_linear_zero_is_the_zero_point(self) -> None:
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
            node("Slice", "p zero six one", "front"),
            node("Slice", "p six end one", "back"),
            node("Concat", "back front", "order", axis=0),
            node("Unsqueeze", "order zero", "w"),
            node("LSTM", "x w r", "y", hidden_size=3),
        ]
        index = {n: np.array([v], np.int64) for n, v in (("zero", 0), ("six", 6), ("end", 12), ("one", 1))}
        slices = {"zero": index["zero"], "six": index["six"], "end": index["end"]}
        nodes[0].input[3] = nodes[1].input[3] = "zero"
        built = proto(nodes, {"x": "7x2x5"}, ["y"], {"p": "12x5", "r": "1x12x3", **slices})
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


class TestMasks:
    def test_round_trip(self, tmp_path: Path) -> None:
        built = Model.from_proto(chain(3, 8, 16, 4))
        pruned, report = prune(built, sparsity_op=0.7, masks=tmp_path / "m.npz")
        with (tmp_path / "m.npz").open("wb") as file:
            report.artifacts[tmp_path / "m.npz"](file)
        again = built.copy()
        ApplyMasks(masks=tmp_path / "m.npz").run(again)
        assert again.to_bytes() == pruned.to_bytes()

    def save(self, path: Path, **masks: np.ndarray) -> ApplyMasks:
        np.savez(path, **masks)  # type: ignore[arg-type]  # the stub takes every keyword for its own option
        return ApplyMasks(masks=path)

    def test_a_mask_for_no_weight(self, tmp_path: Path) -> None:
        with pytest.raises(ParamError, match="has a mask for 'w9', and the model has no such weight"):
            self.save(tmp_path / "m.npz", w9=np.ones((8, 8), bool)).run(Model.from_proto(chain(3, 4)))

    def test_a_mask_of_another_shape(self, tmp_path: Path) -> None:
        mask = {"conv0.weight": np.ones((4, 4), bool)}
        with pytest.raises(
            ParamError, match=r"the mask for 'conv0.weight' is \[4, 4\], and the weight in the model is \[4, 3, 3, 3\]"
        ):
            self.save(tmp_path / "m.npz", **mask).run(Model.from_proto(chain(3, 4)))

    def test_a_mask_that_is_no_mask(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="masks are boolean"):
            self.save(tmp_path / "m.npz", **{"conv0.weight": np.ones((4, 3, 3, 3))}).run(Model.from_proto(chain(3, 4)))

    def test_a_file_that_is_no_npz(self, tmp_path: Path) -> None:
        (tmp_path / "m.npz").write_text("no")
        with pytest.raises(ModelError, match="it is not an npz file"):
            ApplyMasks(masks=tmp_path / "m.npz").run(Model.from_proto(chain(3, 4)))


def test_both_targets_exclude_each_other() -> None:
    with pytest.raises(ParamError, match="not both"):
        prune(chain(3, 4), sparsity=0.5, sparsity_op=0.5)


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """Convolutions with residuals, groups and a shared weight, in front of a Gemm."""
    width = draw(st.sampled_from([4, 8]))
    nodes = [node("Conv", "x stem", "v0", pads=[1] * 4)]
    weights: dict[str, str] = {"stem": f"{width}x3x3x3"}
    last = "v0"
    for i in range(1, draw(st.integers(1, 5)) + 1):
        group = draw(st.sampled_from([1, 2, width]))
        name = f"w{i}" if i == 1 or draw(st.booleans()) else "w1"
        if name == f"w{i}":
            weights[name] = f"{width}x{width // group}x3x3"
        else:
            group = width // int(weights["w1"].split("x")[1])
        nodes.append(node("Conv", f"{last} {name}", f"c{i}", pads=[1] * 4, group=group))
        if draw(st.booleans()):
            nodes.append(node("Add", f"c{i} {last}", f"v{i}", name=f"add{i}"))
        else:
            nodes.append(node("Relu", f"c{i}", f"v{i}", name=f"relu{i}"))
        last = f"v{i}"
    nodes += [node("Flatten", last, "flat"), node("Gemm", "flat dense", "y", transB=1)]
    weights["dense"] = f"5x{width * 36}"
    return proto(nodes, {"x": "1x3x6x6"}, ["y"], weights, naming=draw(NAMINGS))


@settings(max_examples=60, deadline=None)
@given(networks(), st.sampled_from([0.2, 0.5, 0.8]), st.sampled_from(["lamp", "l1"]), st.sampled_from(["global", "layer"]))
def test_any_network_is_pruned_exactly_and_stays_sound(built: onnx.ModelProto, target: float, score: str, scope: str) -> None:
    pruned, report = prune(built, sparsity_op=target, score=score, scope=scope)
    after = onnx.ModelProto.FromString(pruned.to_bytes())
    onnx.checker.check_model(after, full_check=True)
    assert (after.graph.input, after.graph.output, after.graph.node) == (built.graph.input, built.graph.output, built.graph.node)
    totals = layers(Model.from_proto(after)).totals
    assert totals == report.after
    assert totals.sparsity_op is not None
    assert totals.sparsity_op >= target
    again, _ = prune(pruned, sparsity_op=target, score=score, scope=scope)
    assert again.to_bytes() == pruned.to_bytes()
