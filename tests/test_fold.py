"""Folding and fixing sizes: fewer nodes, the same outputs, names that lead back."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from onnxsparse import ApplyMasks, FixShapes, Fold, Model, PassError, Pipeline, Prune, compare, layers
from onnxsparse.analysis.checker import first_fault
from onnxsparse.folding import fold
from onnxsparse.ir.graphsurgeon.origins import StoredValues
from onnxsparse.ir.metadata import names
from onnxsparse.pipeline.base import StepReport
from onnxsparse.pipeline.run import Comparing
from onnxsparse.runtime.session import runner
from tests.graphs import ASIDE, NAMINGS, model, node, proto, value, weight


def folded(built: Model, **options: bool) -> tuple[Model, StepReport]:
    done = built.copy()
    report = Fold(**options).run(done)
    assert first_fault(done) is None
    return done, report


def ops(built: Model) -> list[str]:
    return [n.op_type for n in built.proto.graph.node]


def assert_same(a: Model, b: Model, min_sqnr_db: float = 100) -> None:
    result = compare(a, b)
    assert all(o.sqnr_db is not None and o.sqnr_db >= min_sqnr_db for o in result.outputs), result


def statistics(channels: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    named = {"bn.weight": rng.random(channels) + 0.5, "bn.bias": rng.standard_normal(channels)}
    named |= {"bn.mean": rng.standard_normal(channels), "bn.var": rng.random(channels) + 0.1}
    return {name: values.astype(np.float32) for name, values in named.items()}


BN = "bn.weight bn.bias bn.mean bn.var"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("op", "x", "w", "channels", "attributes"),
    [
        ("Conv", "2x3x8x8", "6x3x3x3", 6, {}),
        ("Conv", "2x6x8x8", "6x1x3x3", 6, {"group": 6}),
        ("Conv", "2x4x20", "6x4x5", 6, {}),
        ("ConvTranspose", "2x4x5x5", "4x6x3x3", 6, {"strides": [2, 2]}),
        ("ConvTranspose", "2x4x5x5", "4x3x3x3", 6, {"group": 2}),
        ("Gemm", "2x5", "5x6", 6, {}),
        ("Gemm", "2x5", "6x5", 6, {"transB": 1}),
    ],
)
def test_batch_norm_goes_into(op: str, x: str, w: str, channels: int, attributes: dict[str, Any], bias: bool) -> None:
    weights: dict[str, str | np.ndarray] = {"fc.weight": w, **statistics(channels)}
    if bias:
        weights["fc.bias"] = str(channels)
    nodes = [
        node(op, "x fc.weight fc.bias" if bias else "x fc.weight", "h", **attributes),
        node("BatchNormalization", f"h {BN}", "n"),
        node("Relu", "n", "y"),
    ]
    built = model(nodes, {"x": x}, ["y"], weights)
    done, report = folded(built)
    assert ops(done) == [op, "Relu"]
    assert report.notes == [f"1 × BatchNormalization folded into {op}"]
    assert "fc.weight" in done.weights
    assert ("fc.bias" in done.weights) if bias else (names(done.proto) == {"bn.bias/folded": "bn.bias"})
    assert_same(built, done)


@pytest.mark.parametrize(("w", "folds"), [("6x3x1x1", True), ("6x3x3x3", False)])
def test_a_shared_weight_is_copied_where_that_takes_less_than_it_saves(w: str, folds: bool) -> None:
    """A copy of 72 bytes, or 648; statistics of 4 × 24 bytes and a node go, a bias of 24 comes."""
    nodes = [
        node("Conv", "x w", "a"),
        node("BatchNormalization", f"a {BN}", "p"),
        node("Conv", "x w", "b"),
        node("Add", "p b", "y"),
    ]
    built = model(nodes, {"x": "1x3x8x8"}, ["y"], {"w": w, **statistics(6)})
    done, _ = folded(built)
    assert ("BatchNormalization" in ops(done)) != folds
    assert ("w" in names(done.proto).values()) == folds
    assert_same(built, done)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Conv", "x w", "h"), node("BatchNormalization", f"h {BN}", "n"), node("Add", "h n", "y")],
        [node("Relu", "x", "h"), node("BatchNormalization", f"h {BN}", "y")],
    ],
    ids=["its input is used elsewhere", "nothing linear before it"],
)
def test_batch_norm_stays_where_it_cannot_go(nodes: list[onnx.NodeProto]) -> None:
    built = model(nodes, {"x": "1x6x8x8"}, ["y"], {"w": "6x6x1x1", **statistics(6)})
    done, _ = folded(built)
    assert "BatchNormalization" in ops(done)
    assert_same(built, done)


@pytest.mark.parametrize(
    ("op", "x", "w", "attributes"),
    [
        ("Conv", "2x3x8x8", "6x3x3x3", {}),
        ("Conv", "2x3x8", "6x3x3", {}),
        ("ConvTranspose", "2x4x5x5", "4x3x3x3", {"group": 2}),
        ("Gemm", "2x5", "5x6", {}),
        ("Gemm", "2x5", "6x5", {"transB": 1}),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_arithmetic_with_a_number_for_each_channel_goes_into(
    op: str, x: str, w: str, attributes: dict[str, Any], bias: bool
) -> None:
    """As exporters write biases, and batch normalisation."""
    each = weight("6", 5).reshape(6, *[1] * (len(w.split("x")) - 2))
    weights: dict[str, Any] = {"w": w, "a": each, "b": each + 1, "c": np.float32(0.7), "d": each[None] - 3, "bias": "6"}
    arithmetic = [node("Mul", "h a", "i"), node("Sub", "b i", "j"), node("Div", "j c", "k"), node("Add", "d k", "y")]
    built = model([node(op, "x w bias" if bias else "x w", "h", **attributes), *arithmetic], {"x": x}, weights=weights)
    done, _ = folded(built)
    assert ops(done) == [op]
    assert_same(built, done)


def test_a_factor_makes_no_bias() -> None:
    built = model([node("Conv", "x w", "h"), node("Mul", "h a", "y")], {"x": "1x3x8x8"}, weights={"w": "6x3x1x1", "a": "6x1x1"})
    done, _ = folded(built)
    assert [list(n.input) for n in done.proto.graph.node] == [["x", "w"]]
    assert_same(built, done)


@pytest.mark.parametrize(
    ("op", "order", "constant"),
    [
        ("Add", "h a", "8"),
        ("Mul", "h a", "1x6x8x8"),
        ("Add", "h a", "2x1x1x1"),
        ("Mul", "h a", "1x1x1x1x1"),
        ("Div", "a h", "6x1x1"),
    ],
    ids=["other axis", "other axes", "other batch", "more axes", "what it divides"],
)
def test_arithmetic_stays_that_is_not_of_channels(op: str, order: str, constant: str) -> None:
    nodes = [node("Conv", "x w", "h"), node(op, order, "y")]
    built = model(nodes, {"x": "1x3x8x8"}, weights={"w": "6x3x1x1", "a": constant})
    done, report = folded(built)
    assert report.notes == ["nothing to fold"]
    assert ops(done) == ["Conv", op]


def test_a_bias_of_one_row_is_folded_and_one_of_several_is_not() -> None:
    for bias, stays in (("1x6", False), ("6x1", True), ("2x6", True)):
        nodes = [node("Gemm", "x w c", "h"), node("Mul", "h a", "y")]
        built = model(nodes, {"x": ("6x5" if bias == "6x1" else "2x5")}, weights={"w": "5x6", "a": "6", "c": bias})
        done, _ = folded(built)
        assert ("Mul" in ops(done)) == stays, bias
        assert_same(built, done)


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
    assert ops(done) == ["Relu", "Neg"]
    assert done.proto.graph.output[0].name == "y"
    assert_same(built, done)


def test_an_identity_between_input_and_output_stays() -> None:
    done, _ = folded(model([node("Identity", "x", "y")], {"x": "4"}))
    assert ops(done) == ["Identity"]


def test_what_is_computed_from_weights_is_stored() -> None:
    nodes = [
        node("Transpose", "w", "t", perm=[1, 0]),
        node("Mul", "t g", "s"),
        node("MatMul", "x s", "y"),
    ]
    built = model(nodes, {"x": "2x64"}, ["y"], {"w": "32x64", "g": "32"})
    done, report = folded(built)
    assert ops(done) == ["MatMul"]
    assert report.notes == ["1 × constant folded"]
    assert names(done.proto) == {"s": "w"}
    assert layers(done).totals.weights == 64 * 32
    assert_same(built, done)


def test_generated_weights_stay_generated() -> None:
    shape = np.array([64, 64], np.int64)
    nodes = [node("ConstantOfShape", "shape", "w"), node("MatMul", "x w", "y")]
    done, _ = folded(model(nodes, {"x": "2x64"}, ["y"], {"shape": shape}))
    assert ops(done) == ["ConstantOfShape", "MatMul"]


def test_quantized_weights_keep_their_quantizers() -> None:
    quantized = (weight("32x32") * 40).astype(np.int8)
    nodes = [node("DequantizeLinear", "q s z", "w"), node("MatMul", "x w", "y")]
    built = model(nodes, {"x": "2x32"}, ["y"], {"q": quantized, "s": np.float32(0.1), "z": np.int8(0)})
    assert ops(folded(built)[0]) == ["DequantizeLinear", "MatMul"]


def test_each_kind_of_folding_can_be_left_out() -> None:
    nodes = [node("Neg", "w", "v"), node("Conv", "x v", "h"), node("BatchNormalization", f"h {BN}", "y")]
    built = model(nodes, {"x": "1x3x8x8"}, ["y"], {"w": "6x3x3x3", **statistics(6)})
    assert ops(folded(built, constants=False)[0]) == ["Neg", "Conv", "BatchNormalization"]
    assert ops(folded(built, batch_norm=False)[0]) == ["Conv", "BatchNormalization"]
    assert ops(folded(built)[0]) == ["Conv"]


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
    assert set(ops(grown)) <= {"MatMul", "Sum", *ASIDE}
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
    assert ops(done) == ["Gather", "MatMul", "Transpose", "MatMul"]
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
        assert set(ops(done)) == kept
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
        assert ops(folded(self.built(ir_version=3))[0]) == ["Conv"]

    def test_it_becomes_a_constant_if_asked(self) -> None:
        done, _ = folded(self.built(), constant_defaults=True)
        assert ops(done) == ["Conv"]
        assert [v.name for v in done.proto.graph.input] == ["x"]


class TestFixShapes:
    def test_sizes_stand_in_the_file(self) -> None:
        nodes = [node("Conv", "x w", "h"), node("Relu", "h", "y")]
        built = proto(nodes, {"x": "Nx3xHxW"}, ["y"], {"w": "4x3x3x3"}, value_info=[value("h", "Nx4xAxB")])
        fixed = Model.from_proto(built).bind(["x:2,3,8,10"])
        FixShapes().run(fixed)
        graph = onnx.ModelProto.FromString(fixed.to_bytes()).graph
        shapes = {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.input, *graph.output, *graph.value_info)
        }
        assert shapes == {"x": [2, 3, 8, 10], "y": [2, 4, 6, 8], "h": [2, 4, 6, 8]}
        onnx.checker.check_model(fixed.to_bytes(), full_check=True)

    def test_open_sizes_are_an_error(self) -> None:
        built = model([node("Relu", "x", "y")], {"x": "Nx3xHxW"})
        with pytest.raises(PassError, match=r"still has open sizes \(x: 1x3x\?x\?\)"):
            FixShapes().run(built)

    def test_fixed_sizes_stay(self) -> None:
        built = model([node("Relu", "x", "y")], {"x": "2x3"})
        before = built.to_bytes()
        assert FixShapes().run(built).notes == ["every input size was fixed already"]
        assert built.to_bytes() == before

    def test_a_model_that_cannot_work_at_these_sizes_is_refused(self) -> None:
        """The branch that never runs adds what does not fit once sizes are fixed."""
        small = onnx.helper.make_graph([node("Relu", "x", "t")], "a", [], [value("t", None)])
        wrong = onnx.helper.make_graph([node("MatMul", "x w", "e")], "b", [], [value("e", None)])
        branch = node("If", "c", "y", then_branch=small, else_branch=wrong)
        built = model([branch], {"x": "NxM", "c": ("", TensorProto.BOOL)}, ["y"], {"w": "7x7"}).bind(["x:2,8"])
        with pytest.raises(PassError, match="no longer loads"):
            Pipeline([FixShapes()]).run(built, Comparing())
