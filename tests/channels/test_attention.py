"""Heads and hidden units: attention, written out or as one op, and recurrent layers."""

from typing import Any

import onnx
import pytest

from onnxsparse import Model
from onnxsparse.channels.groups import solve
from tests.channels.cutting import halve, ints, shapes, sound
from tests.graphs import model, node, value, weight


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
@pytest.mark.parametrize(("slices", "heads", "elements"), [(1, 2, 6), (4, 4, 8)])
def test_heads_stay_where_a_mask_has_a_slice_for_each(op: str, at: int, slices: int, heads: int, elements: int) -> None:
    """4 heads of 3 elements: 2 heads go, or, with a mask of 1 x 4 x 5 x 5, one element of each head."""
    built = fused(op, size=3)
    attention = built.proto.graph.node[-2]
    attention.input.extend([""] * (at - len(attention.input)) + ["mask"])
    mask = weight(f"1x{slices}x5x5")
    built.proto.graph.initializer.append(onnx.numpy_helper.from_array(mask, "mask"))
    built = Model.from_proto(onnx.load_from_string(built.to_bytes()))
    smaller, proof = halve(built)
    assert shapes(smaller, "wo", "mask") == {"wo": (elements, 8), "mask": (1, slices, 5, 5)}
    assert next(a.i for a in smaller.proto.graph.node[-2].attribute if a.name in ("num_heads", "q_num_heads")) == heads
    sound(smaller, proof)


def test_attention_that_keeps_keys_for_later_is_not_cut() -> None:
    """What it gives out beside its result has an axis of heads."""
    built = fused("multi-head")
    built.proto.graph.node[-2].output.extend(["keys", "values"])
    built.proto.graph.output.append(value("keys", "2x4x5x6"))
    solution = solve(Model.from_proto(onnx.load_from_string(built.to_bytes())))
    assert not solution.groups
