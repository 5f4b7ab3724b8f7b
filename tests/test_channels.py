"""Cutting channels: a table of what each op couples, the proof and that it can fail, selection, plans, and random graphs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxsparse import Model, load
from onnxsparse.channels.cut import Cutter, apply_cut
from onnxsparse.channels.groups import kept_channels, solve
from onnxsparse.channels.importance import weight_importance
from onnxsparse.channels.proof import Proof, prove
from onnxsparse.channels.selection import Choice, choose_channels
from onnxsparse.runtime.session import runner
from tests.commands import Run, files
from tests.graphs import FLOAT, INT64, NAMINGS, chain, model, node, proto, value, weight

Shapes = dict[str, tuple[int, ...]]


def halve(built: Model, *, cut_norms: bool = False, seed: int | None = None) -> tuple[Model, Proof]:
    """Half of every group is cut: the channels that matter least, or (with a seed) any."""
    solution = solve(built, cut_norms=cut_norms)
    scores = weight_importance(built, solution, "l1")
    if seed is not None:
        scores = np.random.default_rng(seed).random(scores.size)
    chosen = choose_channels(solution.groups, scores, Choice(0.5, round_to=1))
    smaller = built.copy()
    apply_cut(smaller, solution, solution.removal(chosen))
    return smaller, prove(built, solution, chosen, smaller)


def shapes(built: Model, *names: str) -> Shapes:
    return {name: built.weights.shape(name) for name in names}


def sound(smaller: Model, proof: Proof) -> None:
    """The proof holds and could have failed; the file is valid, and inference agrees with every recorded shape."""
    assert proof.holds, proof
    assert proof.sensitive, proof
    assert proof.nodes
    onnx.checker.check_model(onnx.load_from_string(smaller.to_bytes()), full_check=True)


def between(op: onnx.NodeProto, *more: onnx.NodeProto, weights: Mapping[str, Any] | None = None, **options: Any) -> Model:
    """x → Conv a (16 channels) → `op`, which reads a and makes b → Conv y (4 channels): `more` may stand in between."""
    head, tail = node("Conv", "x first", "a"), node("Conv", "b last", "y")
    held = {"first": "16x3x1x1", "last": "4x16x1x1", **(weights or {})}
    return model([head, op, *more, tail], {"x": "2x3x8x8"}, ["y"], held, **options)


HALF: Shapes = {"first": (8, 3, 1, 1), "last": (4, 8, 1, 1)}
ints = np.array

ROWS: dict[str, tuple[Model, Mapping[str, tuple[int, ...]]]] = {
    "Relu": (between(node("Relu", "a", "b")), HALF),
    "BatchNormalization": (
        between(node("BatchNormalization", "a s s s v", "b"), weights={"s": "16", "v": np.ones(16, np.float32)}),
        {**HALF, "s": (8,), "v": (8,)},
    ),
    "InstanceNormalization": (between(node("InstanceNormalization", "a s s", "b"), weights={"s": "16"}), {**HALF, "s": (8,)}),
    "PRelu": (between(node("PRelu", "a s", "b"), weights={"s": "16x1x1"}), {**HALF, "s": (8, 1, 1)}),
    "Add a bias": (between(node("Add", "a s", "b"), weights={"s": "1x16x1x1"}), {**HALF, "s": (1, 8, 1, 1)}),
    "Mul by a map over positions": (between(node("Mul", "a s", "b"), weights={"s": "8x8"}), {**HALF, "s": (8, 8)}),
    "Where": (
        between(node("Where", "c a s", "b"), weights={"c": np.ones((1, 16, 1, 1), np.bool_), "s": "16x1x1"}),
        {**HALF, "c": (1, 8, 1, 1), "s": (8, 1, 1)},
    ),
    "Clip": (between(node("Clip", "a _ s", "b"), weights={"s": np.float32(0.5)}), HALF),
    "a residual": (
        between(node("Conv", "a w", "c"), node("Add", "a c", "b"), weights={"w": "16x16x1x1"}),
        {**HALF, "w": (8, 8, 1, 1)},
    ),
    "depthwise": (
        between(node("Conv", "a w", "b", group=16, pads=[1] * 4), weights={"w": "16x1x3x3"}),
        {**HALF, "w": (8, 1, 3, 3)},
    ),
    "a depthwise multiplier": (
        between(node("Conv", "a w", "c", group=16), node("Conv", "c v", "b"), weights={"w": "32x1x1x1", "v": "16x32x1x1"}),
        {"w": (16, 1, 1, 1)},
    ),
    "grouped": (
        between(node("Conv", "a w", "c", group=4), node("Conv", "c v", "b"), weights={"w": "16x4x1x1", "v": "16x16x1x1"}),
        {"first": (8, 3, 1, 1), "v": (8, 8, 1, 1)},
    ),
    "ConvTranspose": (
        between(node("ConvTranspose", "a w s", "b", kernel_shape=[1, 1]), weights={"w": "16x16x1x1", "s": "16"}),
        {**HALF, "w": (8, 8, 1, 1), "s": (8,)},
    ),
    "a grouped ConvTranspose": (
        between(node("ConvTranspose", "a w", "b", group=4, kernel_shape=[1, 1]), weights={"w": "16x4x1x1"}),
        {"first": (8, 3, 1, 1), "last": (4, 8, 1, 1)},
    ),
    "Concat": (
        between(node("Conv", "x w", "c"), node("Concat", "a c", "b", axis=1), weights={"w": "6x3x1x1", "last": "4x22x1x1"}),
        {"first": (8, 3, 1, 1), "w": (3, 3, 1, 1), "last": (4, 11, 1, 1)},
    ),
    "Split": (
        between(node("Split", "a", "c d", axis=1), node("Mul", "c d", "b"), weights={"last": "4x8x1x1"}),
        {"first": (8, 3, 1, 1), "last": (4, 4, 1, 1)},
    ),
    "Split with sizes": (
        between(node("Split", "a z", "c d", axis=1), node("Concat", "d c", "b", axis=1), weights={"z": ints([4, 12])}),
        {**HALF, "z": (2,)},
    ),
    "Split before version 13": (
        between(node("Split", "a", "c d", axis=1, split=[4, 12]), node("Concat", "d c", "b", axis=1), opset=11),
        HALF,
    ),
    "Slice": (
        between(
            node("Slice", "a s e z", "b"),
            weights={"s": ints([2]), "e": ints([14]), "z": ints([1]), "last": "4x12x1x1"},
        ),
        {"last": (4, 6, 1, 1)},
    ),
    "Slice backwards": (
        between(
            node("Slice", "a s e z t", "b"),
            weights={"s": ints([-1]), "e": ints([-(2**63) + 1]), "z": ints([1]), "t": ints([-1])},
        ),
        HALF,
    ),
    "Slice of every other": (
        between(
            node("Slice", "a s e z t", "b"),
            weights={"s": ints([0]), "e": ints([16]), "z": ints([1]), "t": ints([2]), "last": "4x8x1x1"},
        ),
        {"first": (8, 3, 1, 1), "last": (4, 4, 1, 1)},
    ),
    "Gather by constants": (
        between(node("Gather", "a i", "b", axis=1), weights={"i": np.random.default_rng(3).permutation(16)}),
        {**HALF, "i": (8,)},
    ),
    "Pad with channels": (
        between(node("Pad", "a p", "b"), weights={"p": ints([0, 2, 0, 0, 0, 4, 0, 0]), "last": "4x22x1x1"}),
        {"first": (8, 3, 1, 1)},
    ),
    "Pad positions": (between(node("Pad", "a p", "b"), weights={"p": ints([0, 0, 1, 1, 0, 0, 1, 1])}), HALF),
    "Transpose": (
        between(
            node("Transpose", "a", "c", perm=[0, 2, 3, 1]),
            node("MatMul", "c w", "d"),
            node("Transpose", "d", "b", perm=[0, 3, 1, 2]),
            weights={"w": "16x16"},
        ),
        {**HALF, "w": (8, 8)},
    ),
    "a channel shuffle": (
        between(
            node("Reshape", "a s", "c"),
            node("Transpose", "c", "d", perm=[0, 2, 1, 3, 4]),
            node("Reshape", "d t", "b"),
            weights={"s": ints([2, 4, 4, 8, 8]), "t": ints([2, 16, 8, 8])},
        ),
        HALF,
    ),
    "Flatten": (
        model(
            [node("Conv", "x first", "a"), node("Flatten", "a", "b"), node("Gemm", "b last s", "y", transB=1)],
            {"x": "2x3x4x4"},
            ["y"],
            {"first": "8x3x1x1", "last": "5x128", "s": "5"},
        ),
        {"first": (4, 3, 1, 1), "last": (5, 64)},
    ),
    "squeeze and excitation": (
        between(
            node("GlobalAveragePool", "a", "p"),
            node("Conv", "p w", "q"),
            node("Conv", "q v", "r"),
            node("Mul", "a r", "b"),
            weights={"w": "4x16x1x1", "v": "16x4x1x1"},
        ),
        {**HALF, "w": (2, 8, 1, 1), "v": (8, 2, 1, 1)},
    ),
    "MaxPool": (between(node("MaxPool", "a", "b", kernel_shape=[2, 2])), HALF),
    "RoiAlign": (
        between(
            node("RoiAlign", "a r i", "b", output_height=3, output_width=3),
            weights={"r": np.array([[0, 0, 4, 4], [1, 1, 6, 6]], np.float32), "i": ints([0, 1])},
        ),
        HALF,
    ),
    "GridSample": (between(node("GridSample", "a g", "b"), weights={"g": "2x4x4x2"}), HALF),
    "Trilu of positions": (between(node("Trilu", "a", "b")), HALF),
    "Resize by scales": (between(node("Resize", "a _ s", "b"), weights={"s": np.array([1, 1, 2, 2], np.float32)}), HALF),
    "Resize by sizes": (between(node("Resize", "a _ _ s", "b"), weights={"s": ints([2, 16, 4, 4])}), HALF),
    "Expand": (
        between(node("GlobalAveragePool", "a", "p"), node("Expand", "p s", "b"), weights={"s": ints([2, 16, 3, 3])}),
        {**HALF, "s": (4,)},
    ),
    "Tile": (between(node("Tile", "a t", "b"), weights={"t": ints([1, 2, 1, 1]), "last": "4x32x1x1"}), {"last": (4, 16, 1, 1)}),
    "DepthToSpace": (
        between(node("DepthToSpace", "a", "b", blocksize=2), weights={"last": "4x4x1x1"}),
        {"first": (8, 3, 1, 1), "last": (4, 2, 1, 1)},
    ),
    "DepthToSpace CRD": (
        between(node("DepthToSpace", "a", "b", blocksize=2, mode="CRD"), weights={"last": "4x4x1x1"}),
        {"first": (8, 3, 1, 1), "last": (4, 2, 1, 1)},
    ),
    "SpaceToDepth": (between(node("SpaceToDepth", "a", "b", blocksize=2), weights={"last": "4x64x1x1"}), {"last": (4, 32, 1, 1)}),
    "ReduceSum over channels": (
        between(node("ReduceSum", "a z", "b"), weights={"z": ints([1]), "last": "4x1x1x1"}),
        {"first": (8, 3, 1, 1)},
    ),
    "ReduceMean over positions": (between(node("ReduceMean", "a", "b", axes=[2, 3])), HALF),
    "Einsum": (
        between(node("Einsum", "a w", "b", equation="nchw,dc->ndhw"), weights={"w": "16x16"}),
        {**HALF, "w": (8, 8)},
    ),
    "ScatterND along the batch": (
        between(
            node("ScatterND", "a i u", "b"),
            weights={"i": ints([[1]]), "u": "1x16x8x8"},
        ),
        {**HALF, "u": (1, 8, 8, 8)},
    ),
    "Dropout": (between(node("Dropout", "a", "b")), HALF),
    "Cast": (between(node("Cast", "a", "c", to=onnx.TensorProto.DOUBLE), node("Cast", "c", "b", to=FLOAT)), HALF),
    "GroupNormalization beside another": (
        between(
            node("GroupNormalization", "a s s", "c", num_groups=4),
            node("Conv", "c w", "d"),
            node("GroupNormalization", "d s s", "e", num_groups=4),
            node("Add", "e c", "b"),
            weights={"w": "16x16x1x1", "s": "16"},
            opset=21,
            ir_version=10,
        ),
        {**HALF, "w": (8, 8, 1, 1), "s": (8,)},
    ),
    "GroupNormalization by whole groups": (
        between(
            node("GroupNormalization", "a s s", "b", num_groups=4),
            weights={"s": "16"},
            opset=21,
            ir_version=10,
        ),
        {**HALF, "s": (8,)},
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_op_couples_what_it_must(name: str) -> None:
    """Every axis that has to go with another went, and the outputs are those of the original without the channels."""
    built, expected = ROWS[name]
    if name.startswith("GroupNormalization"):  # onnx's inference stops there
        built.proto.graph.output[0].CopyFrom(value("y", "2x4x8x8"))
    smaller, proof = halve(built)
    assert shapes(smaller, *expected) == expected
    sound(smaller, proof)


def lstm(op: str, gates: int, directions: int) -> Model:
    """Two layers of a recurrent network, 6 units each, between an input of 5 and a MatMul to 3."""
    way = "bidirectional" if directions == 2 else "forward"
    nodes = [
        node(op, "x w r b", "h", direction=way, hidden_size=6),
        node("Transpose", "h", "t", perm=[0, 2, 1, 3]),
        node("Reshape", "t s", "u"),
        node("MatMul", "u out", "y"),
    ]
    weights: dict[str, Any] = {
        "w": weight(f"{directions}x{gates * 6}x5", 1),
        "r": weight(f"{directions}x{gates * 6}x6", 2),
        "b": weight(f"{directions}x{gates * 12}", 3),
        "s": ints([0, 0, -1]),
        "out": weight(f"{directions * 6}x3", 4),
    }
    return model(nodes, {"x": "4x2x5"}, ["y"], weights)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("directions", [1, 2])
def test_hidden_units_go_through_all_gates_and_both_directions(op: str, gates: int, directions: int) -> None:
    smaller, proof = halve(lstm(op, gates, directions))
    assert shapes(smaller, "w", "r", "b", "out") == {
        "w": (directions, gates * 3, 5),
        "r": (directions, gates * 3, 3),
        "b": (directions, gates * 6),
        "out": (directions * 3, 3),
    }
    sound(smaller, proof)


def attention(heads: int = 4, kv_heads: int = 4, size: int = 6) -> Model:
    """Tokens 2x5x8 → Q, K, V by MatMul, split into heads, Softmax(QKᵀ)V, back and projected."""
    q, kv = heads * size, kv_heads * size
    repeat = heads // kv_heads
    nodes = [node("MatMul", "x wq", "q"), node("MatMul", "x wk", "k"), node("MatMul", "x wv", "v")]
    for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        nodes += [node("Reshape", f"{name} s{name}", f"{name}r"), node("Transpose", f"{name}r", f"{name}h", perm=[0, 2, 1, 3])]
        if count < heads:
            nodes += [node("Unsqueeze", f"{name}h two", f"{name}u"), node("Expand", f"{name}u e", f"{name}e")]
            nodes += [node("Reshape", f"{name}e g", f"{name}g")]
    last = "g" if repeat > 1 else "h"
    nodes += [
        node("Transpose", f"k{last}", "kt", perm=[0, 1, 3, 2]),
        node("MatMul", "qh kt", "scores"),
        node("Softmax", "scores", "p", axis=-1),
        node("MatMul", f"p v{last}", "o"),
        node("Transpose", "o", "ot", perm=[0, 2, 1, 3]),
        node("Reshape", "ot so", "of"),
        node("MatMul", "of wo", "y"),
    ]
    weights: dict[str, Any] = {
        "wq": weight(f"8x{q}", 1),
        "wk": weight(f"8x{kv}", 2),
        "wv": weight(f"8x{kv}", 3),
        "wo": weight(f"{q}x8", 4),
        "sq": ints([0, 0, heads, size]),
        "sk": ints([0, 0, kv_heads, size]),
        "sv": ints([0, 0, kv_heads, -1]),
        "so": ints([0, 0, q]),
        "two": ints([2]),
        "e": ints([2, kv_heads, repeat, 5, size]),
        "g": ints([2, heads, 5, size]),
    }
    return model(nodes, {"x": "2x5x8"}, ["y"], weights)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_is_cut_by_heads_or_within_them(kv_heads: int) -> None:
    """Half of Q and K within the heads, half of V's; or half of the heads: either way a half."""
    smaller, proof = halve(attention(kv_heads=kv_heads))
    assert shapes(smaller, "wq", "wk", "wv", "wo") == {
        "wq": (8, 12),
        "wk": (8, 3 * kv_heads),
        "wv": (8, 3 * kv_heads),
        "wo": (12, 8),
    }
    sound(smaller, proof)


