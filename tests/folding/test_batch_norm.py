"""Batch normalisation and arithmetic per channel go into the layer before them."""

from typing import Any

import numpy as np
import onnx
import pytest

from onnxsparse.ir.metadata import names
from tests.folding.folded import BN, assert_same, folded, statistics
from tests.graphs import model, node, op_types, value, weight


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
    assert op_types(done) == [op, "Relu"]
    assert report.notes == [f"1 × BatchNormalization folded into {op}"]
    assert "fc.weight" in done.weights
    assert ("fc.bias" in done.weights) if bias else (names(done.proto) == {"bn.bias/folded": "bn.bias"})
    assert_same(built, done)


def constant_nodes(**values: str | np.ndarray) -> list[onnx.NodeProto]:
    arrays = {name: weight(value) if isinstance(value, str) else value for name, value in values.items()}
    return [node("Constant", "", name, value=onnx.numpy_helper.from_array(array)) for name, array in arrays.items()]


def test_constants_may_be_nodes() -> None:
    """As Paddle's exporter writes them; scales and shifts per channel follow one another, and one of them has another user."""
    each: dict[str, str | np.ndarray] = {"w": "6x3x3x3", "s": "6x1x1", "t": "1x6x1x1", **statistics(6)}
    chain = [
        node("Conv", "x w", "a"),
        node("BatchNormalization", f"a {BN}", "b"),
        node("Mul", "b s", "c"),
        node("Add", "c t", "d"),
        node("Relu", "d", "e"),
        node("Max", "e t", "y"),
    ]
    built = model([*constant_nodes(**each), *chain], {"x": "1x3x8x8"}, ["y"])
    done, report = folded(built)
    assert op_types(done) == ["Conv", "Relu", "Max"]
    assert report.notes == [f"1 × {op} folded into Conv" for op in ("BatchNormalization", "Mul", "Add")]
    assert_same(built, done)


def test_a_constant_node_that_is_an_output_stays() -> None:
    nodes = [*constant_nodes(w="6x3x3x3", t="1x6x1x1"), node("Conv", "x w", "a"), node("Add", "a t", "y")]
    built = model(nodes, {"x": "1x3x8x8"}, ["y", "t"])
    done, report = folded(built)
    assert report.notes == ["nothing to fold"]
    assert_same(built, done)


def test_a_constant_node_that_a_body_reads_keeps_its_value() -> None:
    """The Add before the If takes less room than a bias beside the constant that stays."""
    branches: dict[str, Any] = {
        name: onnx.helper.make_graph([node(op, "b t", f"o_{name}")], name, [], [value(f"o_{name}", None)])
        for name, op in (("then_branch", "Add"), ("else_branch", "Mul"))
    }
    nodes = [*constant_nodes(w="6x3x3x3", t="1x6x1x1"), node("Conv", "x w", "a"), node("Add", "a t", "b")]
    nodes.append(node("If", "c", "y", **branches))
    built = model(nodes, {"x": "1x3x8x8", "c": ("", onnx.TensorProto.BOOL)}, ["y"])
    done, report = folded(built)
    assert report.notes == ["nothing to fold", "1 × not folded: the file would grow"]
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
    assert ("BatchNormalization" in op_types(done)) != folds
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
    assert "BatchNormalization" in op_types(done)
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
    assert op_types(done) == [op]
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
    assert op_types(done) == ["Conv", op]


def test_a_bias_of_one_row_is_folded_and_one_of_several_is_not() -> None:
    for bias, stays in (("1x6", False), ("6x1", True), ("2x6", True)):
        nodes = [node("Gemm", "x w c", "h"), node("Mul", "h a", "y")]
        built = model(nodes, {"x": ("6x5" if bias == "6x1" else "2x5")}, weights={"w": "5x6", "a": "6", "c": bias})
        done, _ = folded(built)
        assert ("Mul" in op_types(done)) == stays, bias
        assert_same(built, done)


def test_a_new_bias_does_not_take_the_name_of_an_input() -> None:
    nodes = [node("Conv", "x w", "h"), node("BatchNormalization", f"h {BN}", "n"), node("Add", "n bn.bias/folded", "y")]
    built = model(nodes, {"x": "1x3x8x8", "bn.bias/folded": "1x6x6x6"}, ["y"], {"w": "6x3x3x3", **statistics(6)})
    done, _ = folded(built)
    assert op_types(done) == ["Conv", "Add"]
    assert "bn.bias/folded" not in done.weights
    assert_same(built, done)


@pytest.mark.parametrize(("layer", "folds"), [("fc", True), ("a_layer_whose_name_the_copy_of_its_bias_gets", False)])
def test_a_bias_of_one_number_is_written_out_only_where_the_file_does_not_grow(layer: str, folds: bool) -> None:
    """The copy is a tensor of 10 numbers with the name of the layer. It is judged without the metadata, which records names."""
    nodes = [node("Gemm", "x w b", "h", name=layer), node("Mul", "h s", "y")]
    built = model(nodes, {"x": "2x5"}, ["y"], {"w": "5x10", "b": "1", "s": "10"})
    done, _ = folded(built)
    assert op_types(done) == (["Gemm"] if folds else ["Gemm", "Mul"])
    assert_same(built, done)
    done.proto.ClearField("metadata_props")
    assert done.written_bytes <= built.written_bytes
