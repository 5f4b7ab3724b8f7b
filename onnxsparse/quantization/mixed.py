"""Which layers get more than eight bits: those that add most noise of their own, until the outputs are good enough.

The ratio of noise to signal adds up along a network, so that layers are ranked by their own, which one run over the data tells
for all of them; how many are needed is found by bisection, on the model's outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from onnxsparse.calibration.data import CalibrationData
from onnxsparse.model import Model
from onnxsparse.progress import tell
from onnxsparse.quantization.insertion import Choices, write_integers
from onnxsparse.quantization.isolation import own_noise
from onnxsparse.quantization.placement import Placement, place

Quality = Callable[[Model], float | None]
"""SQNR in dB of the worst output of a quantized model; None where it cannot be told."""


@dataclass(frozen=True)
class Mixed:
    """A placement and choices with some layers wide, the noisiest first; `sqnr_db` if it was measured."""

    placement: Placement
    choices: Choices
    layers: tuple[str, ...]
    sqnr_db: float | None = None


def widen(placement: Placement, choices: Choices, data: CalibrationData, count: int) -> Mixed:
    """The `count` noisiest layers are wide."""
    return with_wide(placement, choices, ranked(placement, choices, data)[:count])


def widen_until(placement: Placement, choices: Choices, data: CalibrationData, wanted_db: float, quality: Quality) -> Mixed:
    """As few of the noisiest layers as it takes for the outputs to reach an SQNR; all of them where that does not do."""
    order = ranked(placement, choices, data)

    def tried(count: int) -> Mixed:
        tell(f"trying {count} wide layers")
        found = with_wide(placement, choices, order[:count])
        return replace(found, sqnr_db=quality(write_integers(found.placement, found.choices).model))

    few, many = 0, len(order)
    best = tried(many)
    while few < many:
        count = (few + many) // 2
        found = tried(count)
        if found.sqnr_db is not None and found.sqnr_db >= wanted_db:
            best, many = found, count
        else:
            few = count + 1
    return best


def ranked(placement: Placement, choices: Choices, data: CalibrationData) -> list[int]:
    """Units that compute, noisiest first."""
    noise = own_noise(placement, write_integers(placement, choices), data)
    return sorted((u.root for u in placement.units if u.computes), key=lambda root: -noise[root])


def with_wide(placement: Placement, choices: Choices, roots: list[int]) -> Mixed:
    """These units wide, as the target has it."""
    anatomy = placement.anatomy
    names = tuple(anatomy.graph.names[root] for root in roots)
    if anatomy.target.wide == "int16":
        return Mixed(placement, replace(choices, wide=choices.wide | set(roots)), names)
    kept = placement.kept | dict.fromkeys(roots, "eight bits are too few for it")
    return Mixed(place(anatomy.model, anatomy.target, kept), choices, names)
