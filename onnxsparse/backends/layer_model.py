"""What one layer costs on a target: the larger of compute and I/O, and an overhead. docs/backends.md derives it.

t         = max(t_compute, t_io) + t_overhead
t_compute = MACs · max(density, 1 / skip limit) / rate
t_io      = (coefficient bytes + input bytes · passes + output bytes) / bandwidth
passes    = ceil(output channels / groups / group size) for an input that does not fit on chip, else 1
"""

import math
from dataclasses import dataclass
from enum import Enum

from onnxsparse.backends.hardware import Hardware
from onnxsparse.backends.work import WorkItem

MB = 10**6


class Bound(Enum):
    """What a layer's time is spent on."""

    COMPUTE = "compute"
    IO = "io"
    SKIP_LIMIT = "skip-limit"
    OVERHEAD = "overhead"


@dataclass(frozen=True)
class LayerCost:
    """A layer's predicted cost on one target."""

    compute_ms: float
    io_ms: float
    overhead_ms: float
    bound: Bound
    coefficient_bytes: int
    input_bytes: int
    output_bytes: int
    passes: int

    @property
    def latency_ms(self) -> float:
        return max(self.compute_ms, self.io_ms) + self.overhead_ms


@dataclass(frozen=True)
class LayerModel:
    """The layer model with one target's numbers. Activations and dense coefficients take `bits` each."""

    hardware: Hardware
    bits: int = 8

    def cost(self, work: WorkItem) -> LayerCost | None:
        """The cost of a layer, None where its operations or sizes are unknown."""
        if work.macs is None or work.input_elements is None or work.output_elements is None:
            return None
        numbers = self.hardware.numbers
        density = work.nonzeros / work.weights if work.weights else 1.0
        limit = numbers.skip_limit.value
        used = max(density, 1 / limit) if limit and work.weights else density
        compute_ms = work.macs * used / (numbers.rate_gmac_per_s.value * 1e6)
        coefficients = self.coefficient_bytes(work.weights, work.nonzeros)
        inputs, outputs = (math.ceil(e * self.bits / 8) for e in (work.input_elements, work.output_elements))
        passes = self.passes(work, inputs)
        io_ms = (coefficients + inputs * passes + outputs) / (numbers.bandwidth_gb_per_s.value * 1e6)
        overhead_ms = numbers.overhead_us.value / 1000
        bound = find_bound(compute_ms, io_ms, overhead_ms, limited=used > density)
        return LayerCost(compute_ms, io_ms, overhead_ms, bound, coefficients, inputs, outputs, passes)

    def coefficient_bytes(self, weights: int, nonzeros: int) -> int:
        """Encoded, or dense where that is smaller."""
        numbers = self.hardware.numbers
        encoded = numbers.bytes_per_nonzero.value * nonzeros * self.bits / 8 + numbers.bits_per_weight.value / 8 * weights
        return math.ceil(min(weights * self.bits / 8, encoded))

    def passes(self, work: WorkItem, input_bytes: int) -> int:
        group = self.hardware.numbers.output_group_channels.value
        fits = input_bytes <= self.hardware.numbers.on_chip_mb.value * MB
        return 1 if fits or not group or not work.output_channels else math.ceil(work.output_channels / group)


def find_bound(compute_ms: float, io_ms: float, overhead_ms: float, *, limited: bool) -> Bound:
    if overhead_ms > max(compute_ms, io_ms):
        return Bound.OVERHEAD
    if io_ms > compute_ms:
        return Bound.IO
    return Bound.SKIP_LIMIT if limited else Bound.COMPUTE
