"""What is computed from constants is stored; nothing else changes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnxsparse import ApplyMasks, Fold, Model, Prune, layers
from onnxsparse.folding import fold
from onnxsparse.ir.graphsurgeon.origins import StoredValues
from onnxsparse.ir.metadata import names
from onnxsparse.runtime.session import runner
from tests.folding.folded import BN, assert_same, folded, statistics
from tests.graphs import ASIDE, NAMINGS, model, node, op_types, proto, value, weight


def test_weights_that_stay_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gigabytes of them would be copied into memory."""
    read: list[str] = []
    load = StoredValues.load

    def noted(self: StoredValues) -> np.ndarray:
        read.append(self.tensor.name)
        return load(self)

    monkeypatch.setattr(StoredValues, "load", noted)
    nodes = [node("MatMul", "x w", "h"), node("Add", "h k", "i"), node("Identity", "i", "j"), node("Gemm", "j v", "y")]
    folded(model(nodes, {"x": "4x8"}, ["y"], {"w": "8x8", "v": "8x4", "k": "8"}))
    assert not set(read) & {"w", "v"}


def test_identity_and_dropout_go() -> None:
    nodes = [
        node("Identity", "x", "a"),
        node("Relu", "a", "b"),
        node("Dropout", "b", "c"),
        node("Neg", "c", "d"),
        node("Identity", "d", "y"),
    ]
    built = model(nodes, {"x": "4"})
    done, _ = folded(built)
    assert op_types(done) == ["Relu", "Neg"]
    assert done.proto.graph.output[0].name == "y"
    assert_same(built, done)


def test_an_identity_between_input_and_output_stays() -> None:
    done, _ = folded(model([node("Identity", "x", "y")], {"x": "4"}))
    assert op_types(done) == ["Identity"]


def test_what_is_computed_from_weights_is_stored() -> None:
    nodes = [
        node("Transpose", "w", "t", perm=[1, 0]),
        node("Mul", "t g", "s"),
        node("MatMul", "x s", "y"),
    ]
    built = model(nodes, {"x": "2x64"}, ["y"], {"w": "32x64", "g": "32"})
    done, report = folded(built)
    assert op_types(done) == ["MatMul"]
    assert report.notes == ["1 × constant folded"]
    assert names(done.proto) == {"s": "w"}
    assert layers(done).totals.weights == 64 * 32
    assert_same(built, done)


def test_generated_weights_stay_generated() -> None:
    shape = np.array([64, 64], np.int64)
    nodes = [node("ConstantOfShape", "shape", "w"), node("MatMul", "x w", "y")]
    done, _ = folded(model(nodes, {"x": "2x64"}, ["y"], {"shape": shape}))
    assert op_types(done) == ["ConstantOfShape", "MatMul"]


def test_quantized_weights_keep_their_quantizers() -> None:
    quantized = (weight("32x32") * 40).astype(np.int8)
    nodes = [node("DequantizeLinear", "q s z", "w"), node("MatMul", "x w", "y")]
    built = model(nodes, {"x": "2x32"}, ["y"], {"q": quantized, "s": np.float32(0.1), "z": np.int8(0)})
    assert op_types(folded(built)[0]) == ["DequantizeLinear", "MatMul"]


def test_each_kind_of_folding_can_be_left_out() -> None:
    nodes = [node("Neg", "w", "v"), node("Conv", "x v", "h"), node("BatchNormalization", f"h {BN}", "y")]
    built = model(nodes, {"x": "1x3x8x8"}, ["y"], {"w": "6x3x3x3", **statistics(6)})
    assert op_types(folded(built, constants=False)[0]) == ["Neg", "Conv", "BatchNormalization"]
    assert op_types(folded(built, batch_norm=False)[0]) == ["Conv", "BatchNormalization"]
    assert op_types(folded(built)[0]) == ["Conv"]