def fused(op: str, heads: int = 4, kv_heads: int = 4, size: int = 6) -> Model:
    """The same attention with its products in one node."""
    q, kv = heads * size, kv_heads * size
    weights: dict[str, Any] = {"wo": weight(f"{q}x8", 4)}
    if op == "projecting":
        weights |= {"w": weight(f"8x{3 * q}", 1), "b": weight(f"{3 * q}", 2)}
        nodes = [node("Attention", "x w b", "o", domain="com.microsoft", num_heads=heads)]
    else:
        weights |= {"wq": weight(f"8x{q}", 1), "wk": weight(f"8x{kv}", 2), "wv": weight(f"8x{kv}", 3), "b": weight(f"{3 * q}", 5)}
        nodes = [node("MatMul", f"x w{name}", name) for name in ("q", "k", "v")]
        if op == "multi-head":
            nodes.append(node("MultiHeadAttention", "q k v b", "o", domain="com.microsoft", num_heads=heads))
        else:
            nodes.append(node("Attention", "q k v", "o", q_num_heads=heads, kv_num_heads=kv_heads))
    nodes.append(node("MatMul", "o wo", "y"))
    built = model(nodes, {"x": "2x5x8"}, ["y"], weights, opset=23, ir_version=10, domains={"com.microsoft": 1})
    built.proto.graph.output[0].CopyFrom(value("y", "2x5x8"))
    return built


