"""The worst slice: the axis of channels or classes, the slices that carry signal, and verdicts that go by the worst of them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from onnxsparse import Model, compare
from onnxsparse.passes.quantize import Quantize
from onnxsparse.runtime import slices as judge
from onnxsparse.runtime.classes import Choices
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.slices import JudgedSlices, Slices, judged
from tests.commands import Run
from tests.graphs import Array, model, node

BACKGROUND, FACE = [1.0] * 7 + [0.0], [0.0] * 7 + [0.1]
SCORES = np.array([BACKGROUND, FACE], np.float32).T[None]
BOXES = np.random.default_rng(0).uniform(0, 1, (1, 8, 4)).astype(np.float32)
LOST = np.zeros((1, 8, 2), np.float32)
LOST[0, 7, 1] = 0.083
TOTAL_DB = 10 * math.log10(7.01 / 0.083**2)  # power 7·1² + 0.1², noise 0.083²: 30.1 dB
FACE_DB = 10 * math.log10(0.01 / 0.083**2)  # power 0.1²: 1.6 dB


def detector(error: Array) -> Model:
    """Two-class scores and boxes, as UltraFace has them; `error` is added to the scores."""
    nodes = [node("Add", "s error", "scores"), node("Mul", "b one", "boxes")]
    inputs = {"s": "1x8x2", "b": "1x8x4"}
    return model(nodes, inputs, ["scores", "boxes"], {"error": error, "one": np.array(1, np.float32)})


def of(a: Array, b: Array | None = None) -> Slices:
    found = Slices()
    found.add(a, a if b is None else b)
    return found


def slices_of(a: Array, b: Array | None = None) -> JudgedSlices:
    return judged({"y": of(a, b)})["y"]


def test_a_lost_class_is_the_worst_slice() -> None:
    found = compare(detector(LOST * 0), detector(LOST), Samples(({"s": SCORES, "b": BOXES},)))
    scores, boxes = found.outputs
    assert scores.sqnr_db == pytest.approx(TOTAL_DB, abs=1e-3)
    assert scores.worst_slice is not None
    assert scores.worst_slice.label == "scores[:, :, 1]"
    assert scores.worst_slice.sqnr_db == pytest.approx(FACE_DB, abs=1e-3)
    assert (round(TOTAL_DB), round(FACE_DB, 1)) == (30, 1.6)
    assert boxes.worst_slice is None  # they are equal
    assert found.worst_sqnr_db == scores.worst_slice.sqnr_db
    assert found.worst_slice == scores.worst_slice
    assert found.passes(1.5)
    assert not found.passes(20)
    row = json.loads(json.dumps(found.to_json()))["outputs"][0]
    assert row["worst_slice"] == {"axis": 2, "index": 1, "sqnr_db": scores.worst_slice.sqnr_db}
    assert row["top1"] is None


def test_compare_fails_because_of_a_slice(run: Run, tmp_path: Path) -> None:
    detector(LOST * 0).save(tmp_path / "a.onnx")
    detector(LOST).save(tmp_path / "b.onnx")
    np.savez(tmp_path / "d.npz", s=SCORES, b=BOXES)
    given = ("compare", tmp_path / "a.onnx", tmp_path / "b.onnx", "--data", tmp_path / "d.npz", "--min-sqnr")
    assert run(*given, "1.5") == 0
    assert "scores[:, :, 1], 1.62 dB" in run.out
    assert "30.08" in run.out
    assert "top-1" not in run.out
    assert "not every output reaches 20 dB: scores[:, :, 1] has 1.62 dB" in run.fails(1, *given, "20")


def test_quantize_widens_layers_because_of_a_slice() -> None:
    """One channel eight times as large: on one scale the others have 18 dB less."""
    built = model(
        [node("Conv", "x w", "a"), node("Conv", "a v", "y", kernel_shape=[1, 1])],
        {"x": "1x3x8x8"},
        weights={
            "w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1),
            "v": np.diag([8.0, 1, 1]).astype(np.float32).reshape(3, 3, 1, 1),
        },
    )
    rng = np.random.default_rng(0)
    data: list[dict[str, Array]] = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(8)]
    plain, wide = built.copy(), built.copy()
    Quantize().run(plain, data)
    report = Quantize(min_sqnr=30.0).run(wide, data)
    before, after = (compare(built, other, Samples(tuple(data))).outputs[0] for other in (plain, wide))
    assert before.sqnr_db is not None
    assert before.worst_slice is not None
    assert before.sqnr_db > 30 > before.worst_slice.sqnr_db  # the whole would need no wide layer
    assert after.lowest_db is not None
    assert after.lowest_db >= 30
    assert any("have more bits" in text for text in report.notes)
    assert any("the worst output or slice has" in text for text in report.notes)


def parts(shape: tuple[int, ...], axis: int, large: int, factor: float) -> Array:
    """Normal values; the first `large` indices of `axis` are `factor` times as large."""
    value = np.random.default_rng(0).standard_normal(shape)
    value[(slice(None),) * axis + (slice(large),)] *= factor
    return value.astype(np.float32)


def picture(channels: int, side: int) -> Array:
    """Feature maps with channels of different scale and an object in the middle."""
    at = np.linspace(-1, 1, side)
    blob = np.exp(-4 * (at[:, None] ** 2 + at**2))
    return (np.random.default_rng(0).lognormal(0, 1, channels)[:, None, None] * blob)[None].astype(np.float32)


@pytest.mark.parametrize(
    ("what", "value", "axis"),
    [
        ("boxes and scores, channels first", parts((1, 84, 2100), 1, 4, 100), 1),
        ("boxes and scores, channels last", parts((1, 2100, 85), 2, 4, 100), 2),
        ("feature maps", picture(64, 40), 1),
        ("few feature maps", picture(3, 160), 1),
        ("feature maps, channels last", picture(64, 40).transpose(0, 2, 3, 1), 3),
        ("scores of two classes", parts((1, 4420, 2), 2, 1, 100), 2),
        ("logits of many classes", parts((16, 1000), 1, 10, 10), None),
        ("logits of few classes", parts((16, 10), 1, 1, 10), 1),
        ("pooled channels", parts((16, 10, 1, 1), 1, 1, 10), 1),
        ("a text line: 40 positions, blank and 96 letters", parts((1, 40, 97), 2, 1, 30), 2),
        ("a text line with thousands of letters", parts((1, 40, 6625), 2, 1, 100), None),
        ("an image of one channel", picture(1, 160), None),
        ("a depth map without a channel axis", picture(1, 160)[0], None),
        ("one score per box", parts((1, 300, 1), 1, 3, 10), None),
        ("rows without a batch", parts((300, 6), 1, 4, 100), 1),
        ("a vector", parts((300,), 0, 4, 100), None),
    ],
)
def test_the_axis_counts_channels_and_never_positions(what: str, value: Array, axis: int | None) -> None:
    assert of(value).axis == axis, what


def test_a_slice_without_signal_is_not_the_worst() -> None:
    """Channel 1 has −4 dB and too little power. Channel 2 has 4 % of channel 0's power and 28.1 dB, the worst that counts."""
    a = np.stack([np.full(8, 1.0), np.full(8, 0.001), np.full(8, 0.2)])[None].astype(np.float32)
    b = a + np.array([0.01, 0.0016, 0.0079], np.float32)[:, None]
    found = slices_of(a, b)
    assert list(found.carries) == [True, False, True]
    assert found.worst is not None
    assert found.worst.index == 2
    assert found.worst.sqnr_db == pytest.approx(20 * math.log10(0.2 / 0.0079), abs=1e-3)


