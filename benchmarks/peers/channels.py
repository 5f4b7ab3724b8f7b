"""How the peers remove whole channels at ratio 0.5: onnxsim on every graph of a folder, Torch-Pruning on every architecture.

    python -m venv PEERS && PEERS/bin/pip install onnxsim==0.8.1 onnxruntime
    python -m benchmarks.peers.channels onnxsim --zoo ZOO --python PEERS/bin/python --out onnxsim.json
    python -m benchmarks.peers.channels torch --script build_zoo.py --python ZOO_VENV/bin/python --out torch.json
    python -m benchmarks.peers.channels ours --zoo ZOO --out ours.json
    python -m benchmarks.peers.channels table ours.json onnxsim.json torch.json

ZOO holds .onnx files and a manifest.json with, per file, `file` and `run_shapes` (input → shape that runs). build_zoo.py holds
`registry()` and `build(name)`, and ZOO_VENV what they import and torch-pruning. Every model has a process of its own, one at a
time, on one thread; the script calls itself with the peer's interpreter, so it imports onnxsparse and the peers only where used.
"""

import argparse
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

RATIO = 0.5
ONNXSIM_LIMIT_S = 120
TORCH_LIMIT_S = 180

Shapes = Mapping[str, list[int]]


@dataclass(frozen=True)
class Row:
    """What became of one model. `fault` is empty if it worked and runs; `macs_kept` is of the original's."""

    model: str
    worked: bool = False
    changed: bool = False
    runs: bool = False
    macs_kept: float | None = None
    seconds: float | None = None
    fault: str = ""


def ask(python: Path, limit_s: float, *arguments: str) -> dict[str, Any]:
    """This script in another interpreter, one thread, at most `limit_s`: fields of a Row, from its last line."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [str(python), __file__, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"fault": "time limit"}
    if done.returncode < 0:
        return {"fault": f"killed by signal {-done.returncode}"}
    if done.returncode:
        return {"fault": short((done.stderr.strip() or "no message").splitlines()[-1])}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def short(error: object) -> str:
    """One line that says what an exception was."""
    name = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : (Non-zero status code returned while running )?", "", str(error))
    return (name + " ".join(text.split()))[:200]


# onnxsim


def onnxsim_rows(zoo: Path, python: Path) -> Iterator[Row]:
    """onnxsim on every graph of the folder."""
    shapes = {entry["file"]: entry["run_shapes"] for entry in json.loads((zoo / "manifest.json").read_text())}
    for source in sorted(zoo.rglob("*.onnx")):
        yield onnxsim_row(source, str(source.relative_to(zoo)), shapes[str(source.relative_to(zoo))], python)


def onnxsim_row(source: Path, name: str, shapes: Shapes, python: Path) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "pruned.onnx"
        row = ask(python, ONNXSIM_LIMIT_S, "_prune-onnx", str(source), str(target))
        if "fault" not in row:
            row |= ask(Path(sys.executable), ONNXSIM_LIMIT_S, "_judge-onnx", str(source), str(target), json.dumps(shapes))
    return Row(name, **row)


def prune_onnx(source: str, target: str) -> dict[str, object]:
    """In the peer's interpreter: simplify, prune, write. `changed` is against the simplified graph."""
    import onnxsim  # type: ignore[import-not-found]  # in the peer's interpreter only

    start = time.perf_counter()
    simplified, _ = onnxsim.simplify(onnx.load(source))
    pruned = onnxsim.apply_structured_pruning(simplified, sparsity=RATIO)
    onnx.save(pruned, target)
    seconds = time.perf_counter() - start
    changed = list(stored_shapes(simplified.graph)) != list(stored_shapes(pruned.graph))
    return {"worked": True, "changed": changed, "seconds": seconds}


def our_rows(zoo: Path, cut_norms: bool) -> Iterator[Row]:
    """onnxsparse on every graph of the folder, as the others: no rounding, and the proof left to benchmarks/zoo/channels.py."""
    for entry in sorted(json.loads((zoo / "manifest.json").read_text()), key=lambda entry: str(entry["file"])):
        shapes = json.dumps(entry["run_shapes"])
        with tempfile.TemporaryDirectory() as folder:
            source, target = str(zoo / entry["file"]), str(Path(folder) / "pruned.onnx")
            row = ask(Path(sys.executable), ONNXSIM_LIMIT_S, "_prune-ours", source, target, shapes, str(int(cut_norms)))
            if "fault" not in row:
                row |= ask(Path(sys.executable), ONNXSIM_LIMIT_S, "_judge-onnx", source, target, shapes)
        yield Row(entry["file"], **row)


def prune_ours(source: str, target: str, given: str, cut_norms: str) -> dict[str, object]:
    """In the project's interpreter: load, cut, write."""
    from onnxsparse import Pipeline, load
    from onnxsparse.passes.prune_channels import PruneChannels

    start = time.perf_counter()
    model = load(source).bind([f"{n}={'x'.join(map(str, s))}" for n, s in json.loads(given).items() if s])
    step = PruneChannels(ratio=RATIO, round_to=1, cut_norms=bool(int(cut_norms)), verify=False)
    report = Pipeline([step]).run(model)
    model.save(target)
    return {"worked": True, "changed": report.steps[0].rewrote, "seconds": time.perf_counter() - start}