def test_an_old_model_lists_what_is_new_among_its_inputs() -> None:
    weights: dict[str, str | np.ndarray] = {"w": "6x3x3x3", **statistics(6)}
    nodes = [node("Conv", "x w", "h"), node("BatchNormalization", f"h {BN}", "y")]
    built = proto(nodes, {"x": "1x3x8x8"}, ["y"], weights, ir_version=3, opset=9)
    for tensor in built.graph.initializer:
        built.graph.input.append(value(tensor.name, "x".join(map(str, tensor.dims))))
    done = Model.from_proto(built)
    Fold().run(done)
    assert [v.name for v in done.proto.graph.input] == ["x", "w", "bn.bias/folded"]


def test_masks_find_a_folded_weight_by_its_old_name(tmp_path: Path) -> None:
    nodes = [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")]
    built = model(nodes, {"x": "2x64"}, ["y"], {"w": "32x64"})
    pruned = built.copy()
    report = Prune(sparsity_op=0.5, masks=tmp_path / "m.npz").run(pruned)
    with (tmp_path / "m.npz").open("wb") as file:
        report.artifacts[tmp_path / "m.npz"](file)
    done, _ = folded(built)
    ApplyMasks(masks=tmp_path / "m.npz").run(done)
    assert np.array_equal(done.weights["t"], pruned.weights["w"].T)


@st.composite
def constant_graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """A weight through random ops into a product, with branches and Identities."""
    nodes = []
    values = ["w"]
    for i in range(draw(st.integers(1, 6))):
        op = draw(st.sampled_from(["Identity", "Neg", "Transpose", "Add", "Mul", "Abs"]))
        inputs = [draw(st.sampled_from(values)) for _ in range(2 if op in ("Add", "Mul") else 1)]
        nodes.append(node(op, " ".join(inputs), f"v{i}", name=f"n{i}"))
        values.append(f"v{i}")
    used = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
    for i, name in enumerate(used):
        nodes.append(node("MatMul", f"x {name}", f"p{i}"))
    nodes.append(node("Sum", " ".join(f"p{i}" for i in range(len(used))), "y"))
    return proto(nodes, {"x": "3x16"}, ["y"], {"w": "16x16"}, naming=draw(NAMINGS))


@settings(max_examples=60, deadline=None)
@given(constant_graphs())
def test_any_constant_expression_folds_to_the_same_outputs(built: onnx.ModelProto) -> None:
    before = Model.from_proto(built)
    done, _ = folded(before)
    assert graph_bytes(done) <= graph_bytes(before)
    assert_same(before, done)
    again, _ = folded(done)
    assert again.to_bytes() == done.to_bytes()
    grown = before.copy()
    fold(grown, may_grow=True)
    assert set(op_types(grown)) <= {"MatMul", "Sum", *ASIDE}
    assert_same(before, grown)


def graph_bytes(built: Model) -> int:
    """Without what the metadata say of names."""
    return onnx.ModelProto.FromString(built.to_bytes()).graph.ByteSize()


def test_a_tied_weight_is_not_written_twice() -> None:
    """As torch exports a language model: its embedding is transposed for the product at its end. W, of one use, is folded."""
    nodes = [
        node("Gather", "E ids", "e"),
        node("Transpose", "W", "Wt", perm=[1, 0]),
        node("MatMul", "e Wt", "h"),
        node("Transpose", "E", "Et", perm=[1, 0]),
        node("MatMul", "h Et", "y"),
    ]
    built = model(nodes, {"ids": ("1x5", TensorProto.INT64)}, ["y"], {"E": "500x16", "W": "16x16"})
    done, report = folded(built)
    assert op_types(done) == ["Gather", "MatMul", "Transpose", "MatMul"]
    assert report.notes == ["1 × constant folded", "1 × not folded: the file would grow"]
    assert len(done.to_bytes()) <= len(built.to_bytes())
    assert_same(built, done)


def test_a_constant_of_several_paths_folds_where_all_of_them_end_smaller() -> None:
    """Two halves take what the whole took; two of its forms take twice as much."""
    halves = [node("Slice", "w zero four", "a"), node("Slice", "w four eight", "b"), node("MatMul", "x a", "p")]
    forms = [node("Neg", "w", "a"), node("Abs", "w", "b"), node("MatMul", "z a", "p")]
    numbers = {name: np.array([value]) for name, value in (("zero", 0), ("four", 4), ("eight", 8))}
    for nodes, inputs, kept in (
        (halves, {"x": "2x4"}, {"MatMul", "Add"}),
        (forms, {"z": "2x8"}, {"Neg", "Abs", "MatMul", "Add"}),
    ):
        whole = [*nodes, node("MatMul", f"{next(iter(inputs))} b", "q"), node("Add", "p q", "y")]
        built = model(whole, inputs, ["y"], {"w": "8x512", **numbers})
        done, _ = folded(built)
        assert set(op_types(done)) == kept
        assert_same(built, done)


class TestDefaults:
    """From IR version 4 on, an initializer that is an input as well is a default, which a caller may override."""

    def built(self, ir_version: int = 8) -> Model:
        nodes = [node("Neg", "w", "v"), node("Conv", "x v", "h"), node("BatchNormalization", f"h {BN}", "y")]
        made = proto(nodes, {"x": "1x3x4x4"}, ["y"], {"w": "6x3x1x1", **statistics(6)}, ir_version=ir_version)
        for tensor in made.graph.initializer if ir_version < 4 else made.graph.initializer[:2]:
            made.graph.input.append(value(tensor.name, "x".join(map(str, tensor.dims))))
        made.graph.output[0].CopyFrom(value("y", "1x6x4x4"))
        return Model.from_proto(made)

    def test_it_is_not_folded_nor_taken_away(self) -> None:
        built = self.built()
        done, report = folded(built)
        assert report.notes == ["nothing to fold"]
        assert [v.name for v in done.proto.graph.input] == ["x", "w", "bn.weight"]
        feeds = {"x": weight("1x3x4x4"), "w": weight("6x3x1x1", 7), "bn.weight": weight("6", 8)}
        assert np.array_equal(runner(done).run(feeds)["y"], runner(built).run(feeds)["y"])

    def test_below_version_4_it_is_a_constant(self) -> None:
        assert op_types(folded(self.built(ir_version=3))[0]) == ["Conv"]

    def test_it_becomes_a_constant_if_asked(self) -> None:
        done, _ = folded(self.built(), constant_defaults=True)
        assert op_types(done) == ["Conv"]
        assert [v.name for v in done.proto.graph.input] == ["x"]


@pytest.mark.parametrize(("exposed", "shape"), [("w", "4x3x3x3"), ("b", "4")])
def test_a_constant_that_is_an_output_keeps_its_values(exposed: str, shape: str) -> None:
    """Scaling the convolution in place would scale the output too."""
    nodes = [node("Conv", "x w b", "a"), node("Mul", "a k", "y")]
    built = model(nodes, {"x": "1x3x5x5"}, ["y", exposed], {"w": "4x3x3x3", "b": "4", "k": np.float32(2)})
    built.proto.graph.output[1].CopyFrom(value(exposed, shape))
    assert_same(built, folded(built)[0])
    grown = built.copy()
    fold(grown, may_grow=True)
    assert op_types(grown) == ["Conv"]
    assert_same(built, grown)


def test_integers_in_few_bytes_are_not_folded_into_many() -> None:
    """Ones in `int64_data` take a byte each in the file, an array of int64 takes eight."""
    built = proto([node("Add", "i j", "k"), node("Gather", "x k", "y")], {"x": "9x2"}, ["y"])
    built.graph.initializer.append(helper.make_tensor("i", TensorProto.INT64, [4000], [1] * 4000))
    built.graph.initializer.append(helper.make_tensor("j", TensorProto.INT64, [1], [2]))
    built.graph.output[0].CopyFrom(value("y", "4000x2"))
    before = Model.from_proto(built)
    done, _ = folded(before)
    assert len(done.to_bytes()) <= len(before.to_bytes())
    assert op_types(done) == ["Add", "Gather"]
