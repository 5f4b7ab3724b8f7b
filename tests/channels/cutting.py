"""Cutting half of a model's channels, and checking what is left."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from onnxsparse import Model
from onnxsparse.channels.cut import apply_cut
from onnxsparse.channels.groups import solve
from onnxsparse.channels.importance import weight_importance
from onnxsparse.channels.proof import Proof, prove
from onnxsparse.channels.selection import Choice, choose_channels
from tests.graphs import model, node

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
