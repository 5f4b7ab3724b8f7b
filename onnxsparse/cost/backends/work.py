"""The input of a cost backend: layers as a device runs them, and the sizes of their tensors."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Volume:
    """The size of one tensor. `widths`: bits per element of each form in which it is read; None for floats.

    Floats have the width of the target's precision, integers that of their type in the model.
    """

    elements: int
    widths: tuple[int | None, ...] = (None,)

    @property
    def integer_bits(self) -> int | None:
        """The largest width among its forms; None if one of them is a float."""
        return None if None in self.widths else max(width for width in self.widths if width is not None)

    def bits(self, float_bits: int) -> int:
        """Bits of the whole tensor, stored once at its largest width; floats count `float_bits` each."""
        return self.elements * max(float_bits if width is None else width for width in self.widths)

    def scaled(self, factor: float) -> "Volume":
        """The same tensor with `factor` of the elements, rounded."""
        return Volume(round(self.elements * factor), self.widths)


def total_bits(volumes: Iterable[Volume], float_bits: int) -> int:
    """Bits of all tensors; floats count `float_bits` each."""
    return sum(volume.bits(float_bits) for volume in volumes)


def total_bytes(volumes: Iterable[Volume], float_bits: int) -> int:
    """Bytes of all tensors, their sum rounded up; floats count `float_bits` each."""
    return -(-total_bits(volumes, float_bits) // 8)


@dataclass(frozen=True)
class WorkItem:
    """One layer as a device runs it: a node and the nodes fused into it."""

    node: str
    op_type: str
    fused: tuple[str, ...]
    """Names of the fused nodes, in order."""
    macs: int | None
    """Multiply-accumulates of all its nodes; 0 for an op without any, None if unknown."""
    coefficients: tuple[Volume, ...]
    """Weight tensors, each once."""
    nonzeros: int
    """Nonzero elements of the weights."""
    weight_share: float | None
    """Its zero MACs over the model's weight MACs (the layer's contribution to sparsity_op); None if unknown."""
    inputs: tuple[str, ...]
    """Names of the activations that it reads."""
    outputs: tuple[str, ...]
    """Names of the activations that it writes for use elsewhere."""
    reads: tuple[Volume, ...] | None
    """Sizes of `inputs`; none for an in-place op, None if a shape is unknown."""
    writes: tuple[Volume, ...] | None
    """Sizes of `outputs`; likewise."""
    depthwise: bool
    output_channels: int
    """Output channels per group; 0 for an op without channels."""
    groups: int = 1
    op_types: tuple[str, ...] = ()
    """Op types of the node and the fused nodes."""
    tensors: tuple[str, ...] = ()
    """Names of the weight tensors, which other layers may share."""
    on_host: bool = False
    """Whether its work depends on values, so that no accelerator runs it."""
    two_of_four: bool | None = None
    """Whether at most two of every four consecutive inputs of its weights are nonzero; None: no fours, or unknown."""
    unknown: str | None = None
    """Why its sizes or its MACs are unknown, as a clause; None if they are known."""

    @property
    def weights(self) -> int:
        """Elements of all weights."""
        return sum(volume.elements for volume in self.coefficients)

    @property
    def input_elements(self) -> int | None:
        """Elements that are read; None if unknown."""
        return None if self.reads is None else sum(volume.elements for volume in self.reads)

    @property
    def output_elements(self) -> int | None:
        """Elements that are written; None if unknown."""
        return None if self.writes is None else sum(volume.elements for volume in self.writes)

    def coefficient_bits(self, float_bits: int) -> float:
        """Mean width of the weights in bits; floats count `float_bits` each."""
        return total_bits(self.coefficients, float_bits) / self.weights if self.weights else float_bits
