"""Cut half of the channels of every graph of a folder, prove it, and write a table of what came out.

    python -m benchmarks.zoo.channels ZOO --out benchmarks/results/zoo-channels.md

ZOO holds .onnx files and a manifest.json with, per file, `file` and `run_shapes` (input → shape that runs). Every graph is cut
twice, by default and with cut_norms; the cut file is checked, run, proven, and, where its inputs leave sizes open, run at two
other sizes.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx

from onnxsparse import Model, layers, load
from onnxsparse.channels.cut import apply_cut
from onnxsparse.channels.groups import Solution, solve
from onnxsparse.channels.importance import weight_importance
from onnxsparse.channels.proof import Proof, prove
from onnxsparse.channels.selection import Choice, choose_channels
from onnxsparse.errors import OnnxSparseError
from onnxsparse.folding import computes_on_constants, fold_all_constants
from onnxsparse.ops.labels import Labels
from onnxsparse.runtime.inputs import seeded_samples
from onnxsparse.runtime.session import runner

PRUNED = 0.75
"""A graph that keeps no more than this share of its MACs counts as pruned."""


@dataclass(frozen=True)
class Row:
    """One graph, cut one way. `faults` is empty if everything held; `kept`: share of the MACs."""

    model: str
    kept: float
    groups: int
    proof: Proof | None
    frozen: float
    reasons: tuple[str, ...]
    other_sizes: str
    discovery_s: float
    whole_s: float
    faults: tuple[str, ...]


def binding(shapes: dict[str, list[int]]) -> list[str]:
    return [f"{name}={'x'.join(map(str, shape))}" for name, shape in shapes.items() if shape]


def cut_half(
    source: Path, target: Path, shapes: list[str], cut_norms: bool
) -> tuple[Model, Model, Solution, Labels, float, float]:
    """The model as it was cut from, the cut one (written to `target`), how, and seconds of CPU: discovery, and all but the
    proof.
    """
    start = time.process_time()
    model = load(source).bind(shapes)
    if computes_on_constants(model):
        fold_all_constants(model)
    original = model.copy()
    begun = time.process_time()
    solution = solve(model, cut_norms=cut_norms)
    discovery_s = time.process_time() - begun
    chosen = choose_channels(solution.groups, weight_importance(model, solution, "l1"), Choice(0.5, round_to=1))
    apply_cut(model, solution, solution.removal(chosen))
    model.save(target)
    return original, model, solution, chosen, discovery_s, time.process_time() - start


def examine(source: Path, shapes: list[str], cut_norms: bool, folder: Path) -> Row:
    target = folder / "cut.onnx"
    original, model, solution, chosen, discovery_s, whole_s = cut_half(source, target, shapes, cut_norms)
    faults = []
    proof = None
    try:
        onnx.checker.check_model(str(target), full_check=True)
        proof = prove(original, solution, chosen, load(target).bind(shapes))
        faults += [] if proof.holds else ["not equal"]
    except (OnnxSparseError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        faults.append(str(error).splitlines()[0])
    before, after = (layers(m, count=False).totals.macs or 0 for m in (original, model))
    made = sum(operand.labels.size for operand in solution.found.operands if operand.role.value == "produces")
    frozen = list(solution.frozen())
    reasons = Counter(f.reason.split(" (")[0] for f in frozen for _ in range(f.channels))
    return Row(
        source.name,
        after / before if before else 1.0,
        len(solution.groups),
        proof,
        sum(f.channels for f in frozen) / max(made, 1),
        tuple(reason for reason, _ in reasons.most_common(2)) or tuple(set(solution.found.stopped.values())),
        at_other_sizes(source, target, shapes),
        discovery_s,
        whole_s,
        tuple(faults),
    )


def at_other_sizes(source: Path, target: Path, shapes: list[str]) -> str:
    """How many of two other sizes of the open dimensions the cut model runs at, of those that the original runs at."""
    free = [value for value in load(source).proto.graph.input if any(d.dim_param for d in value.type.tensor_type.shape.dim)]
    if not free:
        return ""
    return runs_at(source, target, [[scaled(text, source, factor) for text in shapes] for factor in (2, 3)])


def runs_at(source: Path, target: Path, sizes: Iterable[list[str]]) -> str:
    """At how many sizes a model that was made of another runs, of those at which that one does."""
    works = total = 0
    for bound in sizes:
        try:
            feeds = seeded_samples(load(source).bind(bound), 1).feeds[0]
            wanted = runner(load(source)).run(feeds)
        except OnnxSparseError:
            continue
        total += 1
        try:
            found = runner(load(target)).run(feeds)
            works += all(found[name].shape == value.shape for name, value in wanted.items())
        except OnnxSparseError:
            continue
    return f"{works} of {total}"


def scaled(text: str, source: Path, factor: int) -> str:
    """An input's shape with its open dimensions multiplied."""
    name, _, shape = text.partition("=")
    value = next(v for v in load(source).proto.graph.input if v.name == name)
    dims = value.type.tensor_type.shape.dim
    sizes = [int(s) * (factor if d.dim_param else 1) for s, d in zip(shape.split("x"), dims, strict=True)]
    return f"{name}={'x'.join(map(str, sizes))}"


