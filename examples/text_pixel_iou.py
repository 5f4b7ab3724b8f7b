"""IoU, 0 to 1, of the text pixels that a text detector finds, against masks.

onnxsparse compare a.onnx b.onnx --test images.npz --metric examples/text_pixel_iou.py:text_iou --labels masks.npz --max-drop 0.01

The model's first output is a map of probabilities with one channel, 1×1×H×W; a pixel is text above THRESHOLD. The masks are
booleans, samples×H×W. Without masks of your own, take those of a reference model:

python examples/text_pixel_iou.py float.onnx images.npz masks.npz
"""

import sys
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from onnxsparse import TestData, load, load_samples

THRESHOLD = 0.3

Mask = NDArray[np.bool_]


def text_iou(session: InferenceSession, data: TestData) -> float:
    """The pixels that are text in both, as a share of those that are text in either; over all samples together.

    Raises ValueError for masks that are missing or of another shape.
    """
    if data.labels is None:
        raise ValueError("give --labels: masks of the samples, booleans of samples×H×W")
    shared = either = 0
    for found, mask in zip(text_pixels(session, data), data.labels.astype(bool), strict=True):
        if found.shape != mask.shape:
            raise ValueError(f"the map of probabilities is {found.shape}, the mask {mask.shape}")
        shared += int((found & mask).sum())
        either += int((found | mask).sum())
    return shared / either if either else 1.0


def text_pixels(session: InferenceSession, samples: Iterable[dict[str, NDArray[np.generic]]]) -> Iterable[Mask]:
    """H×W for each sample: whether a pixel is text. Raises ValueError if the output has several channels."""
    for feeds in samples:
        probabilities = session.run(None, feeds)[0]
        if probabilities.ndim != 4 or probabilities.shape[:2] != (1, 1):
            raise ValueError(f"the first output is {probabilities.shape}, not (1, 1, H, W)")
        yield probabilities[0, 0] > THRESHOLD


def write_masks(model: str, images: str, target: str) -> None:
    """Write the masks that a reference model finds: one for each of the images."""
    session = InferenceSession(model, providers=["CPUExecutionProvider"])
    np.savez_compressed(target, masks=np.stack(list(text_pixels(session, load_samples(images, load(model))))))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python examples/text_pixel_iou.py float.onnx images.npz masks.npz")
    write_masks(*sys.argv[1:])
