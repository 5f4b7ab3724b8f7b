"""What rounds and matched standard deviations add to the repair: divergence of the outputs, and top-1 where there are labels.

    python -m benchmarks.accuracy.repair_variants FOLDER... --target 0.7 --out benchmarks/results/repair-variants.md

Each FOLDER holds model.onnx, calib.npz to learn from and test.npz to judge on, one array for each input, as
benchmarks/peers/repair_models.py makes them; and labels.npy for a classifier. All variants of one seed share the measured
sensitivities.

- one pass: what `prune --data` does.
- N rounds: N passes to rising targets; each takes masks and weights of the last one as its start, the dense model as its goal.
- deviations: after one pass, each output row is scaled to the standard deviation that it has in the dense model.
- two sweeps: a second pass with the masks of the first, which fits each layer again behind layers that are all pruned.
"""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.accuracy.output_error import judged, opened
from benchmarks.accuracy.scores import top1
from benchmarks.tables import table
from onnxsparse import Model, layers
from onnxsparse.calibration.data import open_data
from onnxsparse.calibration.positions import Inputs, gather
from onnxsparse.pruning.candidates import select_candidates
from onnxsparse.pruning.target import Target
from onnxsparse.recovery.alps import Equations, Keep, Moments, choose
from onnxsparse.recovery.fit import Fit, add_bias
from onnxsparse.recovery.patterns import Largest
from onnxsparse.recovery.recover import Recovery, Rules
from onnxsparse.recovery.repair import Repair, Walks
from onnxsparse.recovery.units import Unit, find_units
from onnxsparse.runtime.compare import compare

SEEDS = (0, 1)
SHARES = {2: (0.6, 1.0), 4: (0.4, 0.65, 0.85, 1.0)}
"""Number of rounds → the target of each as a share of the last."""


@dataclass
class Variant(Repair):
    """A pass that starts at `start`: its zeros stay. `scaled`: whether standard deviations are matched."""

    start: Model = field(kw_only=True)
    scaled: bool = False

    def _fit(self, unit: Unit, keep: Keep | None, learned: Walks, judged: Walks | None) -> None:
        site = unit.sites[0]
        wanted, given = (Inputs.of(gather(w, site, self.seed), centre=unit.shifts) for w in (learned.dense, learned.pruned))
        goal = Fit(unit.matrix(self.dense), wanted, given)
        begun = unit.matrix(self.start)
        mask = begun != 0
        equations = Equations.of(goal.h, goal.ridge)
        if keep is not None:
            best = equations.refit(begun, mask, goal.products)
            mask = choose(best, Moments.of(goal.h), keep, best @ goal.h)
        fitted = equations.refit(begun, mask, goal.products)
        if self.scaled:
            dense = ((goal.dense @ wanted.moments()) * goal.dense).sum(2, keepdims=True)
            own = ((fitted @ goal.h) * fitted).sum(2, keepdims=True)
            fitted = fitted * np.sqrt(np.divide(dense, own, out=np.ones_like(own), where=own > 0))
        unit.store(self.model, fitted)
        if unit.shifts:
            add_bias(self.model, unit, goal.shift(fitted).reshape(-1))


def keepers(recovery: Recovery, start: Model, target: float) -> dict[str, Keep]:
    """What each unit may keep of `start` at a target, by the densities of `recovery`."""
    counts = recovery.kept(recovery.prices(Target("sparsity_op", target)))
    found: dict[str, Keep] = {}
    for unit, count in zip(recovery.units, counts, strict=True):
        allowed = unit.matrix(start) != 0
        if count < int(np.count_nonzero(allowed)):
            found[unit.candidate.name] = Largest(count, allowed)
    return found


def passes(recovery: Recovery, targets: tuple[float, ...], *, scaled: bool = False) -> Model:
    """The model after one pass for each target."""
    start = recovery.dense
    for target in targets:
        model = start.copy()
        one = Variant(
            model, recovery.dense, keepers(recovery, start, target), None, 2 * 10**9, recovery.seed, start=start, scaled=scaled
        )
        units = recovery.units
        if start is not recovery.dense:  # biases that were added are there now
            fresh = Recovery(start, recovery.totals, Rules(), recovery.learned, None, 0, recovery.seed, None)
            units = [
                replace(unit, bias=other.bias, takes_bias=other.takes_bias)
                for unit, other in zip(units, found_again(fresh, recovery), strict=True)
            ]
        # a pass without keepers changes nothing until a layer changes, so that the first unit is always fitted
        one.keepers = dict(one.keepers) or {
            units[0].candidate.name: Largest(units[0].candidate.elements, units[0].matrix(start) != 0)
        }
        one.run(units, recovery.learned)
        start = model
    return start


def found_again(fresh: Recovery, recovery: Recovery) -> list[Unit]:
    """The units of `recovery` in the model of `fresh`."""
    candidates, _ = select_candidates(fresh.dense, layers(fresh.dense), (), (), "prune", by_operations=True)
    found = {unit.candidate.name: unit for unit in find_units(fresh.dense, candidates)[0]}
    return [found[unit.candidate.name] for unit in recovery.units]


def variants(folder: Path, target: float, seed: int) -> dict[str, Model]:
    """Name of the variant → the pruned model."""
    dense = opened(folder)
    facts = layers(dense)
    candidates, _ = select_candidates(dense, facts, (), (), "prune", by_operations=True)
    learned = open_data(folder / "calib.npz", dense)
    recovery = Recovery(dense, facts.totals, Rules(), learned, None, 2 * 10**9, seed)
    recovery.prepare(candidates, "left dense")
    found = {"one pass": passes(recovery, (target,))}
    for rounds, shares in SHARES.items():
        found[f"{rounds} rounds"] = passes(recovery, tuple(target * share for share in shares))
    found["two sweeps"] = passes(recovery, (target, target))
    found["deviations"] = passes(recovery, (target,), scaled=True)
    return found


def measured(folder: Path, dense: Model, model: Model) -> list[str]:
    """Level of the outputs in dB, its worst slice, and top-1 in per cent."""
    result = compare(dense, model, judged(folder))
    cells = [f"{result.outputs[0].sqnr_db:.2f}", f"{result.worst_sqnr_db:.2f}"]
    labels = folder / "labels.npy"
    if not labels.exists():
        return [*cells, "-"]
    with np.load(folder / "test.npz") as test:
        (x,) = (test[name] for name in test.files)
    return [*cells, f"{100 * top1(model.to_bytes(), x, np.load(labels)):.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--target", type=float, default=0.7)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for folder in options.folders:
        dense = opened(folder)
        for seed in SEEDS:
            with threadpool_limits(limits=1, user_api="blas"):
                found = variants(folder, options.target, seed)
            for name, model in found.items():
                rows.append((folder.name, str(seed), name, *measured(folder, dense, model)))
                print(rows[-1], flush=True)
    lines = [
        "# What rounds, sweeps and matched deviations add to the repair",
        "",
        f"Made by `benchmarks/accuracy/repair_variants.py`, whose head says what they are, at sparsity_op {options.target:g}.",
        "",
        *table(("network", "seed", "variant", "first output, dB", "worst slice, dB", "top-1 %"), rows),
    ]
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