def test_a_zero_slice_carries_no_signal() -> None:
    a = np.stack([np.ones(8), np.zeros(8)])[None].astype(np.float32)
    found = slices_of(a, a + np.float32(0.1))
    assert list(found.carries) == [True, False]


def test_scores_beside_boxes_carry_signal_where_they_detect() -> None:
    """Boxes in pixels; a class that reaches 0.8, one that stays below SCORE, and a coefficient that is negative too."""
    rng = np.random.default_rng(0)
    rows = [*rng.uniform(20, 300, (4, 50)), np.linspace(0, 0.8, 50), np.linspace(0, 0.05, 50), np.linspace(-0.5, 0.5, 50)]
    found = slices_of(np.stack(rows)[None].astype(np.float32))
    assert list(found.carries) == [True] * 4 + [True, False, False]


def test_probabilities_are_scores_only_beside_boxes() -> None:
    assert list(judged({"scores": of(SCORES)})["scores"].carries) == [True, False]
    assert list(judged({"scores": of(SCORES), "boxes": of(BOXES)})["scores"].carries) == [True, True]


def test_few_elements_are_not_judged() -> None:
    assert judged({"y": of(parts((7, 10), 1, 1, 10))}) == {}


def test_blocks_and_samples_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1, 5, 40)).astype(np.float32), rng.standard_normal((2, 1, 5, 40)).astype(np.float32)
    monkeypatch.setattr(judge, "BLOCK_ELEMENTS", 64)
    found = Slices()
    for one, other in zip(a, b, strict=True):
        found.add(one, other)
    sums = found.axes[1]
    assert sums.power == pytest.approx((a.astype(np.float64) ** 2).sum((0, 1, 3)))
    assert sums.noise == pytest.approx(((a.astype(np.float64) - b) ** 2).sum((0, 1, 3)))
    assert (sums.low == a.min((0, 1, 3))).all()
    assert found.axes[2].power == pytest.approx((a.astype(np.float64) ** 2).sum((0, 1, 2)))


def test_an_axis_that_changes_between_samples_is_not_sliced() -> None:
    found = of(parts((1, 20, 6), 2, 4, 100))
    found.add(*[parts((1, 30, 6), 2, 4, 100)] * 2)
    assert (set(found.axes), found.axis) == ({2}, 2)
    assert found.axes[2].elements[0] == 50


def test_values_that_are_not_finite_have_a_problem() -> None:
    a = np.ones((1, 2, 8), np.float32)
    b = a.copy()
    b[0, 1, 3] = np.nan
    found = of(a, b).axes[1]
    assert found.distance(0).level_db == math.inf
    assert (found.distance(1).problem, found.distance(1).broken) == ("it has NaN or infinite values", True)


@pytest.mark.parametrize(
    ("what", "shape", "batch", "others", "share"),
    [
        ("logits", (2, 3), 2, [], 0.5),
        ("pooled logits", (2, 3, 1, 1), 2, [], 0.5),
        ("two classes", (2, 2), 2, [], None),
        ("a feature map", (2, 3, 2, 1), 2, [], None),
        ("a sequence", (1, 2, 3), 1, [], None),
        ("boxes, with rows of their own", (2, 4), 1, [], None),
        ("scores of boxes", (2, 3), 2, [(3, 4)], None),
        ("a box beside a class", (2, 4), 2, [(3,)], None),
        ("four classes", (2, 4), 2, [], 0.5),
    ],
)
def test_top1_is_a_classifiers(
    what: str, shape: tuple[int, ...], batch: int, others: list[tuple[int, ...]], share: float | None
) -> None:
    a = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    b = a.copy()
    b.flat[0] = 100  # the first row has another class
    found = Choices()
    found.add(a, b, batch)
    assert found.share(others) == share, what
