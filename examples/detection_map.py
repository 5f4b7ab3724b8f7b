"""mAP of a detector, 0 to 1, as COCO defines it: over IoU 0.50 to 0.95. Needs pycocotools.

onnxsparse compare a.onnx b.onnx --test images/ --metric examples/detection_map.py:mean_ap --labels boxes.json --max-drop 0.005

The model has two outputs: `boxes`, 1×N×4, x1 y1 x2 y2 as shares 0 to 1 of the image, and `scores`, 1×N×classes, whose columns are
the file's categories in the order of their ids. Images are stretched to the input. For another layout, change `decode`.
"""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from onnxsparse import TestData

LEAST_SCORE, NMS_IOU, MOST_BOXES = 0.001, 0.65, 100

Floats = NDArray[np.floating[Any]]


def mean_ap(session: InferenceSession, data: TestData) -> float:
    """The mAP over the images of the test data. Raises ValueError for an image that the annotations do not have."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise ImportError("mAP needs pycocotools; install it with: pip install pycocotools") from None
    if data.labels_file is None:
        raise ValueError("give --labels: annotations of the images, in COCO's JSON")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        truth = COCO(str(data.labels_file))
        images = {Path(image["file_name"]).stem: image for image in truth.dataset["images"]}
        if missing := [name for name in data.names if Path(name).stem not in images]:
            raise ValueError(f"{data.labels_file} has no image {missing[0]}")
        found, ids = [], []
        for feeds, name in zip(data, data.names, strict=True):
            image = images[Path(name).stem]
            ids.append(image["id"])
            boxes, scores = session.run(["boxes", "scores"], feeds)
            found += decode(boxes, scores, image, sorted(truth.getCatIds()))
        if not found:
            return 0.0
        judge = COCOeval(truth, truth.loadRes(found), "bbox")
        judge.params.imgIds = ids
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0])


def decode(boxes: Floats, scores: Floats, image: dict[str, Any], categories: list[int]) -> list[dict[str, Any]]:
    """The detections in one image, in COCO's form: x, y, width and height in pixels of the image."""
    corners = boxes[0].astype(np.float64) * np.tile([image["width"], image["height"]], 2)
    found = []
    for category, column in zip(categories, scores[0].T, strict=True):
        for at in kept(corners, column):
            box = [*corners[at, :2], *(corners[at, 2:] - corners[at, :2])]
            found.append({"image_id": image["id"], "category_id": category, "bbox": box, "score": float(column[at])})
    return sorted(found, key=lambda one: -one["score"])[:MOST_BOXES]


def kept(boxes: Floats, scores: Floats) -> list[int]:
    """Non-maximum suppression in one class: indices of boxes that overlap none with a higher score, best first."""
    order, chosen = np.argsort(-scores, kind="stable"), []
    order = order[scores[order] >= LEAST_SCORE]
    area = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)
    while order.size:
        best, order = order[0], order[1:]
        chosen.append(int(best))
        sides = (np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])).clip(0)
        shared = sides.prod(axis=1)
        order = order[shared <= NMS_IOU * (area[best] + area[order] - shared)]
    return chosen
