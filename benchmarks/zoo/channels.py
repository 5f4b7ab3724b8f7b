"""Cut half of the channels of every graph of a folder, prove it, and write a table of what came out.

    python -m benchmarks.zoo.channels ZOO --out benchmarks/results/zoo-channels.md

Every graph is cut twice, by default and with cut_norms; the cut file is checked, run, proven, and, where its inputs leave sizes
open, run at two other sizes.
benchmarks/zoo/runner.py says what ZOO holds.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx

from benchmarks.tables import table
from benchmarks.zoo.runner import CHECKER_ERRORS, Entry, arguments, at_other_sizes, entries, examined
from onnxsparse import Model, layers, load
from onnxsparse.channels.cut import apply_cut
from onnxsparse.channels.groups import Solution, solve
from onnxsparse.channels.importance import weight_importance
from onnxsparse.channels.proof import Proof, prove
from onnxsparse.channels.selection import Choice, choose_channels
from onnxsparse.errors import OnnxSparseError
from onnxsparse.folding import computes_on_constants, fold_all_constants
from onnxsparse.ops.labels import Labels

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


def cut_half(entry: Entry, target: Path, cut_norms: bool) -> tuple[Model, Model, Solution, Labels, float, float]:
    """The model as it was cut from, the cut one (written to `target`), how, and seconds of CPU: discovery, and all but the
    proof.
    """
    start = time.process_time()
    model = entry.load()
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


def examine(job: tuple[Entry, bool]) -> Row:
    np.seterr(all="ignore")  # onnx's reference implementation warns of infinities in masks
    with tempfile.TemporaryDirectory() as folder:
        return examine_in(Path(folder), *job)


def examine_in(folder: Path, entry: Entry, cut_norms: bool) -> Row:
    target = folder / "cut.onnx"
    original, model, solution, chosen, discovery_s, whole_s = cut_half(entry, target, cut_norms)
    faults = []
    proof = None
    try:
        onnx.checker.check_model(str(target), full_check=True)
        proof = prove(original, solution, chosen, load(target).bind(entry.sizes))
        faults += [] if proof.holds else ["not equal"]
    except (OnnxSparseError, *CHECKER_ERRORS) as error:
        faults.append(str(error).splitlines()[0])
    before, after = (layers(m, count=False).totals.macs or 0 for m in (original, model))
    made = sum(operand.labels.size for operand in solution.found.operands if operand.role.value == "produces")
    frozen = list(solution.frozen())
    reasons = Counter(f.reason.split(" (")[0] for f in frozen for _ in range(f.channels))
    return Row(
        entry.path.name,
        after / before if before else 1.0,
        len(solution.groups),
        proof,
        sum(f.channels for f in frozen) / max(made, 1),
        tuple(reason for reason, _ in reasons.most_common(2)) or tuple(set(solution.found.stopped.values())),
        at_other_sizes(entry, target, ((2, 2), (3, 3))),
        discovery_s,
        whole_s,
        tuple(faults),
    )


def cells(row: Row) -> tuple[object, ...]:
    proof = row.proof
    errors = (None, None, None) if proof is None else (f"{proof.output_error:.0e}", node_error(proof), sensitivity(proof))
    return (
        row.model,
        row.groups,
        f"{row.kept:.3f}",
        "; ".join(row.faults) or "holds",
        *errors,
        row.other_sizes,
        f"{row.frozen:.0%}",
        "; ".join(row.reasons),
        f"{1000 * row.discovery_s:.0f}",
        f"{row.whole_s:.2f}",
    )


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


COLUMNS = (
    *("model", "groups", "MACs kept", "proof", "outputs", "worst node", "sensitive", "other sizes", "frozen", "why"),
    *("discovery ms", "CPU s"),
)


def main() -> None:
    given = arguments(__doc__)
    lines = ["# Half of the channels, every graph", "", "Made by `benchmarks/zoo/channels.py`: ratio 0.5, --round-to 1.", ""]
    for title, cut_norms in (("By default", False), ("With --cut-norms", True)):
        jobs = [(entry, cut_norms) for entry in entries(given.zoo, given.only)]
        rows = examined(examine, jobs, given.jobs)
        lines += [f"## {title}", "", *summary(rows), *table(COLUMNS, map(cells, rows)), ""]
    given.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
