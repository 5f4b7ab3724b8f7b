"""Top-1 accuracy of digits classifiers on the held-out digits, in onnxruntime.

python sample_models/accuracy.py MODEL.onnx ...
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime

DATA = Path(__file__).parent / "digits_test.npz"


def accuracy(model: Path, data: Path = DATA) -> float:
    """The share of digits that the model's largest logit names."""
    with np.load(data) as test:
        images, labels = test["x"], test["y"]
    options = onnxruntime.SessionOptions()
    # fused kernels for integers saturate on some processors
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": images})
    return float((np.asarray(logits).argmax(1) == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    for model in parser.parse_args().models:
        print(f"{model.name}: {100 * accuracy(model):.2f} % of the digits right")


if __name__ == "__main__":
    main()