@pytest.mark.parametrize(("op", "kv_heads"), [("standard", 4), ("standard", 2), ("multi-head", 4), ("projecting", 4)])
def test_fused_attention_is_cut_with_its_heads_and_scale(op: str, kv_heads: int) -> None:
    smaller, proof = halve(fused(op, kv_heads=kv_heads))
    if op == "projecting":
        assert shapes(smaller, "w", "b", "wo") == {"w": (8, 36), "b": (36,), "wo": (12, 8)}
    else:
        assert shapes(smaller, "wq", "wk", "wo") == {"wq": (8, 12), "wk": (8, 3 * kv_heads), "wo": (12, 8)}
    sound(smaller, proof)


@pytest.mark.parametrize(("op", "at"), [("standard", 3), ("multi-head", 5), ("projecting", 5)])
@pytest.mark.parametrize("slices", [1, 4])
def test_heads_stay_where_a_mask_has_a_slice_for_each(op: str, at: int, slices: int) -> None:
    """A mask of 1 x 4 x 5 x 5 for 4 heads: of each head's 6 elements 3 can go, but no head."""
    built = fused(op)
    attention = built.proto.graph.node[-2]
    attention.input.extend([""] * (at - len(attention.input)) + ["mask"])
    mask = weight(f"1x{slices}x5x5")
    built.proto.graph.initializer.append(onnx.numpy_helper.from_array(mask, "mask"))
    built = Model.from_proto(onnx.load_from_string(built.to_bytes()))
    smaller, proof = halve(built)
    made = shapes(smaller, "wo")["wo"]
    assert made == (12, 8)
    heads = next(a.i for a in smaller.proto.graph.node[-2].attribute if a.name in ("num_heads", "q_num_heads"))
    assert heads == 4 if slices == 4 else heads <= 4
    assert smaller.weights.shape("mask") == (1, slices, 5, 5)
    sound(smaller, proof)


def test_attention_that_keeps_keys_for_later_is_not_cut() -> None:
    """What it gives out beside its result has an axis of heads."""
    built = fused("multi-head")
    built.proto.graph.node[-2].output.extend(["keys", "values"])
    built.proto.graph.output.append(value("keys", "2x4x5x6"))
    solution = solve(Model.from_proto(onnx.load_from_string(built.to_bytes())))
    assert not solution.groups


def test_what_is_added_to_a_fused_convolution_is_cut_with_it() -> None:
    """The third op's residual is the first one's result: both keep the same channels."""
    ms = "com.microsoft"
    nodes = [
        node("FusedConv", "x w0 b0", "a", domain=ms, activation="Relu", pads=[1] * 4),
        node("FusedConv", "a w1 b1", "c", domain=ms, activation="Relu", pads=[1] * 4),
        node("FusedConv", "c w2 _ a", "d", domain=ms, activation="Relu", pads=[1] * 4),
        node("Conv", "d w3", "y"),
    ]
    weights = {"w0": "8x3x3x3", "b0": "8", "w1": "6x8x3x3", "b1": "6", "w2": "8x6x3x3", "w3": "5x8x1x1"}
    built = model(nodes, {"x": "1x3x6x6"}, ["y"], weights, domains={ms: 1})
    built.proto.graph.output[0].CopyFrom(value("y", "1x5x6x6"))
    smaller, proof = halve(built)
    assert shapes(smaller, "w0", "w1", "w2", "w3") == {
        "w0": (4, 3, 3, 3),
        "w1": (3, 4, 3, 3),
        "w2": (4, 3, 3, 3),
        "w3": (5, 4, 1, 1),
    }
    kept = [row for row in range(8) if any(np.array_equal(built.weights["w0"][row], new) for new in smaller.weights["w0"])]
    assert np.array_equal(smaller.weights["b0"], built.weights["b0"][kept])
    assert np.array_equal(smaller.weights["w3"], built.weights["w3"][:, kept])
    sound(smaller, proof)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_live_shape_arithmetic_is_told_the_old_sizes(opset: int) -> None:
    """Flatten written as Shape → Gather → Concat → Reshape, and a target from the channels' own size; at two batch sizes."""
    nodes = [
        node("Conv", "x w", "a"),
        node("Shape", "a", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Gather", "s one", "c", axis=0),
        node("Concat", "n c minus", "t", axis=0),
        node("Reshape", "a t", "b"),
        node("Transpose", "b", "d", perm=[0, 2, 1]),
        node("MatMul", "d v", "y"),
    ]
    weights: dict[str, Any] = {"w": "8x3x1x1", "v": "8x5", "zero": ints([0]), "one": ints([1]), "minus": ints([-1])}
    built = model(nodes, {"x": "Nx3x4x4"}, ["y"], weights, opset=opset)
    built.proto.graph.output[0].CopyFrom(value("y", "Nx16x5"))
    smaller, proof = halve(built)
    assert shapes(smaller, "w", "v") == {"w": (4, 3, 1, 1), "v": (4, 5)}
    sound(smaller, proof)
    for batch in (1, 3):
        made = runner(smaller).run({"x": weight(f"{batch}x3x4x4")})
        assert made["y"].shape == (batch, 16, 5)


def norms() -> Model:
    nodes = [
        node("MatMul", "x w", "a"),
        node("LayerNormalization", "a s b", "n"),
        node("ReduceMean", "n", "m", axes=[-1]),
        node("Sub", "n m", "d"),
        node("Softmax", "d", "p", axis=-1),
        node("MatMul", "p v", "y"),
    ]
    return model(nodes, {"x": "2x5x8"}, ["y"], {"w": "8x12", "s": "12", "b": "12", "v": "12x4"})


def test_axes_that_a_norm_looks_over_stay_unless_asked() -> None:
    solution = solve(norms())
    assert not solution.groups
    assert "LayerNormalization reduces over it (n)" in {f.reason for f in solution.frozen()}


def test_norms_over_what_is_left() -> None:
    smaller, proof = halve(norms(), cut_norms=True)
    assert shapes(smaller, "w", "s", "b", "v") == {"w": (8, 6), "s": (6,), "b": (6,), "v": (6, 4)}
    sound(smaller, proof)


def test_moments_of_positions_leave_channels_alone() -> None:
    smaller, proof = halve(between(node("MeanVarianceNormalization", "a", "b")))
    assert shapes(smaller, *HALF) == HALF
    assert proof.holds  # onnx's full check trips over its own function body of the op
    assert proof.sensitive


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_of_either_kind_over_what_is_left(op: str, opset: int) -> None:
    """Before version 13 it is over channels and positions together."""
    smaller, proof = halve(between(node(op, "a", "b", axis=1), opset=opset), cut_norms=True)
    assert shapes(smaller, *HALF) == HALF
    sound(smaller, proof)


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (node("LRN", "a", "b", size=3), "LRN reduces over it"),
        (node("Mystery", "a", "b", domain="acme"), "no rule for Mystery"),
        (node("TopK", "a k", "b i", axis=1), "TopK searches along it"),
        (node("MaxPool", "a", "b i", kernel_shape=[2, 2]), "is counted in the indices of MaxPool"),
        (node("Split", "a", " ".join(f"b{i}" for i in range(16)), axis=1), "becomes an axis of size 1"),
        (node("MeanVarianceNormalization", "a", "b", axes=[1]), "MeanVarianceNormalization reduces over it"),
    ],
)
def test_what_cannot_be_cut_says_why(op: onnx.NodeProto, reason: str) -> None:
    built = between(op, weights={"k": ints([16])}, domains={"acme": 1})
    frozen = {f.node: f.reason for f in solve(built).frozen()}
    assert frozen["a"].startswith(reason)
    assert frozen.get("y", "is an output of the model (y)") == "is an output of the model (y)"


