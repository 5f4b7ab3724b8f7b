"""Global L1 in one shot, in rounds without training and with it, and label-free repair in place of fine-tuning."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.paper import fine_tuning
from benchmarks.paper.fine_tuning import Tuned
from benchmarks.paper.section import Context, Section
from benchmarks.paper.trained import PAPER, Trained, networks, repaired
from benchmarks.tables import table
from onnxsparse import Model, Prune, layers, load

TARGETS = (0.5, 0.7, 0.8)

ROUNDS = (0.4, 0.7, 0.9, 1.0)
"""The targets of four rounds, as shares of the last."""

SIGNIFICANT_POINTS = 1.0
"""Loss of top-1 that counts as significant degradation, in points; 2000 pictures tell about as much apart."""


@dataclass(frozen=True)
class Row:
    """Top-1 in per cent of one network at one sparsity_op. `same`: whether four rounds give the zeros of one shot.

    `tuned`: rounds with training after each; None where that cannot run. `minutes`: for the repair.
    """

    network: str
    sparsity_op: float
    dense: float
    one_shot: float
    rounds: float
    same: bool
    repaired: float
    minutes: float
    tuned: Tuned | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """A line of the table."""
        tuned = ("-", "-") if self.tuned is None else (f"{self.tuned.top1:.2f}", f"{self.tuned.minutes:.1f}")
        top1 = (f"{self.one_shot:.2f}", f"{self.rounds:.2f}", "the same" if self.same else "others")
        return self.network, f"{self.sparsity_op:.0%}", *top1, *tuned, f"{self.repaired:.2f}", f"{self.minutes:.1f}"


def section(context: Context) -> Section:
    """All networks that are at hand."""
    targets = TARGETS[1:2] if context.quick else TARGETS
    lacking = fine_tuning.why_not()
    rows = [row for network in networks(context) for row in measured(network, targets, train=lacking is None)]
    columns = (
        "network",
        "sparsity_op",
        "L1, one shot",
        "L1, four rounds",
        "zeros",
        "fine-tuned",
        "minutes",
        "repaired",
        "minutes",
    )
    dense = ", ".join(dict.fromkeys(f"{r.network} {r.dense:.2f}" for r in rows))
    lines = [
        f"Top-1 in per cent; dense: {dense}. *L1* is the paper's choice, the smallest magnitudes over all layers. Four rounds",
        "without training between them prune further from the file of the last. *fine-tuned*: PyTorch trains what is left for",
        f"{fine_tuning.EPOCHS} epochs after each round: the digits with the labels of 1397 others, ResNet-20 with what the dense",
        "network says of 512 pictures, as no labelled ones are at hand; the paper trains longer, and on all data. *repaired*:",
        "`prune --data`, without labels.",
        "",
        *table(columns, [r.cells for r in rows]),
        "",
        "[finetune.md](finetune.md) has the same loop for a network of your own, and as a pass of a recipe.",
    ]
    claim = (
        "Pruned iteratively by global L1 and fine-tuned, networks reach a sparsity_op of 70 % without significant degradation."
    )
    return Section("iterative", "Iterative, global, L1", claim, verdict(rows, lacking), lines)


def verdict(rows: list[Row], lacking: str | None) -> str:
    """It holds if rounds with training lose at most SIGNIFICANT_POINTS at 70 % on every network.

    Without training it cannot be tested. What rounds alone and the repair lose is said either way.
    """
    at = [r for r in rows if r.sparsity_op == 0.7]
    same = "the same zeros as" if all(r.same for r in rows) else "other zeros than"
    rest = (
        f"label-free repair loses {points({r.network: r.dense - r.repaired for r in at})}; rounds without training give {same} "
        f"one shot and lose {points({r.network: r.dense - r.rounds for r in at})}"
    )
    tuned = {r.network: r.dense - r.tuned.top1 for r in at if r.tuned is not None}
    if lacking is not None or not tuned:
        return f"cannot be tested here, because {lacking}, which fine-tuning needs; at 70 %, {rest}"
    if max(tuned.values()) <= SIGNIFICANT_POINTS:
        return f"holds: rounds with fine-tuning lose {points(tuned)} at 70 %; {rest}"
    return f"differs, because rounds with fine-tuning lose {points(tuned)} at 70 %; {rest}"


def points(lost: dict[str, float]) -> str:
    """Points of top-1 by network, as text."""
    return ", ".join(f"{each:.2f} points on {network}" for network, each in lost.items())


def measured(network: Trained, targets: tuple[float, ...], *, train: bool) -> Iterator[Row]:
    """A row for each target. `train`: also rounds with training after each."""
    for target in targets:
        shot, rounds = load(network.dense), load(network.dense)
        Prune(sparsity_op=target, **PAPER).run(shot)
        for share in ROUNDS:
            Prune(sparsity_op=target * share, **PAPER).run(rounds)
        start = time.perf_counter()
        made = repaired(network.dense, network.data, target)
        yield Row(
            network=network.name,
            sparsity_op=target,
            dense=network.top1(load(network.dense)),
            one_shot=network.top1(shot),
            rounds=network.top1(rounds),
            same=same_zeros(shot, rounds),
            repaired=network.top1(load(made.path)),
            minutes=max(made.seconds, time.perf_counter() - start) / 60,
            tuned=fine_tuning.measured(network, target, ROUNDS) if train else None,
        )


def same_zeros(a: Model, b: Model) -> bool:
    """Whether two models have zeros at the same places."""
    tensors = [use.tensor for layer in layers(a) for use in layer.weights]
    return all(np.array_equal(a.weights[name] == 0, b.weights[name] == 0) for name in tensors)
