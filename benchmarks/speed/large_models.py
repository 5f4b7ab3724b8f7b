"""CPU and memory on models of a gigabyte and more, beside plain onnx.load + onnx.save, in one run.

    python -m benchmarks.speed.large_models --out benchmarks/results/large-models.md

Each measurement is a process of its own: user and system seconds, and the peak of resident memory with mapped pages counted
(ru_maxrss), less the interpreter's own. The 4 GB model, with external data, goes through prune, annotate and inspect.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.tables import heading, table_row

SIDE = 4096
"""Rows and columns of a weight: 64 MB of float32."""

PLAIN = "import onnx, sys; m = onnx.load(sys.argv[1]); onnx.save(m, sys.argv[2], **eval(sys.argv[3]))"
EXTERNAL = "{'save_as_external_data': True, 'location': 'out.bin'}"
COMMAND = "from onnxsparse.cli.app import run; run()"


@dataclass(frozen=True)
class Cost:
    seconds: float
    peak_mb: float


def build(path: Path, layers: int, *, external: bool) -> None:
    """A chain of matrix products, in a process of its own: the memory of a parent counts in its children's peak."""
    builder = multiprocessing.get_context("spawn").Process(target=write_model, args=(path, layers, external))
    builder.start()
    builder.join()


def write_model(path: Path, layers: int, external: bool) -> None:
    rng = np.random.default_rng(0)
    names = ["x", *(f"h{i}" for i in range(layers - 1)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], name=f"layer{i}") for i in range(layers)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, SIDE]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    with path.with_suffix(".bin").open("wb") as data:
        for i in range(layers):
            values = rng.standard_normal((SIDE, SIDE), dtype=np.float32)
            tensor = graph.initializer.add(name=f"w{i}", dims=values.shape, data_type=TensorProto.FLOAT)
            tensor.data_location = TensorProto.EXTERNAL
            entries = {"location": path.with_suffix(".bin").name, "offset": str(data.tell()), "length": str(values.nbytes)}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)
            data.write(values.data)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    if not external:
        onnx.save(onnx.load(path), path)
        path.with_suffix(".bin").unlink()


def measure(*arguments: object) -> Cost:
    """A Python process's CPU seconds and peak memory."""
    code = f"import sys; sys.argv[0] = '-'; exec({arguments[0]!r})"
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments[1:])], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{arguments} ended with {status}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def compare_with_plain(folder: Path, *, external: bool) -> list[str]:
    source, target = folder / "in.onnx", folder / "out.onnx"
    build(source, 16, external=external)
    interpreter = measure("pass").peak_mb
    rows = []
    kind = "1 GB external" if external else "1 GB inline"
    plain = measure(PLAIN, source, target, EXTERNAL if external else "{}")
    rows.append(table_row((kind, "onnx.load + onnx.save", f"{plain.seconds:.1f}", "1.00", f"{plain.peak_mb - interpreter:.0f}")))
    for name, options in (("prune", ["--sparsity-op", "0.7", "--no-compare"]), ("annotate", [])):
        clear(folder)
        cost = measure(COMMAND, name, source, target, *options)
        ratio, peak_mb = cost.seconds / plain.seconds, cost.peak_mb - interpreter
        rows.append(table_row((kind, name, f"{cost.seconds:.1f}", f"{ratio:.2f}", f"{peak_mb:.0f}")))
    clear(folder)
    return rows


def clear(folder: Path) -> None:
    for path in folder.glob("out*"):
        path.unlink()


def four_gigabytes(folder: Path) -> list[str]:
    source, pruned, done = (folder / n for n in ("in.onnx", "pruned.onnx", "out.onnx"))
    build(source, 64, external=True)
    interpreter = measure("pass").peak_mb
    rows = []
    for name, arguments in (
        ("prune", [source, pruned, "--sparsity-op", "0.7", "--no-compare"]),
        ("annotate", [pruned, done]),
        ("inspect", [done]),
    ):
        cost = measure(COMMAND, name, *arguments)
        rows.append(table_row(("4 GB external", name, f"{cost.seconds:.1f}", None, f"{cost.peak_mb - interpreter:.0f}")))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    lines = [
        "# Large models",
        "",
        f"Made by `benchmarks/speed/large_models.py` with onnx {onnx.__version__}. Peak: ru_maxrss, mapped pages counted, less a",
        "bare interpreter's. CPU: user and system seconds of the whole process, imports included; ratio: to plain load and save.",
        "",
        *heading(("model", "what", "CPU s", "ratio", "peak MB")),
    ]
    for step in (lambda f: compare_with_plain(f, external=False), lambda f: compare_with_plain(f, external=True), four_gigabytes):
        with tempfile.TemporaryDirectory() as folder:
            lines += step(Path(folder))
        print("\n".join(lines[-3:]), flush=True)
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