def branch(*nodes: onnx.NodeProto, inputs: tuple[onnx.ValueInfoProto, ...] = (), outputs: str = "r") -> onnx.GraphProto:
    """A body; what it makes has 2x16x8x8 elements."""
    made = [value(name, "2x16x8x8") if name != "k" else value(name, "", onnx.TensorProto.BOOL) for name in outputs.split()]
    return onnx.helper.make_graph(list(nodes), "body", inputs, made)


@pytest.mark.parametrize("taken", [True, False])
def test_branches_are_cut_with_what_they_read_and_make(taken: bool) -> None:
    """Both read the same outer value; one has a convolution of its own, whose weight is the main graph's."""
    then = branch(node("Conv", "a w", "t"), node("Add", "t a", "r"))
    other = branch(node("Mul", "a s", "r"))
    op = node("If", "c", "b", then_branch=then, else_branch=other)
    built = between(op, weights={"c": np.array(taken), "w": "16x16x1x1", "s": "16x1x1"})
    smaller, proof = halve(built)
    assert shapes(smaller, "first", "w", "s", "last") == {**HALF, "w": (8, 8, 1, 1), "s": (8, 1, 1)}
    sound(smaller, proof)


def test_what_a_loop_carries_is_cut_all_the_way_round() -> None:
    count, going = value("i", "", INT64), value("g", "", onnx.TensorProto.BOOL)
    body = branch(
        node("Identity", "g", "k"),
        node("Conv", "state w", "t"),
        node("Add", "t a", "r"),
        inputs=(count, going, value("state", "2x16x8x8")),
        outputs="k r",
    )
    built = between(node("Loop", "n _ a", "b", body=body), weights={"n": np.int64(3), "w": "16x16x1x1"})
    built.proto.graph.output[0].CopyFrom(value("y", "2x4x8x8"))
    smaller, proof = halve(built)
    assert shapes(smaller, "first", "w", "last") == {**HALF, "w": (8, 8, 1, 1)}
    assert [d.dim_value for d in smaller.proto.graph.node[1].attribute[0].g.input[2].type.tensor_type.shape.dim] == [2, 8, 8, 8]
    sound(smaller, proof)


def undeclared(*nodes: onnx.NodeProto) -> Model:
    """A loop as torch.jit writes it: its body says nothing of shapes, nor does anything behind it."""
    inner = [value("i", "", INT64), value("c", "", onnx.TensorProto.BOOL), value("s", None)]
    body = branch(*nodes, node("Identity", "c", "k"), inputs=tuple(inner), outputs="k r")
    body.output[1].CopyFrom(value("r", None))
    weights = {"n": np.int64(3), "w": "16x16x1x1", "v": "16x16x1x1"}
    built = between(node("Loop", "n _ a", "l", body=body), node("Relu", "l", "m"), node("Conv", "m v", "b"), weights=weights)
    built.proto.graph.output[0].CopyFrom(value("y", "2x4x8x8"))
    return built


def test_what_a_loop_carries_keeps_its_shape() -> None:
    smaller, proof = halve(undeclared(node("Conv", "s w", "t"), node("Relu", "t", "r")))
    assert shapes(smaller, "first", "w", "v") == {"first": (8, 3, 1, 1), "w": (8, 8, 1, 1), "v": (8, 8, 1, 1)}
    sound(smaller, proof)


def test_what_grows_in_a_loop_has_no_shape() -> None:
    solution = solve(undeclared(node("Conv", "s w", "t"), node("Concat", "s t", "r", axis=2)))
    assert not solution.groups
    assert {f.node: f.reason for f in solution.frozen()}["a"].startswith("leaves a body in another shape")


def test_a_body_with_live_shapes_is_patched_inside() -> None:
    nodes = [node("Shape", "a", "s"), node("Relu", "a", "t"), node("Reshape", "t s", "r")]
    op = node("If", "c", "b", then_branch=branch(*nodes), else_branch=branch(node("Relu", "a", "r")))
    smaller, proof = halve(between(op, weights={"c": np.array(True)}))
    assert shapes(smaller, *HALF) == HALF
    sound(smaller, proof)


def test_what_goes_into_a_scan_stays() -> None:
    body = onnx.helper.make_graph(
        [node("Add", "s e", "r"), node("Identity", "r", "o")],
        "body",
        [value("s", "16x8x8"), value("e", "16x8x8")],
        [value("r", "16x8x8"), value("o", "16x8x8")],
    )
    nodes = [
        node("Conv", "x first", "a"),
        node("Scan", "zero a", "end b", body=body, num_scan_inputs=1),
        node("Conv", "b last", "y"),
    ]
    weights: dict[str, Any] = {"first": "16x3x1x1", "last": "4x16x1x1", "zero": np.zeros((16, 8, 8), np.float32)}
    built = model(nodes, {"x": "2x3x8x8"}, ["y"], weights)
    assert {f.node: f.reason for f in solve(built).frozen()}["a"] == "goes into the body of Scan (end)"


def shared(same_selection: bool) -> Model:
    """One weight read by two convolutions; in the second case one of them stands behind a Slice, so that the inputs differ."""
    nodes = [
        node("Conv", "x w0", "a"),
        node("Conv", "a w1", "b"),
        node("Mul", "b gain", "c") if same_selection else node("Add", "b gain", "c"),
        node("Add", "a c", "d"),
        node("Mul", "d gain", "e"),
        node("Conv", "e last", "y"),
    ]
    return model(nodes, {"x": "1x3x6x6"}, ["y"], {"w0": "8x3x1x1", "w1": "8x8x1x1", "gain": "8x1x1", "last": "4x8x1x1"})


