"""A walk in parts gives what one run gives, in memory and from disk, whatever crosses the parts."""

import numpy as np
import pytest

from onnxsparse import Model
from onnxsparse.calibration.walk import Walk
from onnxsparse.runtime.inputs import seeded_samples
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import Feeds, runner
from tests.bodies import if_model
from tests.graphs import INT64, chain, model, node


def branching() -> Model:
    """Values that are used at once and much later, a shape, an output in the middle, and an input that is used last."""
    nodes = [
        node("Conv", "x w", "a"),
        node("Relu", "a", "r"),
        node("Shape", "r", "s"),
        node("Conv", "r v", "b"),
        node("Reshape", "b s", "c"),
        node("Add", "c a", "d"),
        node("Mul", "d z", "y"),
    ]
    return model(nodes, {"x": "1x3x5x5", "z": "1x4x5x5"}, ["r", "y"], {"w": "4x3x1x1", "v": "4x4x1x1"})


@pytest.mark.parametrize("build", [branching, lambda: Model.from_proto(chain(3, 8, 4)), if_model])
@pytest.mark.parametrize("budget", [10**9, 0])
def test_in_parts_as_in_one(build: object, budget: int) -> None:
    assert callable(build)
    built: Model = build()
    samples = seeded_samples(built, 3)
    whole = [runner(built).run(feeds) for feeds in samples]
    nodes = len(built.proto.graph.node)
    for cuts in ([*range(1, nodes)], [nodes // 2], []):
        walk = Walk(built, samples, budget)
        for at in cuts:
            walk.advance(at)
        found = walk.outputs(built, range(3))
        for one, other in zip(whole, found, strict=True):
            assert one.keys() == other.keys()
            assert all(np.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_later_nodes_see_changed_weights() -> None:
    built = Model.from_proto(chain(3, 8, 4))
    walk = Walk(built, seeded_samples(built, 1), 10**9)
    before = walk.outputs(built, [0])[0]["y"]
    name = next(n for n in built.weights if n.endswith("weight"))
    built.weights[name] = built.weights[name] * 2
    walk.advance(1)
    assert not np.allclose(walk.outputs(built, [0])[0]["y"], before)


def test_samples_of_different_sizes() -> None:
    built = model([node("Relu", "x", "r"), node("MatMul", "r w", "y")], {"x": "Nx4"}, ["y"], {"w": "4x3"})
    feeds: list[Feeds] = [{"x": np.ones((rows, 4), np.float32)} for rows in (1, 5, 2)]
    walk = Walk(built, Samples(feeds), 0)
    walk.advance(1)
    assert [values["y"].shape for values in walk.outputs(built, range(3))] == [(1, 3), (5, 3), (2, 3)]


def test_integers_cross_a_cut() -> None:
    nodes = [node("Add", "i one", "j"), node("Gather", "t j", "y")]
    built = model(nodes, {"i": ("3", INT64)}, ["y"], {"one": np.array(1), "t": "9x4"})
    walk = Walk(built, Samples([{"i": np.array([0, 3, 7])}]), 10**9)
    walk.advance(1)
    assert walk.values[0]["j"].tolist() == [1, 4, 8]
    assert np.array_equal(walk.outputs(built, [0])[0]["y"], built.weights["t"][[1, 4, 8]])


def test_outputs_from_a_session_that_serves_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever node changed, and wherever the walk stands, as with one session for all that follows."""
    monkeypatch.setattr("onnxsparse.calibration.walk.SHORTEST_STRIDE", 2)
    built = Model.from_proto(chain(3, 8, 8, 8, 4))
    walk = Walk(built, seeded_samples(built, 3), 10**9)
    nodes = walk.model.proto.graph.node
    for at, changed in enumerate(nodes):
        weight = next((name for name in changed.input if name in walk.model.weights), None)
        if weight is None:
            continue
        walk.advance(at)
        variant = walk.model.copy()
        variant.weights[weight] = variant.weights[weight].astype(np.float32) * 0.5
        found, expected = walk.outputs(variant, [2, 0], changed=at), walk.outputs(variant, [2, 0])
        for ours, theirs in zip(found, expected, strict=True):
            assert all(np.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
