"""How many ops are wide for an SQNR, against greedy choice with a full measurement of every candidate in every step.

    python -m benchmarks.accuracy.wide_greedy FOLDER... --asked 30 35 --out benchmarks/results/wide-greedy.md

Each FOLDER holds model.onnx and calib.npz, as for `output_error`; 128 samples are calibrated on and 32 others judge both ways. In
each step, greedy writes and runs one model for every tensor that could become wide next, and keeps the best: for models of up to
about 30 ops that is feasible. Target cv22; an op counts once, whether its activation, its weight or both are wide.
onnxsparse takes the cheapest set by latency, greedy the smallest; what the sets add to the latency stands beside their sizes.
Greedy takes the best of many models on the 32 samples, so that both are judged on test.npz as well.
"""

import argparse
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.accuracy.output_error import judged as given
from benchmarks.accuracy.output_error import opened
from benchmarks.tables import table
from onnxsparse import Model, Quantize, compare
from onnxsparse.cost.registry import predicting_backend
from onnxsparse.folding import fold
from onnxsparse.ir.binding import fed_inputs
from onnxsparse.quantization.accuracy.bias_correction import correct_biases, remaining_shifts
from onnxsparse.quantization.accuracy.mixed_precision import Candidate, count_ops, widened
from onnxsparse.quantization.accuracy.output_noise import Tensor
from onnxsparse.quantization.accuracy.wide_cost import WideCost
from onnxsparse.quantization.activation_ranges import Calibration
from onnxsparse.quantization.plan.placement import Placement, place
from onnxsparse.quantization.plan.scales import Choices
from onnxsparse.quantization.plan.target import load_target
from onnxsparse.quantization.write.qdq import write_integers
from onnxsparse.runtime.samples import Samples

LEARNED, JUDGED = 128, 32
BUDGET = 512 << 20
GREEDY = ("ops, greedy", "adds ms", "dB", "test dB", "models run", "s")
COLUMNS = ("network", "asked dB", *GREEDY, "ops, onnxsparse", "adds ms", "dB", "test dB", "s")


@dataclass
class Greedy:
    """Greedy choice over a placement's tensors."""

    plain: Model
    placement: Placement
    learned: Samples
    judged: Samples
    runs: int = 0

    def prepare(self) -> None:
        """Find ranges and bias shifts in 8 bits."""
        found = Calibration(self.learned, "mse", 99.99, BUDGET).run(self.placement)
        self.choices = correct_biases(found.placement, Choices(found.ranges, found.extremes), self.learned, BUDGET)
        floats = replace(self.choices, bias_shifts={}, wide_values=frozenset(self.placement.sources))
        self.weight_shifts = correct_biases(self.placement, floats, self.learned, BUDGET).bias_shifts

    def candidates(self) -> list[Candidate]:
        """Every activation scale and weight, for the op that makes or uses it."""
        nodes, units = self.placement.anatomy.nodes, self.placement.units
        made = {self.placement.scaled[unit.exit]: unit.root for unit in units if unit.exit in self.placement.scaled}
        read = {nodes[unit.root].input[at]: unit.root for unit in reversed(units) for at in unit.activations}
        owners = {root: made.get(root, read.get(root)) for root in self.placement.sources}
        values = [(root, False, owner) for root, owner in owners.items()]
        weights = [(weight.stored.name, True, unit.root) for unit in units for weight in unit.weights]
        return [Candidate((Tensor(*one, np.zeros(1)),), one[2]) for one in (*values, *weights)]

    def level(self, wide: list[Candidate], judged: Samples | None = None) -> float:
        """The SQNR in dB with a set wide, on the samples to judge on or others."""
        self.runs += judged is None
        placement, choices = widened(self.placement, self.choices, wide)
        choices = replace(choices, bias_shifts=remaining_shifts(placement, choices, self.weight_shifts))
        return compare(self.plain, write_integers(placement, choices).model, judged or self.judged).worst_sqnr_db or 0.0

    def added_ms(self, wide: list[Candidate]) -> float:
        """What a set adds to the latency on the CV22."""
        cost = WideCost.of(self.placement, predicting_backend("cv22", "wide_greedy"))
        return cost.latency_ms(wide) - cost.latency_ms(())

    def steps(self) -> Iterator[tuple[list[Candidate], float]]:
        """(what is wide, SQNR in dB) after each step."""
        wide: list[Candidate] = []
        left = self.candidates()
        yield wide, self.level(wide)
        while left:
            levels = [self.level([*wide, each]) for each in left]
            best = int(np.argmax(levels))
            wide.append(left.pop(best))
            yield wide, levels[best]


def samples(folder: Path) -> tuple[Samples, Samples]:
    """Calibration data in two parts."""
    with np.load(folder / "calib.npz") as data:
        arrays = {name: data[name][: LEARNED + JUDGED] for name in data.files}
    feeds = [{name: array[at : at + 1] for name, array in arrays.items()} for at in range(LEARNED + JUDGED)]
    return Samples(feeds[:LEARNED]), Samples(feeds[LEARNED:])


def rows(folder: Path, asked: list[float], work: Path) -> Iterator[tuple[object, ...]]:
    """One row for each SQNR that is asked for."""
    plain = opened(folder)
    (learned, judged), test = samples(folder), given(folder)
    folded = plain.copy()
    fold(folded, may_grow=True)
    greedy = Greedy(plain, place(folded, load_target("cv22"), {}), learned, judged)
    start = time.perf_counter()
    greedy.prepare()
    pending = sorted(asked)
    name = fed_inputs(plain.proto.graph)[0].name
    np.save(work, np.concatenate([feeds[name] for feeds in judged]))
    for wide, level in greedy.steps():
        print(folder.name, count_ops(wide), round(level, 2), flush=True)
        while pending and level >= pending[0]:
            seconds = time.perf_counter() - start
            measured = (f"{level:.1f}", f"{greedy.level(wide, test):.1f}", greedy.runs, f"{seconds:.0f}")
            cells = (folder.name, f"{pending[0]:g}", count_ops(wide), f"{greedy.added_ms(wide):.3g}", *measured)
            yield *cells, *ours(plain, learned, work, test, pending.pop(0))
        if not pending:
            return


def ours(plain: Model, learned: Samples, held_out: Path, test: Samples, asked: float) -> tuple[object, ...]:
    """Wide ops, what they add in ms, SQNR in dB on held-out and test data, and seconds of `--min-sqnr`."""
    model, start = plain.copy(), time.perf_counter()
    report = Quantize(target="cv22", min_sqnr=asked, test=held_out).run(model, list(learned))
    seconds = time.perf_counter() - start
    notes = " ".join(report.notes)
    wide, level = re.search(r"(\d+) of \d+ layers and other ops have", notes), re.search(r"slice has (\S+) dB", notes)
    added = re.search(r"latency grows by (\S+) ms", notes)
    shown = [one[1] if one else none for one, none in ((wide, "0"), (added, "0"), (level, "-"))]
    return *shown, f"{compare(plain, model, test).worst_sqnr_db or 0.0:.1f}", f"{seconds:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--asked", type=float, nargs="+", default=[30.0, 35.0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    work = options.out.with_suffix(".npy")
    found = [cells for folder in options.folders for cells in rows(folder, options.asked, work)]
    work.unlink()
    head = ["# Wide ops for an SQNR, against greedy choice with full measurement", ""]
    lines = [*head, "Made by `benchmarks/accuracy/wide_greedy.py`; target cv22, one machine.", ""]
    options.out.write_text("\n".join([*lines, *table(COLUMNS, found)]) + "\n")


if __name__ == "__main__":
    main()
