"""What a backend sees of a model: layers as a device runs them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WorkItem:
    """One layer of a device: a node, what is fused into it, and what it reads and writes. Elements are of activations.

    `macs` is 0 for an op that multiplies nothing, None where it is unknown; sizes are None where a shape is.
    """

    node: str
    op_type: str
    fused: tuple[str, ...]
    macs: int | None
    weights: int
    nonzeros: int
    weight_share: float | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    input_elements: int | None
    output_elements: int | None
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
