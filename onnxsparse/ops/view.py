"""One node as rules see it: attributes, shapes, and small values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxsparse.ir.binding import Shape as Shape
from onnxsparse.ops.sizes import Listed, counted, known, ranked
from onnxsparse.ops.sizes import Size as Size
from onnxsparse.ops.sizes import UnknownFact as UnknownFact

if TYPE_CHECKING:
    pass


INTEGERS = (onnx.AttributeProto.INT, onnx.AttributeProto.UNDEFINED)
"""The types of an attribute that is an integer; IR versions 1 and 2 do not say."""


@dataclass(frozen=True)
class OpView:
    """One node as formulas see it: attributes, shapes, and the values of small inputs that follow from sizes and constants.

    Shapes are in the order of the node's inputs and outputs; None where even the rank is unknown.
    """

    node: onnx.NodeProto
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape | None, ...]
    values: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    @cached_property
    def attributes(self) -> dict[str, onnx.AttributeProto]:
        return {a.name: a for a in self.node.attribute}

    def has_input(self, at: int) -> bool:
        return 0 <= at < len(self.node.input) and bool(self.node.input[at])

    def input(self, at: int, rank: int | None = None, least: int = 0) -> Size:
        """The shape of input `at`, of `rank` axes, or `least` and more. Raises UnknownFact unless every size is known."""
        if not self.has_input(at):
            raise UnknownFact(f"it has no input {at}")
        return ranked(known(self.inputs[at], f"its input '{self.node.input[at]}'"), f"its input {at}", rank, least)

    def partial(self, at: int, *ranks: int) -> Shape:
        """The shape of input `at`, None for a size that is unknown.

        Raises UnknownFact where the number of axes is unknown, or none of `ranks`, if any are given.
        """
        shape = self.inputs[at] if self.has_input(at) else None
        if shape is None:
            raise UnknownFact(f"the number of axes of its input {at} is not known")
        if ranks and len(shape) not in ranks:
            raise UnknownFact(f"its input {at} has {len(shape)} axes, and the op takes {' or '.join(map(str, ranks))}")
        return Listed(shape)

    def integers(self, at: int) -> Size:
        """The elements of an integer input. Raises UnknownFact where they are computed from more than sizes and constants."""
        if not self.has_input(at) or self.node.input[at] not in self.values:
            raise UnknownFact(f"the values of its input {at} are not known")
        return Listed(int(element) for element in self.values[self.node.input[at]].reshape(-1))

    def output(self, at: int = 0, rank: int | None = None, least: int = 0) -> Size:
        if at >= len(self.outputs):
            raise UnknownFact(f"it has no output {at}")
        return ranked(known(self.outputs[at], f"its output {at}"), f"its output {at}", rank, least)

    def number(self, name: str, default: int) -> int:
        """An integer. Raises UnknownFact for an attribute of another type."""
        return self.required(name) if name in self.attributes else default

    def count(self, name: str, default: int | None = None) -> int:
        """As `number`, or `required` without a default, of what there is at least one. Raises UnknownFact for less."""
        found = self.required(name) if default is None else self.number(name, default)
        if found < 1:
            raise UnknownFact(f"its attribute '{name}' is {found}")
        return found

    def real(self, name: str, default: float) -> float:
        return self.attributes[name].f if name in self.attributes else default

    def text(self, name: str, default: str) -> str:
        """Raises UnknownFact for bytes that are no text."""
        if name not in self.attributes:
            return default
        try:
            return self.attributes[name].s.decode()
        except UnicodeDecodeError:
            raise UnknownFact(f"its attribute '{name}' is no text") from None

    def numbers(self, name: str, default: tuple[int, ...] = (), length: int | None = None) -> Size:
        """Integers, `length` of them if that is given. Raises UnknownFact for another number of them."""
        found = tuple(self.attributes[name].ints) if name in self.attributes else default
        if length is not None and len(found) != length:
            raise UnknownFact(f"its attribute '{name}' has {len(found)} numbers, not {length}")
        return Listed(found)

    def required(self, name: str) -> int:
        """An integer that has to be there. Raises UnknownFact where it is not, or is of another type."""
        if name not in self.attributes or self.attributes[name].ref_attr_name:
            raise UnknownFact(f"it has no attribute '{name}'")
        if self.attributes[name].type not in INTEGERS:
            raise UnknownFact(f"its attribute '{name}' is no integer")
        return self.attributes[name].i

    def axis(self, default: int, rank: int) -> int:
        """The attribute `axis` of a value with `rank` axes, counted from the front. Raises UnknownFact where it has none such."""
        return counted(self.number("axis", default), rank)


def same_shape(op: OpView) -> Shape:
    """The first input's."""
    return op.partial(0)


def product(sizes: Size) -> int:
    return math.prod(sizes)
