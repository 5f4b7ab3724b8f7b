"""Mixed precision: noise by tensor against onnxruntime, sets by hand, and a search that ends where it was asked to."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsparse import Model, Quantize, compare
from onnxsparse.calibration.methods import Range
from onnxsparse.quantization.accuracy.mixed_precision import Candidate, count_ops, left, strongest, wide_set
from onnxsparse.quantization.accuracy.output_noise import LARGEST_RATIO, Measuring, Outputs, Tensor
from onnxsparse.quantization.accuracy.precision_search import CLOSE_DB, MOST_THINNED, Search
from onnxsparse.quantization.plan.placement import place
from onnxsparse.quantization.plan.scales import Choices, value_scales
from onnxsparse.quantization.plan.target import load_target
from onnxsparse.quantization.write.qdq import write_integers
from onnxsparse.runtime.samples import Samples
from tests.graphs import chain, model, node, weight

RNG = np.random.default_rng(5)
DATA = Samples([{"x": RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(4)])


def candidate(name: str, owner: int, *noise: float) -> Candidate:
    return Candidate((Tensor(name, False, owner, np.array(noise)),), owner)


def measured(built: Model) -> tuple[list[Tensor], Choices]:
    """All tensors of a model with scales for values from -4 to 4."""
    placement = place(built, load_target("cv22"), {})
    choices = Choices({name: Range(-4.0, 4.0) for name in placement.calibrated})
    (found,) = Measuring(placement, choices, {}, DATA, 10**9, [[([0, 1], {}), ([2, 3], {})]]).run()
    return found, choices


def test_noise_is_that_of_a_model_in_which_one_tensor_alone_is_rounded() -> None:
    """The weight is rounded in the file; the activation by a clip and a rounding that the file says in floats."""
    built = Model.from_proto(chain(3, 8, 4))
    tensors, choices = measured(built)
    found = {(tensor.name, tensor.is_weight): float(tensor.noise[0]) for tensor in tensors}
    placement = place(built, load_target("cv22"), {})
    lighter, value = built.copy(), built.copy()
    scale = write_integers(placement, choices).weights["conv1.weight"]
    lighter.weights["conv1.weight"] = scale.rounded(lighter.weights["conv1.weight"])
    step = value_scales(placement, choices)["x"].scale
    rounded = Samples(
        [
            {"x": np.clip(np.rint(each["x"].astype(np.float32) / step), -128, 127).astype(np.float32) * np.float32(step)}
            for each in DATA
        ]
    )
    for key, other, inputs in ((("conv1.weight", True), lighter, DATA), (("x", False), value, rounded)):
        outputs = [[run(m, feeds) for feeds in given] for m, given in ((built, DATA), (other, inputs))]
        noise = sum(((a - b) ** 2).sum() for a, b in zip(*outputs, strict=True)) / sum((a**2).sum() for a in outputs[0])
        assert found[key] == pytest.approx(noise, rel=1e-3)


def run(built: Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(built.to_bytes(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0]).astype(np.float64)


@pytest.mark.parametrize("moving", ["Identity", "Transpose"])
def test_a_weight_that_a_node_moves_adds_the_same_noise(moving: str) -> None:
    """The weight of a MatMul as it is, and behind a node that copies or transposes it."""
    held = weight("192x6")
    found = []
    for node_type in (None, moving):
        stored = held.T.copy() if node_type == "Transpose" else held
        moved = [] if node_type is None else [node(node_type, "w", "v")]
        nodes = [node("Flatten", "x", "f"), *moved, node("MatMul", "f w" if node_type is None else "f v", "y")]
        tensors, _ = measured(model(nodes, {"x": "1x3x8x8"}, ["y"], {"w": stored}))
        found += [tensor.noise for tensor in tensors if tensor.is_weight]
    assert len(found) == 2
    assert found[0].max() > 0
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_tensors_belong_to_the_op_that_makes_them() -> None:
    """An input counts for its reader, an activation for its maker, ReLU included; a weight for its op."""
    tensors, _ = measured(Model.from_proto(chain(3, 8, 4)))
    assert {(tensor.name, tensor.owner) for tensor in tensors} == {
        ("x", 0),
        ("conv0.weight", 0),
        ("relu0", 0),
        ("conv1.weight", 2),
        ("y", 2),
    }


def test_an_output_of_another_shape_is_all_noise() -> None:
    """A detector may find another number of boxes."""
    outputs = Outputs.of([{"y": np.ones((1, 3, 4), np.float32)}])
    assert outputs.ratios([{"y": np.ones((1, 2, 4), np.float32)}])[0] == 1
    assert outputs.ratios([{"y": np.full((1, 3, 4), 1.5, np.float32)}])[0] == 0.25
    assert outputs.ratios([{"y": np.full((1, 3, 4), np.nan, np.float32)}])[0] == LARGEST_RATIO


def test_of_integers_those_that_change_count() -> None:
    """A classifier that gives labels alone; with float outputs, labels do not count."""
    labels, scores = np.array([[1, 2, 3, 4]]), np.ones((1, 4), np.float32)
    assert Outputs.of([{"labels": labels}]).ratios([{"labels": np.array([[1, 2, 9, 9]])}]).tolist() == [0.5]
    assert Outputs.of([{"labels": labels, "scores": scores}]).ratios([{"labels": labels + 1, "scores": scores}]).tolist()[0] == 0


def test_sets_by_hand() -> None:
    """Two outputs: a and b fill one each, c a little of both. d belongs to a's op, so that it is cheap beside it."""
    every = [candidate("a", 0, 0.5, 0.0), candidate("b", 1, 0.0, 0.4), candidate("c", 2, 0.1, 0.1), candidate("d", 0, 0.05, 0.0)]
    assert wide_set(every, 1.0) == []
    assert {each.tensors[0].name for each in wide_set(every, 0.55)} == {"a"}
    assert {each.tensors[0].name for each in wide_set(every, 0.3)} == {"a", "b"}
    assert {each.tensors[0].name for each in wide_set(every, 0.1)} == {"a", "b", "d"}
    assert {each.tensors[0].name for each in wide_set(every, 0.0)} == {"a", "b", "c", "d"}
    assert {each.tensors[0].name for each in strongest(every, 1)} >= {"a"}
    assert strongest(every, 0) == []


