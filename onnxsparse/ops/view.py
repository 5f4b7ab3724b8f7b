"""OpView: one node as formulas see it, with checked access to attributes, shapes and small values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxsparse.ir.binding import Shape as Shape
from onnxsparse.ops.sizes import Listed, counted, known, ranked
from onnxsparse.ops.sizes import Size as Size
from onnxsparse.ops.sizes import UnknownFact as UnknownFact

INTEGERS = (onnx.AttributeProto.INT, onnx.AttributeProto.UNDEFINED)
"""Attribute types read as an integer. UNDEFINED is among them because IR versions 1 and 2 do not record types."""


@dataclass(frozen=True)
class OpView:
    """One node as formulas see it."""

    node: onnx.NodeProto
    """The node itself; formulas read its attributes through the methods below, which check types."""
    inputs: tuple[Shape | None, ...]
    """One shape per input, in the node's order: None if the rank is unknown, and None for an unknown size within a shape."""
    outputs: tuple[Shape | None, ...]
    """One shape per output, as for `inputs`."""
    values: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    """Name of an input → its value, for the small ones that follow from sizes and constants."""
    types: Mapping[str, int] = field(default_factory=dict)
    """Name of an input → its element type, a number of TensorProto.DataType; an unknown one is left out."""

    @cached_property
    def attributes(self) -> dict[str, onnx.AttributeProto]:
        """Name → attribute."""
        return {a.name: a for a in self.node.attribute}

    def has_input(self, at: int) -> bool:
        """Whether input `at` exists and is not left out (an empty name)."""
        return 0 <= at < len(self.node.input) and bool(self.node.input[at])

    def input(self, at: int, rank: int | None = None, least: int = 0) -> Size:
        """The shape of input `at`, all sizes known.

        Raises UnknownFact if the input is missing, a size is unknown (OpenSize), or it has neither `rank` axes nor, without
        `rank`, at least `least`.
        """
        if not self.has_input(at):
            raise UnknownFact(f"it has no input {at}")
        return ranked(known(self.inputs[at], f"its input '{self.node.input[at]}'"), f"its input {at}", rank, least)

    def partial(self, at: int, *ranks: int) -> Shape:
        """The shape of input `at`; None for each unknown size.

        Raises UnknownFact if its rank is unknown, or is none of `ranks` (empty: any rank).
        """
        shape = self.inputs[at] if self.has_input(at) else None
        if shape is None:
            raise UnknownFact(f"the number of axes of its input {at} is not known")
        if ranks and len(shape) not in ranks:
            raise UnknownFact(f"its input {at} has {len(shape)} axes, and the op takes {' or '.join(map(str, ranks))}")
        return Listed(shape)

    def kind(self, at: int) -> int:
        """The element type of input `at`, a number of TensorProto.DataType. Raises UnknownFact if it is unknown."""
        if not self.has_input(at) or self.node.input[at] not in self.types:
            raise UnknownFact(f"the element type of its input {at} is not known")
        return self.types[self.node.input[at]]

    def integers(self, at: int) -> Size:
        """The elements of an integer input, flattened. Raises UnknownFact if they depend on more than sizes and constants."""
        if not self.has_input(at) or self.node.input[at] not in self.values:
            raise UnknownFact(f"the values of its input {at} are not known")
        return Listed(int(element) for element in self.values[self.node.input[at]].reshape(-1))

    def integer(self, at: int) -> int:
        """The element of an input that holds one integer. Raises UnknownFact as `integers` does, or if it holds another number
        of them.
        """
        values = self.integers(at)
        if len(values) != 1:
            raise UnknownFact(f"its input {at} holds {len(values)} numbers, not one")
        return values[0]

    def output(self, at: int = 0, rank: int | None = None, least: int = 0) -> Size:
        """The shape of output `at`, all sizes known. Raises UnknownFact as `input` does."""
        if at >= len(self.outputs):
            raise UnknownFact(f"it has no output {at}")
        return ranked(known(self.outputs[at], f"its output {at}"), f"its output {at}", rank, least)

    def number(self, name: str, default: int) -> int:
        """An integer attribute, or `default` if the node does not set it. Raises UnknownFact for an attribute of another type."""
        return self.required(name) if name in self.attributes else default

    def count(self, name: str, default: int | None = None) -> int:
        """A positive integer attribute; `default` None: the attribute is required.

        Raises UnknownFact if it is missing though required, of another type, or below 1.
        """
        found = self.required(name) if default is None else self.number(name, default)
        if found < 1:
            raise UnknownFact(f"its attribute '{name}' is {found}")
        return found

    def real(self, name: str, default: float) -> float:
        """A float attribute, or `default` if the node does not set it."""
        return self.attributes[name].f if name in self.attributes else default

    def text(self, name: str, default: str) -> str:
        """A string attribute, or `default` if the node does not set it. Raises UnknownFact for bytes that are not UTF-8."""
        if name not in self.attributes:
            return default
        try:
            return self.attributes[name].s.decode()
        except UnicodeDecodeError:
            raise UnknownFact(f"its attribute '{name}' is no text") from None

    def numbers(self, name: str, default: tuple[int, ...] = (), length: int | None = None) -> Size:
        """An attribute that is a list of integers, or `default` if the node does not set it. Raises UnknownFact if it does not
        have `length` items (None: any number).
        """
        found = tuple(self.attributes[name].ints) if name in self.attributes else default
        if length is not None and len(found) != length:
            raise UnknownFact(f"its attribute '{name}' has {len(found)} numbers, not {length}")
        return Listed(found)

    def required(self, name: str) -> int:
        """An integer attribute that the op requires. Raises UnknownFact if it is missing or of another type."""
        if name not in self.attributes or self.attributes[name].ref_attr_name:
            raise UnknownFact(f"it has no attribute '{name}'")
        if self.attributes[name].type not in INTEGERS:
            raise UnknownFact(f"its attribute '{name}' is no integer")
        return self.attributes[name].i

    def axis(self, default: int, rank: int) -> int:
        """The attribute `axis`, or `default`, counted from the front. Raises UnknownFact if a value of `rank` axes has no such
        axis.
        """
        return counted(self.number("axis", default), rank)


def same_shape(op: OpView) -> Shape:
    """The shape of input 0, None for each unknown size. Raises UnknownFact if its rank is unknown."""
    return op.partial(0)


def product(sizes: Size) -> int:
    """Number of elements: the product of all sizes, 1 for a scalar."""
    return math.prod(sizes)
