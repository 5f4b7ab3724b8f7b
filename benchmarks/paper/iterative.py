"""Global L1 in one shot, in rounds without training, and label-free repair in place of fine-tuning."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

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
    """Top-1 in per cent of one network at one sparsity_op. `same`: whether four rounds give the zeros of one shot."""

    network: str
    sparsity_op: float
    dense: float
    one_shot: float
    rounds: float
    same: bool
    repaired: float
    minutes: float


def section(context: Context) -> Section:
    """All networks that are at hand."""
    targets = TARGETS[1:2] if context.quick else TARGETS
    rows = [row for network in networks(context) for row in measured(network, targets)]
    cells = [
        (
            r.network,
            f"{r.sparsity_op:.0%}",
            f"{r.one_shot:.2f}",
            f"{r.rounds:.2f}",
            "the same" if r.same else "others",
            f"{r.repaired:.2f}",
            f"{r.minutes:.1f}",
        )
        for r in rows
    ]
    columns = ("network", "sparsity_op", "L1, one shot", "L1, four rounds", "zeros", "repaired", "minutes for the repair")
    dense = ", ".join(dict.fromkeys(f"{r.network} {r.dense:.2f}" for r in rows))
    lines = [
        f"Top-1 in per cent; dense: {dense}. *L1* is the paper's choice, the smallest magnitudes over all layers. Four rounds",
        "without training between them prune further from the file of the last. *repaired*: `prune --data`, without labels.",
        "",
        *table(columns, cells),
        "",
        "Rounds with training between them are for a framework with labelled data: `examples/iterative_finetune.py` and",
        "[finetune.md](finetune.md) do them on the digits.",
    ]
    claim = (
        "Pruned iteratively by global L1 and fine-tuned, networks reach a sparsity_op of 70 % without significant degradation."
    )
    return Section("iterative", "Iterative, global, L1", claim, verdict(rows), lines)


def verdict(rows: list[Row]) -> str:
    """Fine-tuning is not at hand; what repair does in its place, and rounds without it, is told."""
    at = [r for r in rows if r.sparsity_op == 0.7]
    lost = ", ".join(f"{r.network} {r.dense - r.repaired:+.2f}" for r in at)
    alone = ", ".join(f"{r.network} {r.dense - r.rounds:+.2f}" for r in at)
    same = "the same zeros as" if all(r.same for r in rows) else "other zeros than"
    level = "without" if all(r.dense - r.repaired <= SIGNIFICANT_POINTS for r in at) else "with"
    return (
        f"cannot be tested here, because fine-tuning needs labels; by label-free repair in its place, 70 % is reached {level} "
        f"significant degradation (points lost: {lost}), and rounds without training give {same} one shot (points lost: {alone})"
    )


def measured(network: Trained, targets: tuple[float, ...]) -> Iterator[Row]:
    """A row for each target."""
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
        )


def same_zeros(a: Model, b: Model) -> bool:
    """Whether two models have zeros at the same places."""
    tensors = [use.tensor for layer in layers(a) for use in layer.weights]
    return all(np.array_equal(a.weights[name] == 0, b.weights[name] == 0) for name in tensors)