def test_a_shared_tensor_is_cut_once_where_its_users_agree() -> None:
    smaller, proof = halve(shared(same_selection=True))
    assert shapes(smaller, "gain") == {"gain": (4, 1, 1)}
    assert [t.name for t in smaller.proto.graph.initializer] == ["w0", "w1", "gain", "last"]
    sound(smaller, proof)


def test_a_shared_tensor_is_copied_where_they_do_not() -> None:
    nodes = [
        node("Conv", "x w0", "a"),
        node("Mul", "a gain", "b"),
        node("Conv", "b w1", "c"),
        node("Mul", "c gain", "d"),
        node("Conv", "d last", "y"),
    ]
    built = model(nodes, {"x": "1x3x6x6"}, ["y"], {"w0": "8x3x1x1", "w1": "8x8x1x1", "gain": "8x1x1", "last": "4x8x1x1"})
    smaller, proof = halve(built, seed=1)
    assert {t.name for t in smaller.proto.graph.initializer} == {"w0", "w1", "gain", "last", "gain_cut", "gain_cut_1"} - {
        "gain"
    } | {t.name for t in smaller.proto.graph.initializer if t.name == "gain"}
    sound(smaller, proof)


def quantized() -> Model:
    """A QDQ model: int8 weights per output channel, activations per tensor."""
    rng = np.random.default_rng(0)
    nodes = [
        node("QuantizeLinear", "x sx zx", "xq"),
        node("DequantizeLinear", "xq sx zx", "xd"),
        node("DequantizeLinear", "wq sw zw", "w", axis=0),
        node("Conv", "xd w bias", "a"),
        node("QuantizeLinear", "a sx zx", "aq"),
        node("DequantizeLinear", "aq sx zx", "ad"),
        node("DequantizeLinear", "vq sv zv", "v"),
        node("Conv", "ad v", "y"),
    ]
    weights: dict[str, Any] = {
        "sx": np.float32(0.05),
        "zx": np.int8(0),
        "wq": rng.integers(-127, 127, (16, 3, 3, 3), np.int8),
        "sw": rng.random(16, np.float32) / 50 + 0.01,
        "zw": np.zeros(16, np.int8),
        "bias": "16",
        "vq": rng.integers(-127, 127, (4, 16, 1, 1), np.int8),
        "sv": np.float32(0.02),
        "zv": np.int8(3),
    }
    return model(nodes, {"x": "1x3x8x8"}, ["y"], weights)


def test_quantized_models_are_cut_with_their_scales() -> None:
    smaller, proof = halve(quantized())
    assert shapes(smaller, "wq", "sw", "zw", "vq") == {"wq": (8, 3, 3, 3), "sw": (8,), "zw": (8,), "vq": (4, 8, 1, 1)}
    sound(smaller, proof)


def quantized_operators() -> Model:
    """Two QLinearConv, weights with zero points of their own, and a MatMulInteger behind them."""
    rng = np.random.default_rng(0)
    nodes = [
        node("QuantizeLinear", "x s z", "xq"),
        node("QLinearConv", "xq s z wq ws wz s z wb", "a"),
        node("QLinearConv", "a s z vq s vz s z", "b"),
        node("Transpose", "b", "t", perm=[0, 2, 3, 1]),
        node("MatMulInteger", "t m z mz", "i"),
        node("Cast", "i", "y", to=FLOAT),
    ]
    weights: dict[str, Any] = {
        "s": np.float32(0.05),
        "z": np.uint8(120),
        "wq": rng.integers(-60, 60, (16, 3, 3, 3), np.int8),
        "ws": rng.random(16, np.float32) / 50 + 0.01,
        "wz": np.zeros(16, np.int8),
        "wb": rng.integers(-100, 100, 16, np.int32),
        "vq": rng.integers(20, 220, (8, 16, 1, 1), np.uint8),
        "vz": np.uint8(128),
        "m": rng.integers(0, 255, (8, 4), np.uint8),
        "mz": np.uint8(127),
    }
    return model(nodes, {"x": "1x3x6x6"}, ["y"], weights)


def test_quantized_operators_are_cut_with_their_zero_points_respected() -> None:
    smaller, proof = halve(quantized_operators())
    assert shapes(smaller, "wq", "ws", "wz", "wb", "vq", "m") == {
        "wq": (8, 3, 3, 3),
        "ws": (8,),
        "wz": (8,),
        "wb": (8,),
        "vq": (4, 8, 1, 1),
        "m": (4, 4),
    }
    sound(smaller, proof)


def test_quantized_operators_between_convolutions() -> None:
    """onnxruntime's QOperator format: a residual, a gate and a Concat over integers, pooled."""
    ms = "com.microsoft"
    rng = np.random.default_rng(0)
    nodes = [
        node("QuantizeLinear", "x s z", "xq"),
        node("QLinearConv", "xq s z wq ws wz s z", "a"),
        node("QLinearConv", "a s z vq ws wz s z", "b"),
        node("QLinearAdd", "a s z b s z s z", "c", domain=ms),
        node("QLinearSigmoid", "c s z s z", "d", domain=ms),
        node("QLinearMul", "c s z d s z s z", "e", domain=ms),
        node("QLinearLeakyRelu", "e s z s z", "f", domain=ms),
        node("QLinearConcat", "s z f s z b s z", "g", domain=ms, axis=1),
        node("QLinearAveragePool", "g s z s z", "h", domain=ms, kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1]),
        node("QLinearGlobalAveragePool", "h s z s z", "i", domain=ms),
        node("Flatten", "i", "j"),
        node("QGemm", "j s z m ws wz _ s z", "k", domain=ms, transB=1),
        node("DequantizeLinear", "k s z", "y"),
    ]
    weights: dict[str, Any] = {
        "s": np.float32(0.05),
        "z": np.uint8(120),
        "wq": rng.integers(-60, 60, (16, 3, 3, 3), np.int8),
        "vq": rng.integers(-60, 60, (16, 16, 1, 1), np.int8),
        "m": rng.integers(-60, 60, (4, 32), np.int8),
        "ws": np.float32(0.02),
        "wz": np.int8(0),
    }
    built = model(nodes, {"x": "1x3x9x9"}, ["y"], weights, domains={ms: 1})
    built.proto.graph.output[0].CopyFrom(value("y", "1x4"))
    smaller, proof = halve(built)
    assert shapes(smaller, "wq", "vq", "m") == {"wq": (8, 3, 3, 3), "vq": (8, 8, 1, 1), "m": (4, 16)}
    sound(smaller, proof)


@pytest.mark.parametrize(("op", "parameters"), [("SkipLayerNormalization", "g b b"), ("SkipSimplifiedLayerNormalization", "g b")])
def test_onnxruntimes_fused_norms_over_what_is_left(op: str, parameters: str) -> None:
    """Both what is normalised and the sum before it are read; the last layer is a FusedMatMul."""
    ms = "com.microsoft"
    nodes = [
        node("MatMul", "x w", "a"),
        node("MatMul", "a u", "c"),
        node(op, f"a c {parameters}", "n _ _ t", domain=ms, epsilon=1e-5),
        node(op, f"t n {parameters}", "m", domain=ms),
        node("FusedMatMul", "m v", "y", domain=ms, transB=1, alpha=0.5),
    ]
    held = {"w": "8x12", "u": "12x12", "g": "12", "b": "12", "v": "4x12"}
    built = model(nodes, {"x": "2x5x8"}, ["y"], held, domains={ms: 1})
    built.proto.graph.output[0].CopyFrom(value("y", "2x5x4"))
    assert not solve(built).groups
    smaller, proof = halve(built, cut_norms=True)
    assert shapes(smaller, "w", "u", "g", "b", "v") == {"w": (8, 6), "u": (6, 6), "g": (6,), "b": (6,), "v": (4, 6)}
    sound(smaller, proof)


