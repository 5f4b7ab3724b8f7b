"""Compare the MACs of every graph of a folder with those of what onnxruntime's own optimiser makes of it.

    python -m benchmarks.zoo.optimised ZOO --out benchmarks/results/zoo-optimised.md

The levels are basic and extended. benchmarks/zoo/runner.py says what ZOO holds. MACs that are gone are a
fault, unless they stay where one of the two optimisers that take nodes out is left out: folding of constants, and merging of
equal nodes. Every shape that is inferred is held against the one at run time.
"""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.tables import table
from benchmarks.zoo.runner import Entry, arguments, entries, examined
from onnxsparse import Model, OnnxSparseError, layers
from onnxsparse.analysis.layer import Layers
from onnxsparse.analysis.layers import Survey
from onnxsparse.runtime.inputs import seeded_samples

LEVELS = {"basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC, "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED}

TAKE_OUT = {"CommonSubexpressionElimination": "equal to others", "ConstantFolding": "computed from constants"}
"""onnxruntime's optimisers that take nodes out → what such nodes are."""

FUSED_DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class Row:
    """One model at one level. `fused`: onnxruntime's own ops in it; `shapes`, `unknown`: values whose shape is inferred as at run
    time, and those whose shape is not known; `gone`: layers that were taken out, and why.
    """

    model: str
    level: str
    fused: str = ""
    before: int | None = None
    after: int | None = None
    shapes: int = 0
    unknown: int = 0
    gone: str = ""
    faults: tuple[str, ...] = ()


def options_for(level: ort.GraphOptimizationLevel) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    return options


def optimise(source: Path, level: str, target: Path, without: Sequence[str] = ()) -> None:
    """Write what onnxruntime makes of a model at a level."""
    options = options_for(LEVELS[level])
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(without))


def run(job: tuple[Entry, str]) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        return run_in(Path(folder), *job)


def run_in(folder: Path, entry: Entry, level: str) -> Row:
    source, target = entry.path, folder / "optimised.onnx"
    optimise(source, level, target)
    model = replace(entry, path=target).load()
    fused = Counter(node.op_type for node in model.proto.graph.node if node.domain == FUSED_DOMAIN)
    shown = ", ".join(f"{count} × {op}" for op, count in sorted(fused.items()))
    try:
        before, after = layers(entry.load(), count=False), layers(model, count=False)
        same, unknown, faults = check_shapes(model)
    except OnnxSparseError as error:
        return Row(source.name, level, shown, faults=(str(error),))
    known = {layer.node for layer in before.without_macs}
    faults += [f"{layer.node} has no MACs" for layer in after.without_macs if layer.node not in known]
    faults += [f"{op} is unknown" for op in after.unknown_ops if op not in before.unknown_ops]
    gone = ""
    if before.totals.macs != after.totals.macs:
        gone = explain(entry, level, folder, before, after)
        faults += [] if gone else ["MACs differ, and no node was taken out"]
    return Row(source.name, level, shown, before.totals.macs, after.totals.macs, same, unknown, gone, tuple(faults))


def explain(entry: Entry, level: str, folder: Path, before: Layers, after: Layers) -> str:
    """The layers that are gone where leaving one optimiser out keeps their MACs; empty where none does."""
    for optimiser, what in TAKE_OUT.items():
        target = folder / f"{optimiser}.onnx"
        optimise(entry.path, level, target, [optimiser])
        if layers(replace(entry, path=target).load(), count=False).totals.macs == before.totals.macs:
            left = {layer.node for layer in after}
            names = [layer.node for layer in before if layer.node not in left]
            return f"{len(before) - len(after)} {what}, of {', '.join(names)}"
    return ""


def check_shapes(model: Model) -> tuple[int, int, list[str]]:
    """How many values' shapes are inferred as they are at run time, how many are not known, and those that are wrong."""
    shapes = Survey(model).shapes
    proto = onnx.load_from_string(model.to_bytes())
    known = {value.name for value in proto.graph.output}
    names = [name for node in proto.graph.node for name in node.output if name and name not in known]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options_for(level), providers=["CPUExecutionProvider"])
    outputs = [value.name for value in session.get_outputs()]
    feeds = seeded_samples(model, 1).feeds[0]
    made = {n: v.shape for n, v in zip(outputs, session.run(None, feeds), strict=True) if isinstance(v, np.ndarray)}
    found = {name: shapes.get("", name) for name in made}
    open_ = [name for name, shape in found.items() if shape is None or None in shape]
    wrong = [name for name in made if name not in open_ and found[name] != made[name]]
    faults = [f"{name} is {made[name]}, inferred as {found[name]}" for name in wrong]
    return len(made) - len(open_) - len(wrong), len(open_), faults


def main() -> None:
    options = arguments(__doc__)
    jobs = [(entry, level) for entry in entries(options.zoo, options.only) for level in LEVELS]
    rows = examined(run, jobs, options.jobs)
    options.out.write_text(render(rows))


COLUMNS = ("model", "level", "fused ops", "MACs before", "after", "taken out", "shapes not known", "faults")


def cells(row: Row) -> tuple[object, ...]:
    return row.model, row.level, row.fused, row.before, row.after, row.gone, row.unknown or None, "; ".join(row.faults)


def render(rows: list[Row]) -> str:
    same = sum(row.before == row.after and not row.faults for row in rows)
    explained = sum(bool(row.gone) and not row.faults for row in rows)
    faulty = sum(bool(row.faults) for row in rows)
    lines = [
        "# MACs of what onnxruntime's optimiser writes",
        "",
        f"Made by `benchmarks/zoo/optimised.py`. {len(rows) // len(LEVELS)} graphs, each as onnxruntime writes it at the levels",
        f"{' and '.join(LEVELS)}. {same} of {len(rows)} have the MACs from before, {explained} those less what was taken out,",
        f"which is listed, and {faulty} a fault. The shapes of",
        f"{sum(row.shapes for row in rows)} values are inferred as they are at run time;",
        f"those of {sum(row.unknown for row in rows)} are not known: they depend on values.",
        "",
        *table(COLUMNS, map(cells, rows)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
