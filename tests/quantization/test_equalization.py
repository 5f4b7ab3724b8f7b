"""Equalization: factors on the channels of activations, which change no output and give every channel its integers."""

import re

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxsparse.ir.model import Model
from onnxsparse.quantization.accuracy.channel_factors import ChannelFactors, Finding
from onnxsparse.quantization.accuracy.equalization import equalized, factors, move
from onnxsparse.quantization.plan.placement import Placement, place
from onnxsparse.quantization.plan.target import load_target
from onnxsparse.runtime.compare import compare
from onnxsparse.runtime.samples import Samples
from tests.graphs import Array, model, node, op_types
from tests.quantization.int8_models import coarse, floats, outputs, quantize, samples
from tests.quantization.test_generated import networks


def placed(built: Model, target: str = "cv22") -> Placement:
    return place(built, load_target(target), {})


def found(built: Model, *, split: bool = False, target: str = "cv22") -> ChannelFactors:
    return Finding(placed(built, target), split).run()


def gated() -> Model:
    """A block of a MobileNet: expanded, depthwise, gated by a squeeze-excite branch, projected, and added to what it read."""
    nodes = [
        node("Conv", "x w0 b0", "a", pads=[1] * 4),
        node("Conv", "a w1 b1", "e"),
        node("HardSwish", "e", "eh"),
        node("Conv", "eh w2 b2", "d", pads=[1] * 4, group=8),
        node("Relu", "d", "dr"),
        node("GlobalAveragePool", "dr", "g"),
        node("Conv", "g w3 b3", "s"),
        node("HardSigmoid", "s", "sh"),
        node("Mul", "dr sh", "m"),
        node("Conv", "m w4 b4", "p"),
        node("Add", "p a", "r"),
        node("Conv", "r w5 b5", "y"),
    ]
    weights: dict[str, str | Array] = {
        "w0": coarse("4x3x3x3", 0),
        "w1": coarse("8x4x1x1", 1),
        "w2": coarse("8x1x3x3", 2),
        "w3": coarse("8x8x1x1", 3),
        "w4": coarse("4x8x1x1", 4),
        "w5": coarse("2x4x1x1", 5),
        **{f"b{at}": coarse(str(size), 10 + at) for at, size in enumerate((4, 8, 8, 8, 4, 2))},
    }
    return model(nodes, {"x": "1x3x8x8"}, ["y"], weights, opset=14)


def followed(net: ChannelFactors) -> set[str]:
    return {name for name in net.labels if net.of(name) is not None}


def test_factors_pass_a_gate_a_pooling_and_an_addition() -> None:
    net = found(gated())
    assert followed(net) == {"a", "p", "r", "d", "dr", "g", "m"}
    for alike in (("a", "p", "r"), ("d", "dr", "g", "m")):
        first, *others = (net.of(name) for name in alike)
        assert first is not None and len(set(first)) == len(first)
        assert all((first == other).all() for other in others)


def test_a_function_in_the_way_is_split_where_the_target_absorbs_a_multiplication() -> None:
    assert {"eh", "sh"} & followed(found(gated(), split=True)) == {"eh"}  # nothing that takes a factor reads the gate
    assert "eh" not in followed(found(gated(), split=True, target="onnxruntime-x86"))


@pytest.mark.parametrize(("split", "added"), [(False, 0), (True, 1)])
def test_an_equalized_model_computes_the_same_and_has_as_many_scales(split: bool, added: int) -> None:
    plain = gated()
    before = placed(plain)
    after = equalized(before, Samples(tuple(samples())), split=split)
    assert after is not None
    work = after.anatomy.model
    assert op_types(work).count("Mul") == op_types(plain).count("Mul") + added
    assert not np.array_equal(work.weights["w4"], plain.weights["w4"])
    assert len(after.sources) == len(before.sources) and len(after.units) == len(before.units)
    for feeds in samples(3):
        assert np.allclose(outputs(work, feeds)["y"], outputs(plain, feeds)["y"], rtol=1e-4, atol=1e-5)


def test_a_divisor_is_the_root_of_the_range_over_that_of_the_weights() -> None:
    nodes = [node("Conv", "x w0", "a"), node("Relu", "a", "r"), node("Conv", "r w1", "y")]
    second = np.array([[1.0, 4.0], [-0.5, 2.0]], np.float32).reshape(2, 2, 1, 1)
    plain = model(nodes, {"x": "1x3x8x8"}, ["y"], {"w0": coarse("2x3x1x1", 0), "w1": second})
    net = found(plain)
    made = factors(placed(plain).anatomy, net, {"r": np.array([8.0, 0.5])})
    classes = net.of("r")
    assert classes is not None
    # ranges 1 and 1/16 of the largest, weights 1/4 and 1 of the largest
    assert np.allclose(made[classes], [np.sqrt(1 / (1 / 4)), np.sqrt(1 / 16)])


