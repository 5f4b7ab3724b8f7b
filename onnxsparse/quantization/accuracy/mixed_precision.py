"""Mixed precision: which activations and weights get more than 8 bits, by what the outputs feel.

`output_noise` measures what each tensor alone costs each output and judged slice. Noise approximately adds up, so that a set of
wide tensors leaves the sum over the others. `wide_set` finds a small set for a largest sum, greedily.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxsparse.quantization.accuracy.output_noise import Ratios, Tensor
from onnxsparse.quantization.plan.placement import Placement, place
from onnxsparse.quantization.plan.scales import Choices
from onnxsparse.quantization.plan.target import Target

SAME_OP = 0.1
"""Price of widening a second tensor of an op that is wide already, where a first one costs 1."""

BISECTIONS = 20
"""Steps of the search for what a number of ops can reach."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """Tensors that become wide together. `owner`: the op that they count for, if any. `added_ms`: what they add to latency."""

    tensors: tuple[Tensor, ...]
    owner: int | None
    added_ms: float = 0.0

    @property
    def noise(self) -> Ratios:
        """The noise that goes if they become wide."""
        found: Ratios = np.sum([tensor.noise for tensor in self.tensors], axis=0)
        return found

    @property
    def op(self) -> object:
        """What counts as one wide op."""
        return self.tensors[0].name if self.owner is None else self.owner


def candidates(tensors: Sequence[Tensor], target: Target) -> list[Candidate]:
    """What can become wide by itself: a tensor of its own in more bits, or all that an op reads if it becomes float.

    A value stays rounded as long as an op reads its integers, so that each of its readers has a share in its noise.
    """
    if target.widens_tensors:
        return [Candidate((tensor,), tensor.owner) for tensor in tensors if tensor.is_weight or target.wide == "int16"]
    owned: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        for root in tensor.readers:
            owned.setdefault(root, []).append(replace(tensor, noise=tensor.noise / len(tensor.readers)))
    return [Candidate(tuple(own), owner) for owner, own in owned.items()]


def wide_set(choices: Sequence[Candidate], allowed: float, count: int | None = None) -> list[Candidate]:
    """Candidates that leave at most `allowed` noise over power in every output and slice; fewer if `count` ops are wide before.

    In each step the one that takes most of what is too much, summed over outputs and slices, per price. Without `count`, a price
    grows with the added latency: one of the average latency has twice the price of one that adds nothing.
    """
    if not choices:
        return []
    noise = np.array([each.noise for each in choices])
    left, free = noise.sum(0), np.ones(len(choices), bool)
    ops = [each.op for each in choices]
    added = np.array([each.added_ms for each in choices])
    time = added / added.mean() if count is None and added.mean() > 0 else np.zeros(len(choices))
    found: list[int] = []
    while left.max(initial=0.0) > allowed and free.any():
        wide = {ops[at] for at in found}
        price = time + np.array([SAME_OP if op in wide else 1.0 for op in ops])
        gain = np.minimum(noise, np.maximum(left - allowed, 0)).sum(1) / price
        best = int(np.where(free, gain, -1).argmax())
        if gain[best] <= 0 or (count is not None and ops[best] not in wide and len(wide) == count):
            break
        found.append(best)
        free[best] = False
        left = noise[free].sum(0)
    return [choices[at] for at in found]


def strongest(choices: Sequence[Candidate], count: int) -> list[Candidate]:
    """Candidates of at most `count` ops that leave least noise in the worst output or slice: bisection over what is allowed."""
    low, high = 0.0, float(np.sum([each.noise for each in choices], axis=0).max(initial=0.0))
    best = wide_set(choices, low, count)
    if count_ops(best) < count:
        return best
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found = wide_set(choices, middle, count)
        if left(choices, found) <= middle:
            best, high = found, middle
        else:
            low = middle
    return best


def left(choices: Sequence[Candidate], wide: Sequence[Candidate]) -> float:
    """The noise over power that stays in the worst output or slice."""
    names = {id(each) for each in wide}
    rest = [each.noise for each in choices if id(each) not in names]
    return float(np.sum(rest, axis=0).max(initial=0.0)) if rest else 0.0


def count_ops(wide: Sequence[Candidate]) -> int:
    """The number of ops that the candidates belong to."""
    return len({each.op for each in wide})


def widened(placement: Placement, choices: Choices, wide: Collection[Candidate]) -> tuple[Placement, Choices]:
    """Placement and choices in which the candidates are wide: with more bits, or their ops float, as the target says.

    Weights that become wide lose the integers that were chosen for fewer bits.
    """
    anatomy = placement.anatomy
    if anatomy.target.widens_tensors:
        tensors = [tensor for each in wide for tensor in each.tensors]
        values = frozenset(tensor.name for tensor in tensors if not tensor.is_weight)
        weights = frozenset(tensor.name for tensor in tensors if tensor.is_weight)
        rounded = {name: found for name, found in choices.rounded.items() if name not in weights}
        return placement, replace(choices, wide_values=values, wide_weights=weights, rounded=rounded)
    kept = placement.kept | {each.owner: "8 bits add too much noise" for each in wide if each.owner is not None}
    return place(anatomy.model, anatomy.target, kept), choices
