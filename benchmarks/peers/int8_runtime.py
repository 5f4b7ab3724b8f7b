"""What onnxruntime makes of a model, for the int8 scripts: outputs, signal to noise, what fused, how long one run takes.

    python -m benchmarks.peers.int8_runtime float.onnx int8.onnx test.npz

prints the fused operations and the latencies of the two; the other int8 scripts import the rest.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime

RUNS = 30

FLOAT = set(
    "Conv ConvTranspose Gemm MatMul Add Mul Sub Div Sigmoid Softmax LeakyRelu GlobalAveragePool AveragePool "
    "FusedConv FusedGemm FusedMatMul".split()
)
"""Operations that compute; a fused one counts once. What only moves data, clips or compares is in neither list."""
INTEGER = {f"QLinear{op}" for op in FLOAT} | {"QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"}


def session(model: Path | bytes, optimized: Path | None = None, plain: bool = False) -> Any:
    """On one thread. `plain` keeps Q and DQ nodes as they are written, `optimized` is where to write what ran."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def samples(path: Path) -> np.ndarray:
    """The only array of an npz, the samples along its first axis."""
    with np.load(path) as arrays:
        (array,) = arrays.values()
    return np.asarray(array)


def outputs(model: Path | bytes, data: np.ndarray, plain: bool = False) -> np.ndarray:
    """The first output of every sample, each run alone."""
    runner = session(model, plain=plain)
    value = runner.get_inputs()[0]
    batches = [sample if sample.ndim == len(value.shape) else sample[None] for sample in data]
    return np.stack([runner.run(None, {value.name: batch})[0] for batch in batches])


def sqnr_db(reference: np.ndarray, found: np.ndarray) -> float:
    """Power of the reference over power of the difference, each summed over all samples."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(np.subtract(reference, found, dtype=np.float64)).sum())
    if not math.isfinite(noise):
        return -math.inf
    return 10 * math.log10(signal / noise) if noise else math.inf


@dataclass(frozen=True)
class Fused:
    """How many of the float model's operations run as integers, and which are left in float."""

    operations: int
    integer: int
    left: dict[str, int]

    def __str__(self) -> str:
        rest = ", ".join(f"{count} {op}" for op, count in sorted(self.left.items()))
        return f"{self.integer} of {self.operations}" + (f" (left: {rest})" if rest else "")


def fused(reference: Path, model: Path) -> Fused:
    """From the graph that onnxruntime writes after all its optimisations, on the machine this runs on."""
    wanted = Counter(node.op_type for node in onnx.load(str(reference), load_external_data=False).graph.node)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        session(model, optimized=path)
        found = Counter(node.op_type for node in onnx.load(str(path)).graph.node)
    left = {op: count for op, count in found.items() if op in FLOAT}
    return Fused(sum(wanted[op] for op in FLOAT), sum(found[op] for op in INTEGER), left)


def latencies_ms(models: Sequence[Path], data: Path) -> list[float]:
    """The median of 30 runs of each on the first sample, taken in turn, in a fresh process on one thread."""
    command = [sys.executable, __file__, "_time", str(data), *map(str, models)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def time_in_turn(data: Path, models: Sequence[str]) -> list[float]:
    runners = [session(Path(model)) for model in models]
    value, sample = runners[0].get_inputs()[0], samples(data)[0]
    feed = {value.name: sample if sample.ndim == len(value.shape) else sample[None]}
    taken: list[list[float]] = [[] for _ in runners]
    for turn in range(-5, RUNS):  # five to warm up
        for runner, times in zip(runners, taken, strict=True):
            start = time.perf_counter()
            runner.run(None, feed)
            if turn >= 0:
                times.append(1000 * (time.perf_counter() - start))
    return [median(times) for times in taken]


def main() -> None:
    if sys.argv[1:2] == ["_time"]:
        print(json.dumps(time_in_turn(Path(sys.argv[2]), sys.argv[3:])))
        return
    reference, model, data = map(Path, sys.argv[1:])
    before, after = latencies_ms([reference, model], data)
    print(f"{fused(reference, model)} operations run as integers; {after:.2f} ms against {before:.2f} ms in float")


if __name__ == "__main__":
    main()