def test_a_silent_channel_and_one_that_nothing_reads_stay() -> None:
    nodes = [node("Conv", "x w0", "a"), node("Conv", "a w1", "y")]
    second = coarse("2x3x1x1", 1)
    second[:, 1] = 0
    plain = model(nodes, {"x": "1x3x8x8"}, ["y"], {"w0": coarse("3x3x1x1", 0), "w1": second})
    net = found(plain)
    made = factors(placed(plain).anatomy, net, {"a": np.array([0.0, 3.0, 4.0])})
    classes = net.of("a")
    assert classes is not None and (made[classes][:2] == 1).all() and made[classes][2] != 1


FROZEN = {
    "an output": ([node("Relu", "a", "r"), node("Conv", "r w", "y")], ["y", "r"]),
    "a function": ([node("Sigmoid", "a", "r"), node("Conv", "a w", "b"), node("Add", "b r", "y")], ["y"]),
    "the input, added": ([node("Add", "a x", "r"), node("Conv", "r w", "y")], ["y"]),
    "a grouped convolution": ([node("Conv", "a grouped", "y", group=2)], ["y"]),
    "channels on another axis": ([node("Transpose", "a", "r", perm=[0, 2, 1, 3]), node("Conv", "r w", "y")], ["y"]),
}


@pytest.mark.parametrize("case", FROZEN)
def test_no_factor_where_something_else_would_see_it(case: str) -> None:
    nodes, names = FROZEN[case]
    held: dict[str, str | Array] = {"first": coarse("4x4x1x1", 0), "w": coarse("4x4x1x1", 1), "grouped": coarse("4x2x1x1", 2)}
    used = {name for each in nodes for name in each.input}
    weights = {name: array for name, array in held.items() if name in used | {"first"}}
    plain = model([node("Conv", "x first", "a"), *nodes], {"x": "1x4x4x4"}, names, weights)
    assert found(plain).of("a") is None


@pytest.mark.parametrize("transposed", [False, True])
def test_the_rows_of_a_transposed_operand_are_no_channels(transposed: bool) -> None:
    nodes = [node("Gemm", "x w0", "a"), node("Relu", "a", "r"), node("Gemm", "r w1", "y", transA=int(transposed))]
    plain = model(nodes, {"x": "4x4"}, ["y"], {"w0": coarse("4x4", 0), "w1": coarse("4x4", 1)})
    assert (found(plain).of("r") is None) is transposed


RESHAPED: dict[str, tuple[list[onnx.NodeProto], str, bool]] = {
    "shuffled": (
        [
            node("Reshape", "a pairs", "r"),
            node("Transpose", "r", "t", perm=[0, 2, 1, 3, 4]),
            node("Reshape", "t same", "s"),
            node("Conv", "s w", "y"),
        ],
        "4x4x1x1",
        False,
    ),
    "cut into groups": ([node("Reshape", "a groups", "s"), node("Conv", "s w", "y")], "4x2x1x1", False),
    "flattened": ([node("Flatten", "a", "s"), node("Gemm", "s w", "y")], "64x4", True),
}


@pytest.mark.parametrize("case", RESHAPED)
def test_channels_that_a_reshape_rearranges(case: str) -> None:
    nodes, shape, free = RESHAPED[case]
    sizes = {"pairs": [1, 2, 2, 4, 4], "same": [1, 4, 4, 4], "groups": [1, 2, 8, 4]}
    used = {name for each in nodes for name in each.input}
    held = {name: np.array(numbers) for name, numbers in sizes.items() if name in used}
    plain = model(
        [node("Conv", "x first", "a"), *nodes],
        {"x": "1x4x4x4"},
        ["y"],
        {"first": coarse("4x4x1x1", 0), "w": coarse(shape, 1), **held},
    )
    assert (found(plain).of("a") is not None, found(plain).of("s") is not None) == (free, free)
    if free:
        assert_same_with_drawn_divisors(plain, split=False, seed=0)


def assert_same_with_drawn_divisors(built: Model, *, split: bool, seed: int) -> None:
    placement = placed(built)
    net = Finding(placement, split).run()
    drawn = np.random.default_rng(seed).uniform(0.3, 3, net.classes.root.size)
    work = move(placement, net, np.where(net.classes.frozen, 1.0, drawn)).anatomy.model
    onnx.checker.check_model(onnx.load_from_string(work.to_bytes()), full_check=True)
    feeds = {"x": np.random.default_rng(seed).standard_normal((1, 4, 4, 4)).astype(np.float32)}
    wanted, got = outputs(built, feeds), outputs(work, feeds)
    for name, array in wanted.items():
        assert np.allclose(got[name], array, rtol=1e-3, atol=1e-3 * np.abs(array).max()), name