def describe(row: Row) -> str:
    proof = row.proof
    errors = ("", "", "") if proof is None else (f"{proof.output_error:.0e}", node_error(proof), sensitivity(proof))
    cells = (
        row.model,
        str(row.groups),
        f"{row.kept:.3f}",
        "; ".join(row.faults) or "holds",
        *errors,
        row.other_sizes,
        f"{row.frozen:.0%}",
        "; ".join(row.reasons),
        f"{1000 * row.discovery_s:.0f}",
        f"{row.whole_s:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def node_error(proof: Proof) -> str:
    return "" if proof.worst_node is None else f"{proof.worst_node.error:.0e}"


def sensitivity(proof: Proof) -> str:
    return ("yes, rescaled" if proof.rescaled else "yes") if proof.sensitive else "no"


def summary(rows: Sequence[Row]) -> list[str]:
    pruned = [row for row in rows if row.kept <= PRUNED]
    explained = [row for row in rows if row.kept > PRUNED and row.reasons]
    sensitive = sum(row.proof is not None and row.proof.sensitive for row in rows)
    discovery = [1000 * row.discovery_s for row in rows]
    whole = [row.whole_s for row in rows]
    return [
        f"- {len(rows)} graphs: {len(pruned)} keep at most {PRUNED} of their MACs, {len(explained)} others say why not,",
        f"  {sum(bool(row.faults) for row in rows)} have a fault; {sensitive} proofs could have failed",
        f"- MACs kept: median {median(r.kept for r in rows):.3f}, of those that were cut {median(r.kept for r in pruned):.3f}",
        f"- CPU: discovery {median(discovery):.0f} ms in the median, at most {max(discovery):.0f}; from load to written file",
        f"  {median(whole):.2f} s in the median, at most {max(whole):.2f}",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    entries = sorted(json.loads((given.zoo / "manifest.json").read_text()), key=lambda entry: str(entry["file"]))
    entries = [entry for entry in entries if given.only in entry["file"]]
    np.seterr(all="ignore")  # onnx's reference implementation warns of infinities in masks
    lines = ["# Half of the channels, every graph", "", "Made by `benchmarks/zoo/channels.py`: ratio 0.5, --round-to 1.", ""]
    with tempfile.TemporaryDirectory() as folder:
        for title, cut_norms in (("By default", False), ("With --cut-norms", True)):
            rows = []
            for entry in entries:
                rows.append(examine(given.zoo / entry["file"], binding(entry["run_shapes"]), cut_norms, Path(folder)))
                print(describe(rows[-1]), flush=True)
            header = (
                "model, groups, MACs kept, proof, outputs, worst node, sensitive, other sizes, frozen, why, discovery ms, CPU s"
            )
            names = header.split(", ")
            lines += [f"## {title}", "", *summary(rows), f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
            lines += [*map(describe, rows), ""]
    given.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