def ranged(*last: onnx.NodeProto, extra: Mapping[str, Any] | None = None) -> Model:
    """A MatMul on bytes whose scale follows from what comes in, and another layer behind it."""
    nodes = [
        node("MatMul", "x w", "a"),
        node("DynamicQuantizeLinear", "a", "q s z"),
        node("MatMulInteger", "q v z vz", "i"),
        node("Cast", "i", "f", to=FLOAT),
        node("Mul", "f s", "b"),
        *last,
    ]
    rng = np.random.default_rng(0)
    weights = {"w": "5x12", "v": rng.integers(0, 255, (12, 16), np.uint8), "vz": np.uint8(127), **(extra or {})}
    built = model(nodes, {"x": "2x3x5"}, ["y"], weights, domains={"com.microsoft": 1})
    built.proto.graph.output[0].CopyFrom(value("y", "2x3x4" if last[-1].op_type != "DynamicQuantizeLSTM" else "2x1x3x6"))
    return built


def test_ranges_for_quantization_over_what_is_left() -> None:
    """Zero is in every such range, so that a channel of zeros counts as one that is not there."""
    extra = {"m": weight("16x4").astype(np.int8), "ms": np.float32(0.1), "mz": np.int8(0), "bias": "4"}
    built = ranged(node("DynamicQuantizeMatMul", "b m ms mz bias", "y", domain="com.microsoft"), extra=extra)
    assert not solve(built).groups
    smaller, proof = halve(built, cut_norms=True)
    assert shapes(smaller, "w", "v", "m") == {"w": (5, 6), "v": (6, 8), "m": (8, 4)}
    sound(smaller, proof)


@pytest.mark.parametrize("directions", [1, 2])
def test_a_recurrent_layer_keeps_what_it_quantizes_by_ranges_inside(directions: int) -> None:
    rng = np.random.default_rng(1)
    extra = {
        "lw": rng.integers(-99, 99, (directions, 16, 24), np.int8),
        "lr": rng.integers(-99, 99, (directions, 6, 24), np.int8),
        "lb": f"{directions}x48",
        "ls": np.full(directions, 0.01, np.float32),
        "lz": np.arange(directions, dtype=np.int8),
    }
    way: dict[str, Any] = {"direction": "bidirectional" if directions == 2 else "forward", "hidden_size": 6}
    lstm = node("DynamicQuantizeLSTM", "b lw lr lb _ _ _ _ ls lz ls lz", "y", domain="com.microsoft", **way)
    built = ranged(lstm, extra=extra)
    built.proto.graph.output[0].CopyFrom(value("y", f"2x{directions}x3x6"))
    smaller, proof = halve(built, cut_norms=True)
    assert shapes(smaller, "w", "v") == {"w": (5, 6), "v": (6, 16)}
    assert shapes(smaller, "lw", "lr") == {"lw": (directions, 16, 24), "lr": (directions, 6, 24)}
    sound(smaller, proof)


