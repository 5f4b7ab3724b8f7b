"""What a backend sees of a model: layers as a device runs them."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Volume:
    """The elements of one tensor. `widths`: the bits per element of each form in which it is read, None for floats.

    Floats have the width that the target computes in; integers that of the model file.
    """

    elements: int
    widths: tuple[int | None, ...] = (None,)

    @property
    def integer_bits(self) -> int | None:
        """The width that the model gives all its forms, None where one is a float."""
        return None if None in self.widths else max(width for width in self.widths if width is not None)

    def bits(self, float_bits: int) -> int:
        """Of all elements: a tensor that is read at several widths is stored once, at the widest."""
        return self.elements * max(float_bits if width is None else width for width in self.widths)

    def scaled(self, factor: float) -> "Volume":
        """The same tensor with `factor` of the elements, rounded."""
        return Volume(round(self.elements * factor), self.widths)


def total_bits(volumes: Iterable[Volume], float_bits: int) -> int:
    """Bits of all the tensors, where floats have `float_bits`."""
    return sum(volume.bits(float_bits) for volume in volumes)


def total_bytes(volumes: Iterable[Volume], float_bits: int) -> int:
    """Bytes of all the tensors, rounded up, where floats have `float_bits`."""
    return -(-total_bits(volumes, float_bits) // 8)


@dataclass(frozen=True)
class WorkItem:
    """One layer of a device: a node, what is fused into it, and what it reads and writes.

    `macs` is 0 for an op that multiplies nothing, None where it is unknown. `reads` and `writes` are activations, None where a
    shape is unknown. `coefficients` are the weights, shared ones once.
    """

    node: str
    op_type: str
    fused: tuple[str, ...]
    macs: int | None
    coefficients: tuple[Volume, ...]
    nonzeros: int
    weight_share: float | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reads: tuple[Volume, ...] | None
    writes: tuple[Volume, ...] | None
    depthwise: bool
    output_channels: int
    """Per group; 0 where the op has none."""
    groups: int = 1
    op_types: tuple[str, ...] = ()
    """Of the node and what is fused into it."""
    tensors: tuple[str, ...] = ()
    """The weights by name: layers may share them."""
    on_host: bool = False
    """Whether what it does depends on values: no accelerator runs it."""
    unknown: str | None = None
    """Why its sizes or its MACs are unknown, as a clause; None if they are known."""

    @property
    def weights(self) -> int:
        """Elements of all weights."""
        return sum(volume.elements for volume in self.coefficients)

    @property
    def input_elements(self) -> int | None:
        """Elements that are read, None if unknown."""
        return None if self.reads is None else sum(volume.elements for volume in self.reads)

    @property
    def output_elements(self) -> int | None:
        """Elements that are written, None if unknown."""
        return None if self.writes is None else sum(volume.elements for volume in self.writes)

    def coefficient_bits(self, float_bits: int) -> float:
        """Mean width of the weights in bits, where floats have `float_bits`."""
        return total_bits(self.coefficients, float_bits) / self.weights if self.weights else float_bits