def stored_shapes(graph: onnx.GraphProto) -> Iterator[tuple[int, ...]]:
    """Of the initializers and the Constant nodes of a graph and of the graphs inside its nodes."""
    yield from (tuple(tensor.dims) for tensor in graph.initializer)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.HasField("t"):
            yield tuple(attribute.t.dims)
        for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
            yield from stored_shapes(inner)


def judge_onnx(source: str, target: str, given: str) -> dict[str, object]:
    """In the project's interpreter: whether the pruned graph gives outputs of the same shapes, and the MACs it keeps."""
    shapes = json.loads(given)
    expected = output_shapes(source, shapes)
    try:
        found = output_shapes(target, shapes)
    except Exception as error:  # whatever onnxruntime raises is the finding
        return {"runs": False, "fault": f"onnxruntime: {short(error)}"}
    if found != expected:
        return {"runs": False, "fault": f"output shapes {found} instead of {expected}"}
    before, after = macs(source, shapes), macs(target, shapes)
    return {"runs": True, "macs_kept": after / before if before and after is not None else None}


def output_shapes(path: str, shapes: Shapes) -> list[list[int]]:
    """Of one run on seeded inputs: normal floats, whole numbers below 20, and 16000 for the scalar, a sampling rate."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rng, feed = np.random.default_rng(0), {}
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8}
    for value in session.get_inputs():
        kind, shape = kinds[value.type], shapes[value.name]
        whole = rng.integers(0, 20, shape) if shape else np.array(16000)
        feed[value.name] = (rng.standard_normal(shape) if kind is np.float32 else whole).astype(kind)
    return [list(np.shape(output)) for output in session.run(None, feed)]


def macs(path: str, shapes: Shapes) -> int | None:
    from onnxsparse import layers, load

    model = load(path)
    inputs = {value.name for value in model.proto.graph.input}
    sizes = [f"{name}={'x'.join(map(str, shape))}" for name, shape in shapes.items() if shape and name in inputs]
    return layers(model.bind(sizes)).totals.macs


# Torch-Pruning


def torch_rows(script: Path, python: Path) -> Iterator[Row]:
    """Torch-Pruning on every architecture of the zoo's build script, with nothing said of a single one."""
    names = ask(python, TORCH_LIMIT_S, "_names-torch", str(script))
    if "fault" in names:
        raise SystemExit(f"peers/channels: {python} cannot list the architectures of {script}: {names['fault']}")
    for name in names["names"]:
        yield Row(name, **ask(python, TORCH_LIMIT_S, "_prune-torch", str(script), name))


def zoo_script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_zoo", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.stub_torchvision()
    return module


def prune_torch(script: str, name: str) -> dict[str, object]:
    """In the peer's interpreter: build the architecture, prune it, run it. Seconds are of the pruner alone."""
    import torch
    import torch_pruning as tp  # type: ignore[import-not-found]  # in the peer's interpreter only

    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    model, inputs = zoo_script(script).build(name)
    expected, ignored = tensor_shapes(model(*inputs)), output_layers(model, inputs)
    before, widths = tp.utils.count_ops_and_params(model, inputs)[0], [p.shape for p in model.parameters()]
    row: dict[str, object] = {"worked": False}
    importance, start = tp.importance.GroupMagnitudeImportance(p=2), time.perf_counter()
    try:
        tp.pruner.MetaPruner(model, inputs, importance, pruning_ratio=RATIO, ignored_layers=ignored, round_to=None).step()
        row |= {"worked": True, "changed": widths != [p.shape for p in model.parameters()]}
    except Exception as error:  # whatever the peer raises is the finding
        row |= {"fault": f"prune: {short(error)}"}
    row |= {"seconds": time.perf_counter() - start}
    return row | run_torch(model, inputs, expected, before) if row["worked"] else row


def run_torch(model: Any, inputs: tuple[Any, ...], expected: list[list[int]], before: float) -> dict[str, object]:
    """Whether the pruned module gives outputs of the same shapes, and the MACs it keeps."""
    import torch_pruning as tp

    try:
        found = tensor_shapes(model(*inputs))
    except Exception as error:  # whatever the pruned module raises is the finding
        return {"fault": f"forward: {short(error)}"}
    if found != expected:
        return {"fault": f"output shapes {found} instead of {expected}"}
    return {"runs": True, "macs_kept": tp.utils.count_ops_and_params(model, inputs)[0] / before}


def output_layers(model: Any, inputs: tuple[Any, ...]) -> list[Any]:
    """The Linear and convolution layers with no other such layer between them and an output of the model."""
    from torch import nn

    made: dict[Any, Any] = {}

    def note(module: Any, _: object, output: Any) -> None:
        made[output.grad_fn] = module

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    pending = [tensor.grad_fn for tensor in tensors(model(*inputs))]
    for hook in hooks:
        hook.remove()
    found, seen = set(), {None}
    while pending:
        step = pending.pop()
        if step in made:
            found.add(made[step])
        elif step not in seen:
            seen.add(step)
            pending.extend(source for source, _ in step.next_functions)
    return [layer for layer in layers if layer in found]


