"""The metrics in examples/, on small models: values worked out by hand."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from examples import text_pixel_iou as iou
from examples.detection_map import kept
from onnxsparse import Model, ParamError
from onnxsparse.calibration.data import open_data
from onnxsparse.runtime.metric import load_metric
from onnxsparse.runtime.samples import Samples
from tests.graphs import model, node
from tests.runtime.test_metric import DIGITS, DIGITS_TEST

EXAMPLES = Path(__file__).parents[2] / "examples"
FINETUNE = EXAMPLES / "iterative_finetune.py"  # no metric; tested in test_finetune.py

DETECTOR = model(
    [node("Split", "x cut", "boxes scores", axis=2)], {"x": "1x3x6"}, ["boxes", "scores"], {"cut": np.array([4, 2], np.int64)}
)
"""Three boxes of two classes; the input has boxes and scores side by side."""

SEGMENTER = model([node("Identity", "x", "y")], {"x": "1x1x2x4"})
"""The input is the map of probabilities."""


def measured(name: str, of: Model, samples: Samples, labels: Path | None) -> float:
    return load_metric(f"{EXAMPLES}/{name}", labels).measure(of, samples)


@pytest.mark.parametrize("path", sorted({*EXAMPLES.glob("*.py")} - {FINETUNE}), ids=lambda path: path.name)
def test_an_example_is_short_and_shows_its_use(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) < 80
    assert sum(line.startswith("onnxsparse compare ") and f"--metric examples/{path.name}:" in line for line in lines) == 1


# top-1


def test_top1_agrees_with_the_metric_of_that_name() -> None:
    digits = Model.from_proto(onnx.load(DIGITS))
    labels = Path(f"{DIGITS_TEST}:y")
    assert measured("top1.py:top1", digits, open_data(DIGITS_TEST, digits), labels) == 99.75


def test_top1_wants_a_label_for_each_sample(tmp_path: Path) -> None:
    np.save(tmp_path / "l.npy", np.zeros(2, int))
    two_rows = Samples([{"x": np.zeros((1, 1, 2, 4), np.float32)}] * 3)
    with pytest.raises(ParamError, match=r"2 labels for 3 samples"):
        measured("top1.py:top1", SEGMENTER, two_rows, tmp_path / "l.npy")
    with pytest.raises(ParamError, match=r"ValueError: give --labels"):
        measured("top1.py:top1", SEGMENTER, two_rows, None)


# mAP: three images of 100×50 pixels with one object each, twice of category 7 and once of 3

TRUTH = {"a": (7, [20, 10, 40, 20]), "b": (7, [0, 0, 50, 50]), "c": (3, [50, 25, 20, 10])}
"""Image → category, and x, y, width and height in pixels."""


def annotations(folder: Path) -> Path:
    images = [{"id": 10 + at, "file_name": f"val/{name}.jpg", "width": 100, "height": 50} for at, name in enumerate(TRUTH)]
    objects = [
        {"id": 1 + at, "image_id": 10 + at, "category_id": kind, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for at, (kind, box) in enumerate(TRUTH.values())
    ]
    file = folder / "instances.json"
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    file.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    return file


def detections(folder: Path, shift: float = 0.0, score: float = 0.9, twice: float = 0.0, names: str = "abc") -> Samples:
    """The objects; that of image b has this score and is moved right by `shift` of its width. `twice`: score of a second box."""
    (folder / "images").mkdir()
    for name, (kind, (x, y, width, height)) in zip(names, TRUTH.values(), strict=True):
        found = np.zeros((1, 3, 6), np.float32)
        x += int(shift * width) if name == "b" else 0
        found[0, :2, :4] = [x / 100, y / 50, (x + width) / 100, (y + height) / 50]
        found[0, :2, 4 + (kind == 7)] = [score if name == "b" else 0.9, twice]  # column 0 is category 3, the lower id
        np.save(folder / "images" / f"{name}.npy", found)
    return open_data(folder / "images", DETECTOR)


def mean_ap(folder: Path, samples: Samples) -> float:
    return measured("detection_map.py:mean_ap", DETECTOR, samples, annotations(folder))


def test_a_perfect_detector_has_a_map_of_one(tmp_path: Path) -> None:
    assert mean_ap(tmp_path, detections(tmp_path)) == pytest.approx(1, abs=1e-12)


def test_a_shifted_box_counts_at_low_thresholds_alone(tmp_path: Path) -> None:
    # IoU 45 / 55 = 0.82 is enough at 7 of the 10 thresholds. At 3, one of two objects of category 7 is found, before the wrong
    # box: precision 1 at the 51 of 101 recalls up to 0.5. Category 3 is perfect.
    expected = ((7 + 3 * 51 / 101) / 10 + 1) / 2
    assert mean_ap(tmp_path, detections(tmp_path, shift=0.1, score=0.5)) == pytest.approx(expected, abs=1e-12)


def test_boxes_on_the_same_object_are_suppressed(tmp_path: Path) -> None:
    assert mean_ap(tmp_path, detections(tmp_path, score=0.5, twice=0.8)) == pytest.approx(1, abs=1e-12)


def test_nothing_found_is_a_map_of_zero(tmp_path: Path) -> None:
    samples = detections(tmp_path)
    empty = Samples([{"x": np.zeros((1, 3, 6), np.float32)}])
    assert mean_ap(tmp_path, samples.pick([2])) == pytest.approx(1, abs=1e-12)  # only image c counts
    with pytest.raises(ParamError, match=r"ValueError: .*instances\.json has no image 0"):
        mean_ap(tmp_path, empty)
    for file in (tmp_path / "images").iterdir():
        np.save(file, np.zeros((1, 3, 6), np.float32))
    assert mean_ap(tmp_path, open_data(tmp_path / "images", DETECTOR)) == 0


def test_an_image_without_annotations_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamError, match=r"ValueError: .*instances\.json has no image z\.npy"):
        mean_ap(tmp_path, detections(tmp_path, names="abz"))


def test_map_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = detections(tmp_path)
    with pytest.raises(ParamError, match=r"ValueError: give --labels"):
        measured("detection_map.py:mean_ap", DETECTOR, samples, None)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(ParamError, match=r"ImportError: mAP needs pycocotools; install it with: pip install pycocotools"):
        mean_ap(tmp_path, samples)


def test_suppression_keeps_the_best_of_boxes_that_overlap() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 6], [20, 20, 30, 30], [0, 0, 1, 1]], float)
    # IoU of 1 with the others is 0.8 and 0.75; the last is below the least score
    assert kept(boxes, np.array([0.5, 0.9, 0.6, 0.1, 0.0005])) == [1, 3]
    # IoU of 0 with 1 is 0.8, with 2 0.6
    assert kept(boxes, np.array([0.9, 0.5, 0.6, 0.1, 0.0005])) == [0, 2, 3]


# IoU of text pixels

PROBABILITIES = np.array([[[[0.9, 0.4, 0.3, 0.1], [0, 0, 0, 1]]], [[[0.5, 0, 0, 0], [0, 0, 0, 0]]]], np.float32)[:, None]
"""Two samples with 3 and 1 pixels above 0.3."""


def pages() -> Samples:
    return Samples([{"x": page} for page in PROBABILITIES])


def test_iou_is_over_the_pixels_of_all_samples(tmp_path: Path) -> None:
    masks = np.zeros((2, 2, 4), bool)
    masks[0, 0] = True
    np.savez(tmp_path / "masks.npz", masks=masks)
    # sample 0: 2 pixels in both, 5 in either; sample 1: 0 and 1
    assert measured("text_pixel_iou.py:text_iou", SEGMENTER, pages(), tmp_path / "masks.npz") == 2 / 6
    assert measured("text_pixel_iou.py:text_iou", SEGMENTER, pages().pick([0]), tmp_path / "masks.npz") == 2 / 5


def test_a_page_without_text_that_is_found_empty_is_right(tmp_path: Path) -> None:
    np.save(tmp_path / "masks.npy", np.zeros((1, 2, 4), bool))
    blank = Samples([{"x": np.zeros((1, 1, 2, 4), np.float32)}])
    assert measured("text_pixel_iou.py:text_iou", SEGMENTER, blank, tmp_path / "masks.npy") == 1


def test_a_reference_model_writes_masks_that_it_agrees_with(tmp_path: Path) -> None:
    SEGMENTER.save(tmp_path / "float.onnx")
    np.savez(tmp_path / "images.npz", x=PROBABILITIES)
    files = [str(tmp_path / name) for name in ("float.onnx", "images.npz", "masks.npz")]
    iou.write_masks(*files)
    with np.load(files[2]) as written:
        assert written["masks"].dtype == bool
        assert np.array_equal(written["masks"], PROBABILITIES[:, 0, 0] > 0.3)
    assert measured("text_pixel_iou.py:text_iou", SEGMENTER, pages(), Path(files[2])) == 1
    asked = subprocess.run([sys.executable, EXAMPLES / "text_pixel_iou.py"], capture_output=True, text=True, check=False)
    assert asked.stderr.startswith("usage: python examples/text_pixel_iou.py float.onnx images.npz masks.npz")


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "masks.npy", np.zeros((2, 4, 2), bool))
    with pytest.raises(ParamError, match=r"ValueError: the map of probabilities is \(2, 4\), the mask \(4, 2\)"):
        measured("text_pixel_iou.py:text_iou", SEGMENTER, pages(), tmp_path / "masks.npy")
