"""Kill a process that saves again and again, at random moments, and see what its target holds.

    python -m benchmarks.robustness.kill_save --count 200 --out benchmarks/results/kill-save.md

Half of the kills are on a model with external data. After each, the target must be the one model or the other, whole.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.tables import table

CHILD = """
import sys
from onnxsparse import load
a, b, target = sys.argv[1:]
models = [load(a), load(b)]
print("ready", flush=True)
while True:
    for model in models:
        model.save(target)
"""


def make(value: float) -> onnx.ModelProto:
    """Four matrices of one value, 16 MB in all."""
    weights = [numpy_helper.from_array(np.full((1024, 1024), value, np.float32), f"w{i}") for i in range(4)]
    names = ["x", "h0", "h1", "h2", "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(4)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1024]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def what_is_there(target: Path) -> str:
    """`first`, `second`, or what is wrong."""
    if not target.exists():
        return "nothing yet"
    try:
        values = {float(v) for t in onnx.load(target).graph.initializer for v in np.unique(numpy_helper.to_array(t))}
    except Exception as error:  # whatever onnx says of a torn file is the finding
        return f"TORN: {error}"
    if len(values) > 1:
        return f"TORN: mixed values {sorted(values)}"
    return "first" if values == {1.0} else "second"


def kill_once(folder: Path, external: bool, rng: random.Random) -> str:
    names = [folder / f"{name}.onnx" for name in ("first", "second")]
    for i, path in enumerate(names, start=1):
        options = {"save_as_external_data": True, "location": f"{path.name}.bin"} if external else {}
        onnx.save(make(i), path, **options)  # type: ignore[arg-type]  # onnx.save's own keywords
    target = folder / "target.onnx"
    child = subprocess.Popen([sys.executable, "-c", CHILD, *map(str, (*names, target))], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(rng.random() * 0.4)
    child.send_signal(signal.SIGKILL)
    child.wait()
    return what_is_there(target)


def run(count: int, seed: int = 0) -> Counter[str]:
    rng = random.Random(seed)
    endings: Counter[str] = Counter()
    for i in range(count):
        with tempfile.TemporaryDirectory() as folder:
            endings[kill_once(Path(folder), external=i % 2 == 1, rng=rng)] += 1
    return endings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    endings = run(options.count)
    lines = ["# Killed while saving", "", f"Made by `benchmarks/robustness/kill_save.py`: {options.count} kills (SIGKILL).", ""]
    lines += table(("the target holds", "count"), endings.most_common())
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")
    sys.exit(any(ending.startswith("TORN") for ending in endings))


if __name__ == "__main__":
    main()