def tensors(value: Any) -> list[Any]:
    """The tensors of what a module returned, in order."""
    if hasattr(value, "grad_fn"):
        return [value]
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for each in values for tensor in tensors(each)]


def tensor_shapes(value: Any) -> list[list[int]]:
    return [list(tensor.shape) for tensor in tensors(value)]


# What came out


def summary(name: str, rows: list[Row]) -> str:
    kept = [row.macs_kept for row in rows if row.runs and row.changed and row.macs_kept is not None]
    seconds = [row.seconds for row in rows if row.seconds is not None]
    flags = [(True, row.worked, row.changed, row.runs, row.runs and row.changed) for row in rows]
    counts = [sum(column) for column in zip(*flags, strict=True)]
    median = f"{statistics.median(kept):.3f}" if kept else ""
    return f"| {name} | {' | '.join(map(str, counts))} | {median} | {statistics.median(seconds):.2f} | {max(seconds):.2f} |"


def failures(name: str, rows: list[Row]) -> list[str]:
    """A line per reason, numbers and quoted names in it left out."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.fault:
            reason = re.sub(r"\d+", "N", re.sub(r"(?<=[ :(])'[^']*'|/\S+", "…", row.fault))
            reasons.setdefault(reason, []).append(row.model)
    largest = sorted(reasons.items(), key=lambda item: -len(item[1]))
    lines = [f"- {len(models)} × {reason} ({', '.join(models)})" for reason, models in largest]
    return [f"Failures of {name}:", "", *lines, ""] if lines else [f"No failures of {name}.", ""]


PREFACE = f"""# Whole channels, side by side

Made by `benchmarks/peers/channels.py` at ratio {RATIO}: `ours`, `onnxsim` and `torch`, then `table`. onnxsparse and
onnxsim on the same graphs, without rounding; Torch-Pruning, without hints for single architectures, on the modules
that the graphs come from. Seconds are wall time from load to written file (Torch-Pruning: building the pruner and the
step), each model in a process of its own, imports left out; the proof is not in it. MACs kept: the median of those
that run and were changed. "runs" means outputs of the right shapes; what they hold is checked for onnxsparse alone,
in zoo-channels.md.
"""


def table(paths: list[Path]) -> str:
    results = {path.stem: [Row(**row) for row in json.loads(path.read_text())] for path in paths}
    lines = [PREFACE]
    lines += [
        "| peer | tried | worked | changed | runs | runs and changed | MACs kept | median s | max s |",
        "|---|---|---|---|---|---|---|---|---|",
        *(summary(name, rows) for name, rows in results.items()),
        "",
    ]
    for name, rows in results.items():
        lines += failures(name, rows)
    return "\n".join(lines)


def collect(rows: Iterator[Row], out: Path) -> None:
    """Write after every model, so that a run cut short leaves what it had."""
    found: list[Row] = []
    for row in rows:
        found.append(row)
        print(row, flush=True)
        out.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    print(Counter("fault" if row.fault else "ok" for row in found))


def names_torch(script: str) -> dict[str, object]:
    return {"names": list(zoo_script(script).registry())}


CHILDREN: Mapping[str, Callable[..., dict[str, object]]] = {
    "_prune-onnx": prune_onnx,
    "_prune-ours": prune_ours,
    "_judge-onnx": judge_onnx,
    "_names-torch": names_torch,
    "_prune-torch": prune_torch,
}
"""What the script calls itself for, in the interpreter that has the packages."""


def child(command: str, *arguments: str) -> dict[str, object]:
    try:
        return CHILDREN[command](*arguments)
    except Exception as error:  # the parent writes it down
        return {"fault": f"{command.lstrip('_')}: {short(error)}"}


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in CHILDREN:
        print("\n" + json.dumps(child(*sys.argv[1:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    onnxsim, torch, shown = (commands.add_parser(name) for name in ("onnxsim", "torch", "table"))
    ours = commands.add_parser("ours")
    for part in (onnxsim, ours):
        part.add_argument("--zoo", type=Path, required=True)
    ours.add_argument("--cut-norms", action="store_true")
    ours.add_argument("--out", type=Path, required=True)
    torch.add_argument("--script", type=Path, required=True)
    for part in (onnxsim, torch):
        part.add_argument("--python", type=Path, required=True, help="an interpreter that has the peer")
        part.add_argument("--out", type=Path, required=True)
    shown.add_argument("results", type=Path, nargs="+")
    options = parser.parse_args()
    if options.command == "onnxsim":
        collect(onnxsim_rows(options.zoo, options.python), options.out)
    elif options.command == "ours":
        collect(our_rows(options.zoo, options.cut_norms), options.out)
    elif options.command == "torch":
        collect(torch_rows(options.script, options.python), options.out)
    else:
        print(table(options.results))


if __name__ == "__main__":
    main()