noises = st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(noises, st.floats(0, 2), st.integers(0, 6))
def test_a_set_leaves_what_is_allowed_and_keeps_its_number(
    rows: list[tuple[int, float, float]], allowed: float, count: int
) -> None:
    every = [candidate(f"t{at}", owner, *noise) for at, (owner, *noise) in enumerate(rows)]
    found = wide_set(every, allowed)
    assert left(every, found) <= allowed + 1e-9
    assert len(set(map(id, found))) == len(found)
    few = strongest(every, count)
    assert count_ops(few) <= count
    assert left(every, few) <= left(every, ()) + 1e-9


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0], ids=["less noise than predicted", "as predicted", "more"])
@pytest.mark.parametrize("wanted_db", [12.0, 20.0, 30.0])
def test_a_search_ends_close_above_what_was_asked(factor: float, wanted_db: float) -> None:
    """A hundred tensors, each a twentieth less than the one before; the judge adds noise up and finds `factor` times as much."""
    every = [candidate(f"t{at}", at, 0.02 * 0.95**at) for at in range(100)]
    asked: list[int] = []

    def judge(wide: Sequence[Candidate]) -> float:
        asked.append(len(wide))
        return float(-10 * np.log10(factor * left(every, wide) + 1e-12))

    found = Search(wanted_db, judge(()), every, judge).run()
    assert found.sqnr_db is not None
    assert found.sqnr_db >= wanted_db
    assert found.sqnr_db <= wanted_db + 2 * CLOSE_DB
    assert len(asked) <= 10 + MOST_THINNED


def test_a_search_leaves_out_what_is_not_needed() -> None:
    """Of ten tensors only two make noise, though all are predicted to; both of an op go or stay together."""
    every = [candidate(f"t{at}", at // 2, 0.05 + 0.001 * at) for at in range(10)]
    loud = {"t2", "t9"}

    def judge(wide: Sequence[Candidate]) -> float:
        names = {each.tensors[0].name for each in wide}
        return 30.0 - 10 * len(loud - names)

    found = Search(29.0, judge(()), every, judge).run()
    assert found.sqnr_db == 30
    assert {each.op for each in found.wide} == {1, 4}


def test_a_search_that_cannot_reach_it_makes_everything_wide() -> None:
    every = [candidate(f"t{at}", at, 0.1) for at in range(5)]
    assert len(Search(30.0, 5.0, every, lambda _: 5.0).run().wide) == 5
    assert Search(30.0, None, every, lambda _: None).run().sqnr_db is None


@pytest.mark.parametrize("target", ["cv22", "onnxruntime-x86"])
def test_the_junction_that_loses_the_scores_is_what_becomes_wide(target: str) -> None:
    """Boxes in thousands beside scores on one Concat: the layers around it add little noise, and it loses the scores."""
    nodes = [
        node("Conv", "x a", "h"),
        node("Relu", "h", "r"),
        node("Conv", "r b", "boxes"),
        node("Conv", "r c", "scores"),
        node("Concat", "boxes scores", "both", axis=1),
        node("Conv", "both d", "y"),
    ]
    scale = np.diag([1e-3] * 4 + [1.0] * 4).astype(np.float32).reshape(8, 8, 1, 1)
    shapes = {"a": "8x3x3x3", "b": "4x8x1x1", "c": "4x8x1x1"}
    built = model(nodes, {"x": "1x3x8x8"}, ["y"], {**shapes, "d": scale})
    built.weights["b"] = (1000 * weight("4x8x1x1")).astype(np.float32)
    plain = built.copy()
    levels, said = [], ""
    for count in (0, 1):
        copy = built.copy()
        report = Quantize(target=target, wide_layers=count).run(copy, list(DATA) * 4)
        found = compare(plain, copy, DATA).worst_sqnr_db
        assert found is not None
        levels.append(found)
        said = " ".join(report.notes)
    assert "1 of " in said
    assert target != "cv22" or "the outputs feel: both" in said
    assert levels[1] > levels[0] + 6
