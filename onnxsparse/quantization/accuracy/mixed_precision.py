"""Which layers and other ops get more than eight bits: those that add most noise of their own.

The ratio of noise to signal adds up along a network, so that layers are ranked by their own, which one run over the data tells
for all of them.
"""

from collections.abc import Callable
from dataclasses import replace

from onnxsparse.calibration.data import CalibrationData
from onnxsparse.ir.model import Model
from onnxsparse.quantization.accuracy.unit_noise import own_noise
from onnxsparse.quantization.plan.placement import Placement, place
from onnxsparse.quantization.plan.scales import Choices
from onnxsparse.quantization.write.qdq import write_integers

Quality = Callable[[Model], float | None]
"""SQNR in dB of the worst output of a quantized model; None where it cannot be told."""


def ranked(placement: Placement, choices: Choices, data: CalibrationData, budget_bytes: int) -> list[int]:
    """Units, noisiest first: layers, and arithmetic such as a residual Add."""
    noise = own_noise(placement, write_integers(placement, choices), data, budget_bytes)
    return sorted((unit.root for unit in placement.units), key=lambda root: -noise[root])


def widened(placement: Placement, choices: Choices, roots: list[int]) -> tuple[Placement, Choices]:
    """These units wide, as the target has it: of 16 bits, or left as floats."""
    anatomy = placement.anatomy
    if anatomy.target.wide == "int16":
        return placement, replace(choices, wide=choices.wide | set(roots))
    kept = placement.kept | dict.fromkeys(roots, "eight bits are too few for it")
    return place(anatomy.model, anatomy.target, kept), choices
