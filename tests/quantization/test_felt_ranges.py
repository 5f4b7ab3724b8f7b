"""Ranges by what the outputs feel: a choice by hand, and values far out that the outputs do not see, or see alone."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from onnxsparse import Model, ParamError, Quantize, compare
from onnxsparse.calibration.methods import Range
from onnxsparse.calibration.ranges import SCHEMA
from onnxsparse.quantization.accuracy.felt_ranges import felt_least, felt_rule, loudest_activations
from onnxsparse.quantization.accuracy.heard import Heard
from onnxsparse.quantization.accuracy.output_noise import Tensor
from onnxsparse.quantization.activation_ranges import Calibration
from onnxsparse.quantization.plan.placement import place
from onnxsparse.quantization.plan.target import load_target
from onnxsparse.runtime.samples import Samples
from tests.graphs import Array, model, node, weight
from tests.quantization.int8_models import quantize


def tensor(name: str, *noise: float, is_weight: bool = False) -> Tensor:
    return Tensor(name, is_weight, 0, np.array(noise))


def test_a_choice_by_hand() -> None:
    """With range 0, a is quieter but b is not; with range 1, both are, a less so."""
    own = [tensor("a", 4.0, 1.0), tensor("b", 1.0, 0.0), tensor("w", 2.0, 0.0, is_weight=True), tensor("quiet", 0.001, 0.0)]
    assert [each.name for each in loudest_activations(own)] == ["a", "b"]
    others = [{"a": np.array([1.0, 1.0]), "b": np.array([2.0, 0.0])}, {"a": np.array([2.0, 1.0]), "b": np.array([0.5, 0.0])}]
    assert felt_least(own, own[:2], others) == {"a": 0, "b": 1}
    assert felt_least(own, own[:2], [{"a": np.array([4.0, 1.0]), "b": np.array([1.0, 0.5])}]) == {}


def test_the_worst_slice_counts_more_than_the_sum() -> None:
    own = [tensor("a", 3.0, 1.0)]
    assert felt_least(own, own, [{"a": np.array([2.0, 1.9])}]) == {"a": 0}
    assert felt_least(own, own, [{"a": np.array([3.1, 0.8])}]) == {}


def far_out(seed: int, count: int) -> list[dict[str, Array]]:
    """Rows of two features; one value in 2048, of the first, is far out."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, 1024, 2))
    rows[:, 0, 0] = 300
    return [{"x": row.astype(np.float32)} for row in rows]


def reading(first: float) -> Model:
    """Three outputs of two features, of which the first has a factor."""
    return model(
        [node("MatMul", "x w", "y")], {"x": "1024x2"}, ["y"], {"w": (weight("2x3") * [[first], [1.0]]).astype(np.float32)}
    )


@pytest.mark.parametrize("first", [0.0, 1.0])
def test_the_range_follows_from_what_the_output_reads(first: float) -> None:
    plain, levels, ranges = reading(first), [], []
    for method in ("mse", "output"):
        written, _ = quantize(plain, far_out(0, 24), method=method)
        levels.append(compare(plain, written, Samples(far_out(1, 12))).outputs[0].sqnr_db or 0.0)
        ranges.append(float(written.weights[next(n.input[1] for n in written.proto.graph.node if n.op_type == "QuantizeLinear")]))
    assert levels[1] >= levels[0] - 0.1
    if not first:
        assert levels[1] > levels[0] + 6
        assert ranges[1] < ranges[0] / 4


@pytest.mark.parametrize(
    ("quality", "rule"),
    [
        (lambda high: -9 * high, "mse"),
        (lambda high: 9 * high, "minmax"),
        (lambda high: high / 99, "cube"),
        (lambda _: None, "cube"),
    ],
    ids=["least reach", "most reach", "nearly alike", "unknown"],
)
def test_the_best_rule_is_taken(quality: Callable[[float], float | None], rule: str) -> None:
    """Ranges are found on other samples than those that are judged on. The rule stays if no other is clearly better."""
    rng, plain, highs = np.random.default_rng(0), reading(1.0), []
    samples = Samples([{"x": rng.standard_t(3, (1024, 2)).astype(np.float32)} for _ in range(24)])
    heard = Heard.of(plain, samples)

    def judge(ranges: Mapping[str, Range]) -> float | None:
        highs.append(ranges["x"].high)
        return quality(highs[-1])

    found = felt_rule(Calibration(samples, "cube", 99.99, 1 << 20), place(plain, load_target("cv22"), {}), heard, judge)
    assert found.method == rule
    assert max(highs) == pytest.approx(max(feeds["x"].max() for feeds in heard.others))
    assert sorted([*heard.others.places, *heard.judged.places]) == [*range(24)]


def seldom_large(seed: int, count: int) -> list[dict[str, Array]]:
    """Input a: a feature of hundreds beside one of ones. Input b: one value in 32768 is about 11."""
    rng = np.random.default_rng(seed)
    uneven, seldom = rng.standard_normal((count, 16384, 2)) * [150, 1], rng.standard_normal((count, 16384, 2))
    seldom[:, 0, 0] = rng.uniform(10, 12, count)
    return [{"a": a.astype(np.float32), "b": b.astype(np.float32)} for a, b in zip(uneven, seldom, strict=True)]


def test_once_ops_are_wide_ranges_follow_another_rule() -> None:
    """8 bits are too few for a. Of b, an output reads only what is above 8, which the least mean square clips."""
    plain = model(
        [node("MatMul", "a u", "y"), node("Gemm", "b v t", "h"), node("Relu", "h", "z")],
        {"a": "16384x2", "b": "16384x2"},
        ["y", "z"],
        {
            "u": np.array([[0], [1]], np.float32),
            "v": np.array([[1], [0]], np.float32),
            "t": np.array([-8], np.float32),
        },
    )
    test = Samples(seldom_large(1, 12))
    levels, methods = [], []
    for method in (None, "mse"):
        for count in (0, 1):
            written, report = quantize(plain, seldom_large(0, 24), method=method, wide_layers=count)
            levels.append(compare(plain, written, test).worst_sqnr_db or 0.0)
            methods.append(" ".join(note for note in report.notes if note.startswith("ranges of")))
    assert levels[0] == levels[2] < levels[3]
    assert levels[1] > levels[3] + 6
    assert ["by mse" in method for method in methods] == [True, False, True, True]


def test_given_ranges_stay(tmp_path: Path) -> None:
    plain = reading(0.0)
    (tmp_path / "r.json").write_text(json.dumps({"schema": SCHEMA, "ranges": {"x": [-1000.0, 1000.0], "y": [-9.0, 9.0]}}))
    _, report = quantize(plain, far_out(0, 12), method="output", ranges=tmp_path / "r.json")
    assert "all ranges stay: the outputs are no better with others" in report.notes


def test_it_needs_data(tmp_path: Path) -> None:
    plain = reading(1.0)
    (tmp_path / "r.json").write_text(json.dumps({"schema": SCHEMA, "ranges": {"x": [-4.0, 4.0]}}))
    with pytest.raises(ParamError, match="--method output needs --data"):
        Quantize(method="output", ranges=tmp_path / "r.json").run(plain.copy())
