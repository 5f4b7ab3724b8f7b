"""The interface of cost backends: a layer's cost, and the precision for which it is predicted."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from onnxsparse.cost.backends.work import WorkItem

MB = 10**6


class Bound(Enum):
    """What dominates a layer's time."""

    COMPUTE = "compute"
    """Multiply-accumulates on nonzero weights."""
    IO = "io"
    """Traffic to and from DRAM."""
    SKIP_LIMIT = "skip-limit"
    """Multiply-accumulates that the hardware cannot skip although their weights are zero."""
    OVERHEAD = "overhead"
    """Fixed time per layer."""
    MEASURED = "measured"
    """Measured as a whole, so that the parts are unknown."""
    FREE = "assumed free"
    """Counted as 0 because --assume-free names the layer."""


@dataclass(frozen=True)
class Precision:
    """Bits per element in which the target stores the model's floats; the model's integers have the width of their type."""

    activation_bits: int = 8
    coefficient_bits: int = 8


EIGHT_BIT = Precision()


@dataclass(frozen=True)
class LayerCost:
    """A layer's cost on one target; the parts of the time are None for a measured layer."""

    latency_ms: float
    """Time of the layer, for one inference."""
    compute_ms: float | None
    """Time of the multiply-accumulates; runs at the same time as I/O."""
    io_ms: float | None
    """Time of the DRAM traffic."""
    overhead_ms: float | None
    """Fixed time per layer, in addition to the larger of both."""
    bound: Bound
    coefficient_bytes: int
    """Weights as the target stores them, encoded or dense."""
    input_bytes: int
    """Activations that the layer reads, each once."""
    output_bytes: int
    """Activations that the layer writes."""
    passes: int
    """How often the input is read from DRAM; 0 if it stays on chip."""
    dram_bytes: int
    """DRAM traffic, repeated reads included."""
    padded_channels: int = 0
    """Output channels that are computed only to fill the target's alignment."""


class Described(Protocol):
    """What every backend says of its target."""

    @property
    def name(self) -> str:
        """The target's name."""

    @property
    def description(self) -> str:
        """The target in a few words; may be empty."""

    @property
    def fidelity(self) -> tuple[str, ...]:
        """Sentences on how far the numbers can be trusted; every report starts with them."""


class CostBackend(Described, Protocol):
    """Predicts the cost of layers. It is given work items, never a model."""

    @property
    def precision(self) -> Precision:
        """The widths for which costs are predicted."""

    def cost(self, work: WorkItem) -> LayerCost | None:
        """The cost of a layer; None if it is unknown."""
