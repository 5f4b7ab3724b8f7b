"""Top-1 accuracy in points: the share of samples whose largest logit is at the label. A template for a metric of your own.

onnxsparse compare a.onnx b.onnx --test eval.npz:images --metric examples/top1.py:top1 --labels eval.npz:labels --max-drop 0.5

The same as --metric top1, for a model whose first output has the scores of the classes: N×C, or N×C×1×1.
"""

import numpy as np
from onnxruntime import InferenceSession

from onnxsparse import TestData


def top1(session: InferenceSession, data: TestData) -> float:
    """The accuracy, 0 to 100; higher is better. Raises ValueError for labels that do not match the samples."""
    if data.labels is None:
        raise ValueError("give --labels: one class for each sample")
    chosen = []
    for feeds in data:
        scores = session.run(None, feeds)[0]
        chosen.append(scores.reshape(scores.shape[0], -1).argmax(axis=1))
    found = np.concatenate(chosen)
    if len(found) != len(data.labels):
        raise ValueError(f"{len(data.labels)} labels for {len(found)} results")
    return 100 * float((found == data.labels).mean())