def test_two_quantized_activations_are_multiplied() -> None:
    """Q·Kᵀ over bytes, as in a quantized attention: what is removed is at the zero point there."""
    nodes = [
        node("QuantizeLinear", "x s z", "xq"),
        node("QGemm", "xq s z w ws wz _ s z", "q", domain="com.microsoft"),
        node("QGemm", "xq s z v ws wz _ s z", "k", domain="com.microsoft"),
        node("Transpose", "k", "t", perm=[1, 0]),
        node("QLinearMatMul", "q s z t s z s z", "p"),
        node("DequantizeLinear", "p s z", "y"),
    ]
    rng = np.random.default_rng(0)
    held = {"w": rng.integers(-99, 99, (8, 12), np.int8), "v": rng.integers(-99, 99, (8, 12), np.int8)}
    scales = {"s": np.float32(0.05), "z": np.int8(7), "ws": np.float32(0.01), "wz": np.int8(0)}
    built = model(nodes, {"x": "5x8"}, ["y"], {**held, **scales}, domains={"com.microsoft": 1})
    built.proto.graph.output[0].CopyFrom(value("y", "5x5"))
    smaller, proof = halve(built)
    assert shapes(smaller, "w", "v") == {"w": (8, 6), "v": (8, 6)}
    sound(smaller, proof)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_floats_of_other_sizes_are_proven_in_float32(dtype: type) -> None:
    """Normalised over what is left, halfway in another precision, with a constant that is made in the graph."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    filled = onnx.helper.make_tensor("value", kind, [1], [2.0])
    nodes = [
        node("MatMul", "x w", "a"),
        node("ConstantOfShape", "size", "two", value=filled),
        node("Mul", "a two", "c"),
        node("LayerNormalization", "c s", "n"),
        node("Cast", "n", "f", to=FLOAT),
        node("Softmax", "f", "p"),
        node("Cast", "p", "h", to=kind),
        node("MatMul", "h v", "y"),
    ]
    weights: dict[str, Any] = {
        name: weight(shape, 1).astype(dtype) for name, shape in {"w": "8x12", "s": "12", "v": "12x4"}.items()
    }
    built = model(nodes, {"x": ("2x5x8", kind)}, ["y"], {**weights, "size": ints([12])})
    smaller, proof = halve(built, cut_norms=True)
    assert shapes(smaller, "w", "s", "v") == {"w": (8, 6), "s": (6,), "v": (6, 4)}
    assert smaller.weights["w"].dtype == dtype
    sound(smaller, proof)


@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_of_other_ranks(rank: int) -> None:
    kernel, size = "x".join(["3"] * rank), "x".join(["6"] * rank)
    nodes = [node("Conv", "x w b", "a"), node("Relu", "a", "r"), node("Conv", "r v", "y")]
    built = model(nodes, {"x": f"1x3x{size}"}, ["y"], {"w": f"8x3x{kernel}", "b": "8", "v": f"4x8x{kernel}"})
    smaller, proof = halve(built)
    assert (smaller.weights.shape("w")[0], smaller.weights.shape("v")[1]) == (4, 4)
    sound(smaller, proof)


class TestTheProof:
    """It has to fail where the cut is wrong."""

    def test_a_wrong_bias_is_found(self) -> None:
        built = Model.from_proto(chain(3, 8, 8, 4))
        solution = solve(built)
        chosen = choose_channels(solution.groups, weight_importance(built, solution, "l1"), Choice(0.5, round_to=1))
        smaller = built.copy()
        apply_cut(smaller, solution, solution.removal(chosen))
        assert prove(built, solution, chosen, smaller).holds
        bias = np.array(smaller.weights["conv0.bias"])
        smaller.weights["conv0.bias"] = bias[::-1].copy()
        broken = prove(built, solution, chosen, smaller)
        assert not broken.holds
        assert broken.worst_node is not None
        assert broken.worst_node.node == "conv0"

    def test_other_channels_than_chosen_are_found(self) -> None:
        built = Model.from_proto(chain(3, 8, 8, 4))
        solution = solve(built)
        first, second = (np.concatenate([g.classes[part] for g in solution.groups]) for part in (slice(4), slice(4, None)))
        smaller = built.copy()
        apply_cut(smaller, solution, solution.removal(first))
        assert not prove(built, solution, second, smaller).holds

    def test_a_model_whose_outputs_say_nothing_is_run_again_with_other_weights(self) -> None:
        """A head of zeros: every selection gives the same outputs."""
        built = Model.from_proto(chain(3, 8, 8, 4))
        built.weights["conv2.weight"] = np.zeros((4, 8, 3, 3), np.float32)
        _, proof = halve(built)
        assert proof.rescaled
        assert proof.holds
        assert proof.sensitive

    def test_a_cut_that_does_not_hold_is_refused(
        self, run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = Cutter._write_constants

        def in_disorder(cutter: Cutter) -> tuple[str, ...]:
            taken = {place: cutter._taken(version) for place, version in cutter.versions.items()}
            cutter.versions = {place: array[::-1] if array.ndim == 1 else array for place, array in taken.items()}
            return write(cutter)

        monkeypatch.setattr(Cutter, "_write_constants", in_disorder)
        before = files(tmp_path)
        message = run.fails(1, "prune-channels", source, tmp_path / "out.onnx", "--round-to", "1")
        assert "is not the original without the cut channels" in message
        assert files(tmp_path) == before


class TestTheCommand:
    def test_cuts_and_says_so(self, run: Run, source: Path, tmp_path: Path) -> None:
        assert run("prune-channels", source, tmp_path / "out.onnx", "--round-to", "1") == 0
        assert "12 channels of 2 groups were cut" in run.out
        assert "proven in onnxruntime" in run.out
        found = load(tmp_path / "out.onnx")
        assert shapes(found, "conv0.weight", "conv1.weight", "conv2.weight") == {
            "conv0.weight": (4, 3, 3, 3),
            "conv1.weight": (8, 4, 3, 3),
            "conv2.weight": (4, 8, 3, 3),
        }
        original = load(source)
        assert list(found.proto.graph.input) == list(original.proto.graph.input)
        assert list(found.proto.graph.output) == list(original.proto.graph.output)

    def test_the_plan_is_only_shown(self, run: Run, source: Path, tmp_path: Path) -> None:
        before = files(tmp_path)
        assert run("prune-channels", source, "--plan", "--round-to", "1") == 0
        assert "conv0" in run.out
        assert "is an output of the model (y)" in run.out
        assert files(tmp_path) == before

    def test_a_plan_makes_the_same_cut_again(self, run: Run, source: Path, tmp_path: Path) -> None:
        first = ("prune-channels", source, tmp_path / "a.onnx", "--round-to", "1", "--json", tmp_path / "plan.json")
        assert run(*first) == 0
        plan = json.loads((tmp_path / "plan.json").read_text())
        assert {(c["tensor"], c["axis"], c["role"], len(c["removed"])) for c in plan["cuts"]} == {
            ("conv0.weight", 0, "produces", 4),
            ("conv0.bias", 0, "per_channel", 4),
            ("conv1.weight", 1, "consumes", 4),
            ("conv1.weight", 0, "produces", 8),
            ("conv1.bias", 0, "per_channel", 8),
            ("conv2.weight", 1, "consumes", 8),
        }
        assert run("prune-channels", source, tmp_path / "b.onnx", "--from-plan", tmp_path / "plan.json") == 0
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
        onnx.save(chain(3, 12, 16, 4), tmp_path / "other.onnx")
        arguments = ("prune-channels", tmp_path / "other.onnx", tmp_path / "c.onnx", "--from-plan", tmp_path / "plan.json")
        assert "axis 0 of 'conv0.weight' does not have 8 channels" in run.fails(2, *arguments)

    @pytest.mark.parametrize(
        ("removed", "message"),
        [
            ([-1], "has an index outside of its 8 channels"),
            ([8], "has an index outside of its 8 channels"),
            ([True], "'removed' is a list of indices"),
            ([], "it cuts nothing"),
            (list(range(8)), "it cuts all channels of a group of in.onnx"),
        ],
    )
    def test_a_plan_that_makes_no_sense_is_refused(
        self, run: Run, source: Path, tmp_path: Path, removed: list[int], message: str
    ) -> None:
        entry = {"tensor": "conv0.weight", "axis": 0, "removed": removed, "role": "produces", "size": 8}
        (tmp_path / "plan.json").write_text(json.dumps({"cuts": [entry]}))
        before = files(tmp_path)
        arguments = ("prune-channels", source, tmp_path / "out.onnx", "--from-plan", tmp_path / "plan.json")
        assert message in run.fails(2, *arguments)
        assert files(tmp_path) == before

    def test_a_plan_fits_the_model_with_its_normalisation_folded(self, run: Run, tmp_path: Path) -> None:
        nodes = [node("Conv", "x w b", "a"), node("BatchNormalization", "a s s m v", "n"), node("Conv", "n u c", "y")]
        held: dict[str, Any] = {
            "w": "8x3x1x1",
            "b": "8",
            "s": "8",
            "m": "8",
            "v": np.ones(8, np.float32),
            "u": "4x8x1x1",
            "c": "4",
        }
        onnx.save(proto(nodes, {"x": "1x3x6x6"}, ["y"], held), tmp_path / "in.onnx")
        plan = ("--json", tmp_path / "plan.json")
        assert run("prune-channels", tmp_path / "in.onnx", tmp_path / "a.onnx", "--round-to", "1", *plan) == 0
        assert run("fold", tmp_path / "in.onnx", tmp_path / "folded.onnx") == 0
        again = ("--from-plan", tmp_path / "plan.json")
        assert run("prune-channels", tmp_path / "folded.onnx", tmp_path / "b.onnx", *again) == 0
        assert run("compare", tmp_path / "a.onnx", tmp_path / "b.onnx", "--min-sqnr", "100") == 0

    def test_to_a_share_of_the_macs(self, run: Run, source: Path, tmp_path: Path) -> None:
        assert run("prune-channels", source, tmp_path / "out.onnx", "--macs", "0.4", "--round-to", "1", "--scope", "all") == 0
        assert run("inspect", tmp_path / "out.onnx", "--json", "-") == 0
        left = json.loads(run.out)["totals"]["macs"]
        assert run("inspect", source, "--json", "-") == 0
        assert 0.3 < left / json.loads(run.out)["totals"]["macs"] <= 0.4

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--ratio", "1.5"), "--ratio: Input should be less than 1"),
            (("--ratio", "0.5", "--macs", "0.5"), "give one of --ratio, --macs"),
            (("--only", "nothing"), "matches no layer"),
            (("--macs", "0.0001"), "of the operations of in.onnx can be cut"),
            (("--importance", "activation"), "needs --calibration"),
            (("--from-plan", "none.json"), "cannot read the plan none.json"),
        ],
    )
    def test_wrong_options_are_one_line(
        self, run: Run, source: Path, tmp_path: Path, options: tuple[str, ...], message: str
    ) -> None:
        before = files(tmp_path)
        assert message in run.fails(2, "prune-channels", source, tmp_path / "out.onnx", *options)
        assert files(tmp_path) == before

    def test_nothing_to_cut_says_why(self, run: Run, source: Path, tmp_path: Path) -> None:
        before = files(tmp_path)
        message = run.fails(2, "prune-channels", source, tmp_path / "out.onnx", "--round-to", "64")
        assert "no group gets smaller when it is rounded to --round-to (the largest has 16 channels)" in message
        onnx.save(chain(3, 8), tmp_path / "one.onnx")
        message = run.fails(2, "prune-channels", tmp_path / "one.onnx", tmp_path / "out.onnx")
        assert "all channels have to stay (1 × is an output of the model)" in message
        assert files(tmp_path) == sorted([*before, "one.onnx"])

    def test_open_channel_sizes_are_said(self, run: Run, tmp_path: Path) -> None:
        nodes = [node("Conv", "x w", "a"), node("Reshape", "a s", "b"), node("MatMul", "b v", "y")]
        weights: dict[str, Any] = {"w": "8x3x1x1", "v": "8x4", "s": np.array([0, -1, 8])}
        onnx.save(proto(nodes, {"x": "1x3xHxW"}, ["y"], weights), tmp_path / "in.onnx")
        message = run.fails(2, "prune-channels", tmp_path / "in.onnx", tmp_path / "out.onnx")
        assert "depends on sizes that are not known" in message
        assert "give the open sizes with --input-shape" in message

    def test_the_targets_alignment_is_kept(self, run: Run, tmp_path: Path) -> None:
        onnx.save(chain(3, 40, 40, 4), tmp_path / "in.onnx")
        assert run("prune-channels", tmp_path / "in.onnx", tmp_path / "out.onnx", "--backend", "roofline") == 0
        assert load(tmp_path / "out.onnx").weights.shape("conv0.weight")[0] == 32

    def test_expected_values_go_into_biases(self, run: Run, tmp_path: Path) -> None:
        """A channel that is always 3 is worth as much in the bias: nothing is lost by cutting it."""
        onnx.save(chain(3, 4, 4, kernel=1), tmp_path / "in.onnx")
        built = load(tmp_path / "in.onnx")
        first, bias = np.array(built.weights["conv0.weight"]), np.array(built.weights["conv0.bias"])
        first[1:3], bias[1:3] = 0, 3
        built.weights["conv0.weight"], built.weights["conv0.bias"] = first, bias
        built.save(tmp_path / "in.onnx")
        np.savez(tmp_path / "data.npz", x=weight("4x3x8x8"))
        common = ("prune-channels", tmp_path / "in.onnx", tmp_path / "out.onnx", "--round-to", "1")
        plan = {"cuts": [cut_of("conv0.weight", 0), cut_of("conv0.bias", 0), cut_of("conv1.weight", 1)]}
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        arguments = (*common, "--from-plan", tmp_path / "plan.json", "--calibration", tmp_path / "data.npz")
        assert run(*arguments) == 0
        assert "folded into 1 biases" in run.out
        assert run("compare", tmp_path / "in.onnx", tmp_path / "out.onnx", "--min-sqnr", "100") == 0

    def test_folding_that_changes_more_is_refused(
        self, run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def overdone(cut: Model, *_: object) -> int:
            cut.weights["conv1.weight"] = np.array(cut.weights["conv1.weight"]) * 2
            return 1

        monkeypatch.setattr("onnxsparse.passes.prune_channels.compensate", overdone)
        np.savez(tmp_path / "data.npz", x=weight("4x3x8x8"))
        before = files(tmp_path)
        arguments = ("prune-channels", source, tmp_path / "out.onnx", "--calibration", tmp_path / "data.npz", "--round-to", "1")
        assert "changed more than biases" in run.fails(1, *arguments)
        assert files(tmp_path) == before

    def test_in_a_recipe_with_the_others(self, run: Run, source: Path, tmp_path: Path) -> None:
        steps = ["prune-channels: {round_to: 1}", "prune: {sparsity_op: 0.5}", "annotate", f"report: {{json: {tmp_path}/r.json}}"]
        (tmp_path / "r.yaml").write_text("passes:\n" + "".join(f"  - {step}\n" for step in steps))
        assert run("run", tmp_path / "r.yaml", source, tmp_path / "out.onnx") == 0
        found = json.loads((tmp_path / "r.json").read_text())["totals"]
        assert found["sparsity_op"] == pytest.approx(0.5, abs=0.01)


def cut_of(tensor: str, axis: int) -> dict[str, object]:
    return {"tensor": tensor, "axis": axis, "removed": [1, 2], "role": "produces", "size": 4}


@pytest.mark.parametrize(
    ("count", "ratio", "round_to", "width", "kept"),
    [
        (64, 0.5, 8, 1, 32),
        (20, 0.5, 8, 1, 16),
        (10, 0.5, 8, 1, 8),
        (6, 0.5, 8, 1, 6),
        (7, 0.5, 1, 1, 4),
        (12, 0.5, 8, 64, 6),
        (3, 0.9, 1, 1, 1),
    ],
)
def test_what_rounding_leaves(count: int, ratio: float, round_to: int, width: int, kept: int) -> None:
    assert kept_channels(count, ratio, round_to, width) == kept


class Sketch:
    """A graph in the making, all of whose values are 1 × channels × 5 × 5."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Any] = {}
        self.values: dict[str, int] = {"x": 4}

    def conv(self, source: str, out: int, group: int = 1) -> str:
        """With a weight of its own, or one that is there already."""
        name = f"n{len(self.nodes)}"
        shape = (out, self.values[source] // group, 1, 1)
        reusable = [w for w, v in self.weights.items() if v.shape == shape] if group == 1 else []
        held = self.draw(st.sampled_from([*reusable, ""])) if reusable else ""
        if not held:
            held = f"{name}.weight"
            self.weights[held] = weight("x".join(map(str, shape)), len(self.nodes)) / np.sqrt(np.float32(shape[1]))
        self.nodes.append(node("Conv", f"{source} {held}", name, group=group))
        self.values[name] = out
        return name

    def add(self, op: str, inputs: str, channels: int, outputs: int = 1, **attributes: Any) -> str:
        names = [f"n{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(node(op, inputs, " ".join(names), **attributes))
        self.values.update(dict.fromkeys(names, channels))
        return names[0]

    def any_value(self, channels: int | None = None, but: str = "x") -> str | None:
        fits = [v for v, size in self.values.items() if v not in ("x", but) and channels in (None, size)]
        return self.draw(st.sampled_from(fits)) if fits else None

    def shuffle(self, source: str) -> None:
        channels = self.values[source]
        split, merged = np.array([1, 4, channels // 4, 5, 5]), np.array([1, channels, 5, 5])
        self.weights |= {f"s{channels}": split, f"t{channels}": merged}
        first = self.add("Reshape", f"{source} s{channels}", 0)
        second = self.add("Transpose", first, 0, perm=[0, 2, 1, 3, 4])
        del self.values[first], self.values[second]
        self.add("Reshape", f"{second} t{channels}", channels)

    def slice(self, source: str) -> None:
        channels = self.values[source]
        self.weights |= {"from2": np.array([2]), "one": np.array([1]), f"to{channels}": np.array([channels - 1])}
        self.add("Slice", f"{source} from2 to{channels} one", channels - 3)

    def grow(self, kind: str, source: str) -> None:
        """One more node, where the channels allow it."""
        channels = self.values[source]
        partner = self.any_value(channels if kind == "Add" else None, but=source)
        if kind in ("Relu", "Sigmoid"):
            self.add(kind, source, channels)
        elif kind == "Conv":
            self.conv(source, self.draw(st.sampled_from([8, 12, 16])))
        elif kind == "depthwise":
            self.conv(source, channels, group=channels)
        elif kind in ("Add", "Concat") and partner is not None:
            joined = channels if kind == "Add" else channels + self.values[partner]
            self.add(kind, f"{source} {partner}", joined, **({} if kind == "Add" else {"axis": 1}))
        elif kind in ("grouped", "shuffle", "Split", "Slice") and channels % 4 == 0 and channels > 4:
            self.divide(kind, source)

    def divide(self, kind: str, source: str) -> None:
        if kind == "grouped":
            self.conv(source, 8, group=4)
        elif kind == "shuffle":
            self.shuffle(source)
        elif kind == "Slice":
            self.slice(source)
        else:
            self.add("Split", source, self.values[source] // 2, outputs=2, axis=1)

    def finish(self) -> Model:
        ends = [name for name in self.values if name != "x" and not any(name in n.input for n in self.nodes)]
        total, *others = [self.conv(name, 4) for name in ends]
        for name in others:
            total = self.add("Add", f"{total} {name}", 4)
        self.nodes.append(node("Identity", total, "y"))
        return model(self.nodes, {"x": "1x4x5x5"}, ["y"], self.weights, naming=self.draw(NAMINGS))


KINDS = ["Conv", "grouped", "Relu", "Sigmoid", "Add", "Concat", "Split", "shuffle", "Slice", "depthwise"]


@st.composite
def graphs(draw: st.DrawFn) -> Model:
    """Convolutions with branches, residuals, concats, splits, shuffles, groups and shared weights."""
    sketch = Sketch(draw)
    sketch.conv("x", draw(st.sampled_from([8, 12, 16])))
    for _ in range(draw(st.integers(2, 7))):
        source = sketch.any_value()
        assert source is not None
        sketch.grow(draw(st.sampled_from(KINDS)), source)
    return sketch.finish()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graphs(), st.integers(0, 1000))
def test_any_cut_of_any_graph_is_proven(built: Model, seed: int) -> None:
    smaller, proof = halve(built, seed=seed)
    assert proof.holds, proof
    onnx.checker.check_model(onnx.load_from_string(smaller.to_bytes()), full_check=True)
    assert [o.SerializeToString() for o in smaller.proto.graph.output] == [
        o.SerializeToString() for o in built.proto.graph.output
    ]


def test_a_weight_that_no_conv_reads_alone() -> None:
    """The copy of a tensor has its name, and nobody else's tensor changes."""
    built = Model.from_proto(chain(3, 8, 4))
    smaller, _ = halve(built)
    assert set(smaller.weights) == set(built.weights)
