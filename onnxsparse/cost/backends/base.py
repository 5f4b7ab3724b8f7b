"""What every backend offers, what a layer's cost is, and in how many bits it is counted."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from onnxsparse.cost.backends.work import WorkItem

MB = 10**6


class Bound(Enum):
    """What a layer's time is spent on."""

    COMPUTE = "compute"
    IO = "io"
    SKIP_LIMIT = "skip-limit"
    OVERHEAD = "overhead"
    MEASURED = "measured"
    """Not told apart."""
    FREE = "assumed free"
    """Counted as 0, because the caller said so."""


@dataclass(frozen=True)
class Precision:
    """Bits per element of floats, as the target computes them. Integers in a model have the width of their type."""

    activation_bits: int = 8
    coefficient_bits: int = 8


EIGHT_BIT = Precision()


@dataclass(frozen=True)
class LayerCost:
    """A layer's cost on one target. Parts of the time are None where they were not told apart.

    `passes`: how often the input is read; 0: it never leaves the chip. `padded_channels`: computed to fill the target's
    alignment, and thrown away.
    """

    latency_ms: float
    compute_ms: float | None
    io_ms: float | None
    overhead_ms: float | None
    bound: Bound
    coefficient_bytes: int
    input_bytes: int
    output_bytes: int
    passes: int
    dram_bytes: int
    padded_channels: int = 0


class CostBackend(Protocol):
    """Predicts layers. It sees work items and never a model.

    `fidelity`: how far its numbers can be trusted, said first in every report.
    """

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def fidelity(self) -> tuple[str, ...]: ...
    @property
    def precision(self) -> Precision: ...

    def cost(self, work: WorkItem) -> LayerCost | None:
        """The cost of a layer; None where it cannot be said."""
