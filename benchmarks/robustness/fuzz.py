"""Feed damaged models to load → inspect → prune → annotate → write, and count what happens.

    python -m benchmarks.robustness.fuzz --count 100000 --out benchmarks/results/fuzz.md

Each of five small models is mutated at random: bytes flipped, cut out, doubled, inserted, and protobuf lengths and numbers set to
extremes. A mutation passes if the chain ends within ten seconds with a result or with one clear error of ours; anything else
(another exception, a crash, a hang, a partial file) is listed with its seed.
"""

import argparse
import faulthandler
import json
import multiprocessing
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.tables import table
from onnxsparse import Annotate, OnnxSparseError, Pipeline, Prune, layers, load

SECONDS = 10
BATCH = 500
EXTREMES = [b"\x00", b"\x7f", b"\xff", b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x80" * 12]


def tensor(name: str, *shape: int) -> TensorProto:
    values = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def value(name: str, *shape: int | str, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def made(nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], weights: list[TensorProto]) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, [value("y")], weights)
    graph.output[0].type.tensor_type.ClearField("shape")
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def convolutions() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"], pads=[1] * 4, name="stem"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["y"], name="head", group=2),
    ]
    return made(nodes, [value("x", "N", 3, 8, 8)], [tensor("a", 16, 3, 3, 3), tensor("b", 4, 8, 3, 3)])


def branches() -> onnx.ModelProto:
    then = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["t"])], "t", [], [value("t", 4, 16)], [tensor("w", 16, 16)])
    other = helper.make_graph([helper.make_node("Relu", ["x"], ["e"])], "e", [], [value("e", 4, 16)])
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    return made([node], [value("x", 4, 16), value("c", dtype=TensorProto.BOOL)], [])


def shapes() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["y"], transB=1),
    ]
    small = [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in (("zero", [0]), ("rest", [-1]))]
    return made(nodes, [value("x", "N", 4, 9)], [*small, tensor("w", 10, 36)])


def quantized() -> onnx.ModelProto:
    integers = np.random.default_rng(0).integers(-100, 100, (32, 24)).astype(np.int8)
    weights = [numpy_helper.from_array(integers, "q"), numpy_helper.from_array(np.full(24, 0.1, np.float32), "s")]
    weights.append(numpy_helper.from_array(np.zeros(24, np.int8), "z"))
    nodes = [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1), helper.make_node("MatMul", ["x", "w"], ["y"])]
    return made(nodes, [value("x", 2, 32)], weights)


def functions() -> onnx.ModelProto:
    body = [helper.make_node("LSTM", ["a", "w", "r"], ["o"], hidden_size=8, name="rnn")]
    function = helper.make_function("local", "Layer", ["a", "w", "r"], ["o"], body, [helper.make_opsetid("", 17)])
    built = made(
        [helper.make_node("Layer", ["x", "w", "r"], ["y"], domain="local", name="call")],
        [value("x", 5, 1, 8)],
        [tensor("w", 1, 32, 8), tensor("r", 1, 32, 8)],
    )
    built.functions.append(function)
    built.opset_import.append(helper.make_opsetid("local", 1))
    return built


MODELS: list[Callable[[], onnx.ModelProto]] = [convolutions, branches, shapes, quantized, functions]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four random changes; half of them in the structure, which is at the front and back of these files."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(found)) if rng.random() < 0.5 else rng.choice([rng.randrange(min(400, len(found))), -1])
        at %= len(found)
        kind = rng.randrange(6)
        if kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at] = rng.randrange(256)
        elif kind == 2:
            del found[at : at + rng.randint(1, 40)]
        elif kind == 3:
            found[at:at] = found[at : at + rng.randint(1, 40)]
        elif kind == 4:
            found[at : at + 1] = rng.choice(EXTREMES)
        else:
            end = rng.randrange(len(found))
            found[min(at, end) : max(at, end)] = b"" if rng.random() < 0.2 else found[min(at, end) : max(at, end)]
        if not found:
            return b""
    return bytes(found)


class Hang(BaseException):
    """Raised by the alarm. No Exception, and no OSError as TimeoutError is, so that the code under test does not catch it."""


def attempt(path: Path, target: Path) -> str:
    """How the chain ended on one file."""
    try:
        model = load(path)
        layers(model)
        Pipeline([Prune(sparsity=0.3), Annotate()]).run(model)
        model.save(target)
    except OnnxSparseError as error:
        return type(error).__name__
    except Hang:
        return "HANG"
    except Exception as error:  # finding these is what this is for
        return f"BUG {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return "result"


def alarm(*_: object) -> None:
    raise Hang


def run_batch(first: int, results: Path) -> None:
    """Seeds [first, first + BATCH), one line each, written as it goes so that a crash tells its seed."""
    faulthandler.enable()
    signal.signal(signal.SIGALRM, alarm)
    originals = [build().SerializeToString() for build in MODELS]
    with tempfile.TemporaryDirectory() as folder, results.open("a") as log:
        path, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        for seed in range(first, first + BATCH):
            path.write_bytes(mutate(originals[seed % len(originals)], random.Random(seed)))
            log.write(f"{seed} ")
            log.flush()
            signal.alarm(SECONDS)
            ending = attempt(path, target)
            signal.alarm(0)
            left = {p.name for p in Path(folder).iterdir()} - {"in.onnx", "out.onnx"}
            log.write(json.dumps(f"PARTIAL {left}" if left else ending) + "\n")
            target.unlink(missing_ok=True)


def collect(results: Path) -> tuple[Counter[str], list[str]]:
    endings: Counter[str] = Counter()
    bad: list[str] = []
    for line in results.read_text().splitlines():
        seed, _, ending = line.partition(" ")
        text = json.loads(ending) if ending else "CRASH"
        endings[text.split(":")[0]] += 1
        if text.split()[0] in ("BUG", "HANG", "PARTIAL", "CRASH"):
            bad.append(f"seed {seed}: {text}")
    return endings, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        results.touch()
        running: list[multiprocessing.Process] = []
        for first in range(options.first, options.first + options.count, BATCH):
            while len([p for p in running if p.is_alive()]) >= (multiprocessing.cpu_count()):
                time.sleep(0.02)
            running = [p for p in running if p.is_alive()]
            running.append(multiprocessing.Process(target=run_batch, args=(first, Path(folder) / f"results-{first}")))
            running[-1].start()
        for process in running:
            process.join()
        lines = "".join(
            p.read_text() + ("" if p.read_text().endswith("\n") else "\n") for p in sorted(Path(folder).glob("results-*"))
        )
        results.write_text(lines)
        endings, bad = collect(results)
    text = [
        "# Damaged models",
        "",
        f"Made by `benchmarks/robustness/fuzz.py`: {endings.total()} mutations of {len(MODELS)} models "
        f"in {time.time() - start:.0f} s.",
        "A result is a model that was damaged where it does not matter, pruned and written.",
        "",
        *table(("ending", "count"), endings.most_common()),
        "",
        f"Tracebacks, crashes, hangs and partial files: {len(bad)}.",
        *(f"- {line}" for line in bad[:40]),
    ]
    print("\n".join(text))
    if options.out:
        options.out.write_text("\n".join(text) + "\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
