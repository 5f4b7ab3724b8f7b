"""How fast the facts, the selection and the help are, each beside something to compare with, in one run.

    pip install onnx-tool
    python -m benchmarks.speed.steps RESNET50.onnx --out benchmarks/results/speed.md

Process CPU seconds, the best of five, after imports (but for --help, which is a process of its own).
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from benchmarks.tables import table
from onnxsparse import Model, layers, load
from onnxsparse.analysis.stored_weights import StoredWeight
from onnxsparse.pruning.items import Elements
from onnxsparse.pruning.scores import SCORES, Scored
from onnxsparse.pruning.select import Ranked, histogram, select

WEIGHTS = 100_000_000
TENSORS = 4


def best(step: Callable[[], object], times: int = 5) -> float:
    found = []
    for _ in range(times):
        start = time.process_time()
        step()
        found.append(time.process_time() - start)
    return min(found)


def profile(path: Path) -> None:
    import onnx_tool

    with contextlib.redirect_stdout(io.StringIO()):
        onnx_tool.model_profile(str(path))


def large_model() -> Model:
    """Four constant tensors of 25 million weights."""
    names = [f"w{i}" for i in range(TENSORS)]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w0"], ["y"])], "g", [], [helper.make_tensor_value_info("y", 1, None)]
    )
    graph.initializer.extend(TensorProto(name=n, dims=[1], data_type=TensorProto.FLOAT, raw_data=bytes(4)) for n in names)
    model = Model.from_proto(helper.make_model(graph))
    rng = np.random.default_rng(0)
    for scale, name in enumerate(names, start=1):
        model.weights[name] = rng.standard_normal(WEIGHTS // TENSORS, dtype=np.float32) * scale
    return model


def choose(model: Model, score: str) -> None:
    """What prune does to find its threshold: histograms, scores, selection."""
    items = [Elements(model.weights, StoredWeight(name, (0,)), WEIGHTS // TENSORS) for name in model.weights]
    histograms = [histogram(i) for i in items]
    ranked = [Ranked(i, c, SCORES[score](Scored(c, 1.0)), 1, i.size) for i, c in zip(items, histograms, strict=True)]
    select(ranked, int(0.7 * WEIGHTS))


def help_seconds() -> float:
    process = subprocess.Popen(
        [sys.executable, "-c", "from onnxsparse.cli.app import run; run()", "--help"], stdout=subprocess.DEVNULL
    )
    usage = os.wait4(process.pid, 0)[2]
    return usage.ru_utime + usage.ru_stime


def cells(name: str, seconds: float, base: float | None) -> tuple[object, ...]:
    return name, f"{seconds:.3f}", None if base is None else f"{seconds / base:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("resnet50", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    profiled = best(lambda: profile(options.resnet50))
    model = load(options.resnet50)
    counted, uncounted = best(lambda: layers(model)), best(lambda: layers(model, count=False))
    rows = [
        ("onnx_tool.model_profile, resnet50", profiled, None),
        ("layers() with zero counts, resnet50", counted, profiled),
        ("layers() without zero counts, resnet50", uncounted, profiled),
    ]
    large = large_model()
    whole = np.concatenate([large.weights[name] for name in large.weights])
    first = best(lambda: whole.copy(), times=1)
    copied = best(lambda: whole.copy())
    rows.append(("copy of 100 M weights, the first: memory that this machine has to find", first, None))
    rows.append(("copy of 100 M weights, the best of five: memory that it has at hand", copied, first))
    rows += [(f"threshold over 100 M weights, {s}", best(lambda s=s: choose(large, s)), first) for s in SCORES]  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    rows.append(("onnxsparse --help, whole process", min(help_seconds() for _ in range(5)), None))
    lines = [
        "# Speed",
        "",
        "Made by `benchmarks/speed/steps.py`; CPU seconds, the best of five.",
        "",
        *table(("what", "CPU s", "ratio"), (cells(*row) for row in rows)),
    ]
    print("\n".join(lines))
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
