"""One network pruned by onnxsim: what benchmarks/peers/repair.py runs in the interpreter that has onnxsim.

That interpreter runs this as a file, so it imports nothing of this project.
"""

import inspect
import json
import sys
import time

import numpy as np
import onnx

BATCH = 64


def prune(name: str, options: str, source: str, inputs: str, target: str) -> float:
    """Seconds that a pruning function of onnxsim takes. `options`: in JSON. `inputs`: an npy file, for functions that learn."""
    import onnxsim  # type: ignore[import-not-found]  # in the peer's interpreter only

    model, arrays, given = onnx.load(source), np.load(inputs), json.loads(options)
    function = getattr(onnxsim, name)
    if "calibration_data" in inspect.signature(function).parameters:
        fed = model.graph.input[0].name
        given["calibration_data"] = [{fed: arrays[start : start + BATCH]} for start in range(0, len(arrays), BATCH)]
    start = time.perf_counter()
    pruned = function(model, **given)
    seconds = time.perf_counter() - start
    onnx.save(pruned, target)
    return seconds


if __name__ == "__main__":
    print(prune(*sys.argv[1:]))