@pytest.mark.parametrize("slope", ["4x1x1", "1x1x1"])
def test_factors_pass_a_prelu(slope: str) -> None:
    nodes = [node("Conv", "x w0 b0", "a"), node("PRelu", "a slope", "r"), node("Conv", "r w1", "y")]
    weights: dict[str, str | Array] = {
        "w0": coarse("4x4x1x1", 0),
        "b0": "4",
        "slope": coarse(slope, 1),
        "w1": coarse("4x4x1x1", 2),
    }
    plain = model(nodes, {"x": "1x4x4x4"}, ["y"], weights)
    assert found(plain).of("a") is not None
    assert_same_with_drawn_divisors(plain, split=False, seed=0)


@pytest.mark.parametrize("axes", [(2, 3), (1,)], ids=["positions", "channels"])
@pytest.mark.parametrize("op", ["ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"])
def test_factors_pass_a_reduction_over_positions(op: str, axes: tuple[int, ...]) -> None:
    """Their squares, and sums over channels with other factors each, are no multiples."""
    nodes = [
        node("Conv", "x w0", "a"),
        node(op, "a axes", "r", keepdims=1) if op == "ReduceSum" else node(op, "a", "r", axes=axes, keepdims=1),
        node("Conv", "r w1", "y"),
    ]
    held = {"axes": np.array(axes)} if op == "ReduceSum" else {}
    channels = 1 if axes == (1,) else 4
    plain = model(nodes, {"x": "1x4x4x4"}, ["y"], {"w0": coarse("4x4x1x1", 0), "w1": coarse(f"4x{channels}x1x1", 1), **held})
    assert (found(plain).of("a") is not None) == (axes == (2, 3) and op != "ReduceSumSquare")
    assert_same_with_drawn_divisors(plain, split=False, seed=0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(networks(), st.booleans(), st.integers(0, 2**31))
def test_no_output_of_a_generated_model_changes(built: Model, split: bool, seed: int) -> None:
    assert_same_with_drawn_divisors(built, split=split, seed=seed)


def uneven() -> Model:
    """`gated`, its depthwise channels of ranges from 1 to 1/1000."""
    plain = gated()
    by = np.geomspace(1, 1e-3, 8).astype(np.float32)
    for name, rank in {"w2": 4, "b2": 1}.items():
        plain.weights[name] = (floats(plain, name) * by.reshape(-1, *[1] * (rank - 1))).astype(np.float32)
    for name in ("w3", "w4"):
        plain.weights[name] = (floats(plain, name) / by[:, None, None]).astype(np.float32)
    return plain


@pytest.mark.parametrize("count", [3, 24])
def test_the_better_model_is_taken_and_said(count: int) -> None:
    work, report = quantize(uneven(), samples(count), target="cv22", equalize=True)
    plain, _ = quantize(uneven(), samples(count), target="cv22")
    after, before = (compare(uneven(), each, Samples(tuple(samples(8, 0.9)))).worst_sqnr_db for each in (work, plain))
    assert after is not None and before is not None and after > before + 6
    (told,) = [note for note in report.notes if "equalized" in note]
    levels = [float(number) for number in re.findall(r"([\d.]+) dB", told)]
    assert told.startswith("channels were equalized") and len(levels) == 3 and max(levels) > levels[0] + 6


def test_what_would_be_the_same_model_is_not_judged_again() -> None:
    assert equalized(placed(gated(), "onnxruntime-x86"), Samples(tuple(samples())), split=True) is None
    _, report = quantize(gated(), samples(24), target="onnxruntime-x86", equalize=True)
    (told,) = [note for note in report.notes if "equalized" in note]
    assert told.count(" dB ") == 2


def test_a_model_without_layers_in_a_row_is_as_before() -> None:
    plain = model([node("Conv", "x w", "y")], {"x": "1x3x8x8"}, ["y"], {"w": coarse("2x3x1x1", 0)})
    assert equalized(placed(plain), Samples(tuple(samples())), split=True) is None
    work, report = quantize(plain, samples(24), target="cv22", equalize=True)
    assert work.to_bytes() == quantize(plain, samples(24), target="cv22")[0].to_bytes()
    assert any(note.startswith("channels were not equalized") for note in report.notes)


def test_what_is_kept_float_is_kept_behind_a_split_too() -> None:
    built = gated()
    index = op_types(built).index("Add")
    made = equalized(place(built, load_target("cv22"), {index: "asked"}), Samples(tuple(samples())), split=True)
    assert made is not None
    assert [made.anatomy.nodes[at].op_type for at in made.kept] == ["Add"] and made.kept != {index: "asked"}
