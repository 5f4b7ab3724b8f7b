"""Mixed precision: which activations and weights get more than 8 bits, by what the outputs feel.

`output_noise` measures what each tensor alone costs each output and judged slice. Noise approximately adds up, so that a set of
wide tensors leaves the sum over the others. `wide_set` finds a small set for a largest sum, greedily.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from onnxsparse.quantization.accuracy.output_noise import Ratios, Tensor
from onnxsparse.quantization.plan.placement import Placement, place
from onnxsparse.quantization.plan.scales import Choices
from onnxsparse.quantization.plan.target import Target

SAME_OP = 0.1
"""Price of widening a second tensor of an op that is wide already; a first one, and a weight's second width, cost 1."""

BISECTIONS = 20
"""Steps of the search for what a number of ops can reach."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """Tensors that become wide together. `owner`: the op that they count for, if any. `added_ms`: what they add to latency.

    `bits`: width of a weight that becomes wide by itself. A weight of 4 bits may have a second candidate, with 16 bits in place
    of 8.
    """

    tensors: tuple[Tensor, ...]
    owner: int | None
    added_ms: float = 0.0
    bits: int = 16

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
        weights = [each for tensor in tensors if tensor.is_weight for each in wider_weights(tensor, target)]
        values = [tensor for tensor in tensors if not tensor.is_weight and target.wide == "int16"]
        return [*(Candidate((tensor,), tensor.owner) for tensor in values), *weights]
    owned: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        for root in tensor.readers:
            owned.setdefault(root, []).append(replace(tensor, noise=tensor.noise / len(tensor.readers)))
    return [Candidate(tuple(own), owner) for owner, own in owned.items()]


def wider_weights(tensor: Tensor, target: Target) -> Iterator[Candidate]:
    """A candidate for each width that a weight may get. Every further bit is taken to leave a quarter of the noise."""
    widths, left = target.wide_weight_bits, tensor.noise
    for bits in widths:
        still = tensor.noise * (0.0 if bits == widths[-1] else 0.25 ** (bits - target.weights.bits))
        yield Candidate((replace(tensor, noise=left - still),), tensor.owner, bits=bits)
        left = still


def wide_set(choices: Sequence[Candidate], allowed: float, count: int | None = None) -> list[Candidate]:
    """Candidates that leave at most `allowed` noise over power in every output and slice; fewer if `count` ops are wide before.

    In each step the one that takes most of what is too much, summed over outputs and slices, per price. Without `count`, a price
    grows with the added latency: one of the average latency has twice the price of one that adds nothing.
    """
    if not choices:
        return []
    noise = np.array([each.noise for each in choices])
    behind = followers(choices)
    again = {*behind.values()}
    left, free = noise.sum(0), np.array([at not in again for at in range(len(choices))])
    ops = [each.op for each in choices]
    added = np.array([each.added_ms for each in choices])
    time = added / added.mean() if count is None and added.mean() > 0 else np.zeros(len(choices))
    found: list[int] = []
    while left.max(initial=0.0) > allowed and free.any():
        wide = {ops[at] for at in found}
        price = time + np.array([SAME_OP if op in wide and at not in again else 1.0 for at, op in enumerate(ops)])
        gain = np.minimum(noise, np.maximum(left - allowed, 0)).sum(1) / price
        best = int(np.where(free, gain, -1).argmax())
        if gain[best] <= 0 or (count is not None and ops[best] not in wide and len(wide) == count):
            break
        found.append(best)
        free[best] = False
        if best in behind:
            free[behind[best]] = True
        left = np.delete(noise, found, 0).sum(0)
    return [choices[at] for at in found]


def followers(choices: Sequence[Candidate]) -> dict[int, int]:
    """Index of a candidate for a weight → that of the candidate with the next more bits for it, which comes after the first."""
    places: dict[str, list[int]] = {}
    for at in sorted(range(len(choices)), key=lambda at: choices[at].bits):
        for tensor in choices[at].tensors:
            if tensor.is_weight and len(choices[at].tensors) == 1:
                places.setdefault(tensor.name, []).append(at)
    return dict(pair for own in places.values() for pair in pairwise(own))


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


def widths(wide: Collection[Candidate]) -> dict[str, int]:
    """Weight → its width in bits, of those that are wide."""
    found: dict[str, int] = {}
    for each in wide:
        found |= {tensor.name: max(each.bits, found.get(tensor.name, 0)) for tensor in each.tensors if tensor.is_weight}
    return found


def widened(placement: Placement, choices: Choices, wide: Collection[Candidate]) -> tuple[Placement, Choices]:
    """Placement and choices in which the candidates are wide: with more bits, or their ops float, as the target says.

    Weights that become wide lose the integers that were chosen for fewer bits.
    """
    anatomy = placement.anatomy
    if anatomy.target.widens_tensors:
        tensors = [tensor for each in wide for tensor in each.tensors]
        values = frozenset(tensor.name for tensor in tensors if not tensor.is_weight)
        weights = widths(wide)
        rounded = {name: found for name, found in choices.rounded.items() if name not in weights}
        return placement, replace(choices, wide_values=values, wide_weights=weights, rounded=rounded)
    kept = placement.kept | {each.owner: "8 bits add too much noise" for each in wide if each.owner is not None}
    return place(anatomy.model, anatomy.target, kept), choices
