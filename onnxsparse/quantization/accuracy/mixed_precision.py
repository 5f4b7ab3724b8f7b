"""Mixed precision: more than 8 bits for the layers and other ops that add the most noise of their own.

Ratios of noise to signal approximately add up along a network. Units are therefore ranked by the ratio that each adds by itself,
which one pass over the data measures for all of them.
"""

from collections.abc import Callable
from dataclasses import replace

from onnxsparse.ir.model import Model
from onnxsparse.quantization.accuracy.unit_noise import own_noise
from onnxsparse.quantization.plan.placement import Placement, place
from onnxsparse.quantization.plan.scales import Choices
from onnxsparse.quantization.write.qdq import write_integers
from onnxsparse.runtime.samples import Samples

Quality = Callable[[Model], float | None]
"""A function that returns the SQNR in dB of a quantized model's worst output or slice; None if no output can be compared."""


def ranked(placement: Placement, choices: Choices, data: Samples, budget_bytes: int) -> list[int]:
    """The root nodes of all units (layers, and arithmetic such as a residual Add), in descending order of their own noise."""
    noise = own_noise(placement, write_integers(placement, choices), data, budget_bytes)
    return sorted((unit.root for unit in placement.units), key=lambda root: -noise[root])


def widened(placement: Placement, choices: Choices, roots: list[int]) -> tuple[Placement, Choices]:
    """Placement and choices in which the units `roots` are wide: 16 bits or float, as the target's `wide` says."""
    anatomy = placement.anatomy
    if anatomy.target.wide == "int16":
        return placement, replace(choices, wide=choices.wide | set(roots))
    kept = placement.kept | dict.fromkeys(roots, "8 bits add too much noise")
    return place(anatomy.model, anatomy.target, kept), choices
