"""What a layer is fitted to: the outputs that the dense layer computes, from the inputs that the changed model gives."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxsparse.calibration.positions import Inputs
from onnxsparse.ir.array_types import Floats
from onnxsparse.ir.model import Model
from onnxsparse.ir.new_tensors import Additions
from onnxsparse.recovery.alps import RIDGE, alive
from onnxsparse.recovery.units import Unit


@dataclass(frozen=True)
class Fit:
    """`dense`: weights of the wanted outputs, groups × rows × dense columns. `wanted`, `given`: their inputs, and those that the
    changed model gives, at the same positions.
    """

    dense: Floats
    wanted: Inputs
    given: Inputs

    @cached_property
    def h(self) -> Floats:
        """Second moments of the given inputs."""
        return alive(self.given.moments())

    @property
    def products(self) -> Floats:
        """The wanted outputs times the given inputs: groups × rows × given columns."""
        return self.dense @ self.wanted.times(self.given)

    @property
    def few(self) -> bool:
        """Whether there are fewer positions than twice the columns."""
        return self.given.count < 2 * int(self.given.centred.shape[2])

    @property
    def ridge(self) -> float:
        """The ridge of the fit: higher with few positions."""
        return RIDGE * (2 * self.h.shape[1] / self.given.count if self.few else 1.0)

    def shift(self, fitted: Floats) -> Floats:
        """What the means of the wanted outputs exceed those of fitted weights by, groups × rows × 1."""
        found: Floats = self.dense @ self.wanted.mean.swapaxes(1, 2) - fitted @ self.given.mean.swapaxes(1, 2)
        return found

    def store(self, model: Model, unit: Unit, fitted: Floats) -> None:
        """Write fitted weights; the difference of the means goes into the bias."""
        unit.store(model, fitted)
        if unit.shifts:
            add_bias(model, unit, self.shift(fitted).reshape(-1))


def add_bias(model: Model, unit: Unit, shift: Floats) -> None:
    """Add a constant to each output row of a unit, in its bias or in a new one."""
    if unit.bias is not None:
        held = model.weights[unit.bias]
        model.weights[unit.bias] = (held.astype(np.float64) + shift.reshape(held.shape)).astype(held.dtype)
        return
    at = unit.form.bias_at
    node = model.proto.graph.node[unit.at]
    if at is None:
        return
    additions = Additions(model)
    dtype = model.weights[unit.candidate.name].dtype
    name = additions.constant(f"{unit.candidate.name}.bias", shift.astype(dtype))
    node.input.extend([""] * (at + 1 - len(node.input)))
    node.input[at] = name
    additions.write()
