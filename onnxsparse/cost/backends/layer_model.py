"""The cost of one layer on a target: the larger of compute and I/O time, plus an overhead. docs/backends.md derives it.

    t         = max(t_compute, t_io) + t_overhead
    t_compute = MACs · max(density, 1 / skip limit) / rate
    t_io      = (coefficient bytes + input bytes · passes + output bytes) / bandwidth
    passes    = ceil(output channels / groups / group size) for an input that does not fit on chip, else 1

1. Compute time: the multiply-accumulates that the target cannot skip (`skipping`), over its rate.
2. I/O time: coefficients as stored (encoded, or dense if smaller), inputs once per pass, and outputs, over the bandwidth.
3. Compute and I/O overlap, so the larger one counts; the overhead is added. The largest part names the bound (`find_bound`).
"""

import math
from dataclasses import dataclass
from typing import Protocol

from onnxsparse.cost.backends.base import EIGHT_BIT, MB, Bound, LayerCost, Precision
from onnxsparse.cost.backends.hardware import Hardware, Number, Numbers, RooflineNumbers, load_hardware, numbers_of, with_value
from onnxsparse.cost.backends.work import WorkItem, total_bytes

INDEX_BITS = 2
"""Position of a value among four, stored with it. Source: NVIDIA A100 Tensor Core GPU Architecture (whitepaper), fine-grained
structured sparsity."""


class Formula(Protocol):
    """A layer's time from a target's numbers."""

    def roof(self) -> tuple[float, float]:
        """The highest possible GMAC/s and GB/s."""

    def layer_cost(self, work: WorkItem, macs: int, input_bytes: int, output_bytes: int) -> LayerCost:
        """The cost of a layer of `macs` multiply-accumulates, whose inputs and outputs take these bytes."""


@dataclass(frozen=True)
class LayerModel:
    """The layer model of docs/backends.md. `coefficient_bits`: width of float coefficients."""

    numbers: Numbers
    coefficient_bits: int

    def roof(self) -> tuple[float, float]:
        """The rate in GMAC/s and the bandwidth in GB/s."""
        return self.numbers.rate_gmac_per_s.value, self.numbers.bandwidth_gb_per_s.value

    def layer_cost(self, work: WorkItem, macs: int, input_bytes: int, output_bytes: int) -> LayerCost:
        """The cost by the formula at the head of this file."""
        numbers = self.numbers
        used, limited = skipping(work, numbers.skip_limit.value)
        compute_ms = macs * used / (numbers.rate_gmac_per_s.value * 1e6)
        coefficients = self.coefficient_bytes(work)
        passes = self.passes(work, input_bytes)
        moved = coefficients + input_bytes * passes + output_bytes
        io_ms = moved / (numbers.bandwidth_gb_per_s.value * 1e6)
        # a layer that computes and moves nothing is not started, so it has no overhead
        overhead_ms = numbers.overhead_us.value / 1000 if macs or moved else 0.0
        bound = find_bound(compute_ms, io_ms, overhead_ms, limited=limited)
        latency_ms = max(compute_ms, io_ms) + overhead_ms
        sizes = (coefficients, input_bytes, output_bytes, passes, moved)
        return LayerCost(latency_ms, compute_ms, io_ms, overhead_ms, bound, *sizes)

    def coefficient_bytes(self, work: WorkItem) -> int:
        """Bytes of the encoded coefficients, or of the dense ones where those are fewer."""
        numbers = self.numbers
        bits = work.coefficient_bits(self.coefficient_bits)
        encoded = numbers.bytes_per_nonzero.value * work.nonzeros * bits / 8 + numbers.bits_per_weight.value / 8 * work.weights
        return math.ceil(min(work.weights * bits / 8, encoded))

    def passes(self, work: WorkItem, input_bytes: int) -> int:
        """How often the input is read: once, or once per group of output channels if it does not fit on chip."""
        group = self.numbers.output_group_channels.value
        fits = input_bytes <= self.numbers.on_chip_mb.value * MB
        return 1 if fits or not group or not work.output_channels else math.ceil(work.output_channels / group)


@dataclass(frozen=True)
class Roofline:
    """Peak and bandwidth, and what is lost to alignment. `coefficient_bits`: width of float coefficients.

    t = max(padded MACs · max(density, 1 / skip limit) / peak, bytes / bandwidth) + overhead. Inputs and outputs up to the
    on-chip size move nothing; coefficients are read once, dense. If the target gains from structured sparsity, 2:4 weights take
    1 / structured sparsity of the compute time, and are stored as two values of every four with an index of two bits each.
    """

    numbers: RooflineNumbers
    coefficient_bits: int

    def roof(self) -> tuple[float, float]:
        """The peak in GMAC/s and the bandwidth in GB/s."""
        return self.numbers.peak_gmac_per_s.value, self.numbers.bandwidth_gb_per_s.value

    def layer_cost(self, work: WorkItem, macs: int, input_bytes: int, output_bytes: int) -> LayerCost:
        """The cost by the formula of this class; `passes` is 0 for an input that stays on chip."""
        numbers = self.numbers
        used, limited = skipping(work, numbers.skip_limit.value)
        structured = self.structured(work)
        if structured:
            used = min(used, 1 / numbers.structured_sparsity.value)
            limited = used > work.nonzeros / work.weights
        alignment = max(1, round(numbers.channel_alignment.value))
        padded = -work.output_channels % alignment
        filled = 1 + padded / work.output_channels if work.output_channels else 1.0
        compute_ms = macs * used * filled / (numbers.peak_gmac_per_s.value * 1e6)
        coefficients = self.coefficient_bytes(work, structured=structured)
        on_chip = numbers.on_chip_mb.value * MB
        passes = int(input_bytes > on_chip)
        moved = coefficients + input_bytes * passes + (output_bytes if output_bytes > on_chip else 0)
        io_ms = moved / (numbers.bandwidth_gb_per_s.value * 1e6)
        overhead_ms = numbers.overhead_us.value / 1000
        bound = find_bound(compute_ms, io_ms, overhead_ms, limited=limited)
        latency_ms = max(compute_ms, io_ms) + overhead_ms
        sizes = (coefficients, input_bytes, output_bytes, passes, moved, padded * work.groups)
        return LayerCost(latency_ms, compute_ms, io_ms, overhead_ms, bound, *sizes)

    def structured(self, work: WorkItem) -> bool:
        """Whether a layer gains from structured sparsity: the target does, and the weights are 2:4."""
        return self.numbers.structured_sparsity.value > 1 and work.two_of_four is True

    def coefficient_bytes(self, work: WorkItem, *, structured: bool) -> int:
        """Bytes of the dense coefficients, or of two values and two indices for every four."""
        dense = total_bytes(work.coefficients, self.coefficient_bits)
        if not structured:
            return dense
        kept = work.weights / 2
        return min(dense, math.ceil(kept * (work.coefficient_bits(self.coefficient_bits) + INDEX_BITS) / 8))


@dataclass(frozen=True)
class FileBackend:
    """A target described by a file; `make_backend` chooses the formula that its numbers are for."""

    hardware: Hardware
    formula: Formula
    precision: Precision = EIGHT_BIT

    @property
    def name(self) -> str:
        """The target's name."""
        return self.hardware.name

    @property
    def description(self) -> str:
        """The target in a few words; may be empty."""
        return self.hardware.description

    @property
    def fidelity(self) -> tuple[str, ...]:
        """Sentences on how far the numbers can be trusted."""
        return self.hardware.fidelity

    def variants(self) -> "list[FileBackend]":
        """This target, and the others that explain the same measurements."""
        return [self, *(make_backend(load_hardware(name), self.precision) for name in self.hardware.variants)]

    def ranges(self) -> dict[str, Number]:
        """The numbers that are not known exactly, by name."""
        return {name: number for name, number in numbers_of(self.hardware).items() if number.low < number.high}

    def with_value(self, name: str, value: float) -> "FileBackend":
        """The same target with one number changed."""
        return make_backend(with_value(self.hardware, name, value), self.precision)

    @property
    def structured_sparsity(self) -> float:
        """Factor by which 2:4 weights shorten the compute time; 1: none."""
        numbers = self.hardware.numbers
        return numbers.structured_sparsity.value if isinstance(numbers, RooflineNumbers) else 1.0

    def roof(self) -> tuple[float, float]:
        """The highest possible GMAC/s and GB/s."""
        return self.formula.roof()

    def cost(self, work: WorkItem) -> LayerCost | None:
        """The cost of a layer; None if its MACs or sizes are unknown, or the target cannot run it."""
        if work.macs is None or work.reads is None or work.writes is None or work.on_host:
            return None
        supported = self.hardware.supported_ops
        if supported and not set(work.op_types) <= set(supported):
            return None
        bits = self.precision.activation_bits
        return self.formula.layer_cost(work, work.macs, total_bytes(work.reads, bits), total_bytes(work.writes, bits))


def make_backend(hardware: Hardware, precision: Precision = EIGHT_BIT) -> FileBackend:
    """The backend of a target, with the formula that its numbers are for."""
    numbers, bits = hardware.numbers, precision.coefficient_bits
    formula = Roofline(numbers, bits) if isinstance(numbers, RooflineNumbers) else LayerModel(numbers, bits)
    return FileBackend(hardware, formula, precision)


def skipping(work: WorkItem, limit: float) -> tuple[float, bool]:
    """The share of the multiply-accumulates that takes time, 0 to 1, and whether the skip limit raises it above the density.

    `limit`: the largest factor by which skipping zeros shortens the compute time; 0 for no limit.
    """
    density = work.nonzeros / work.weights if work.weights else 1.0
    used = max(density, 1 / limit) if limit and work.weights else density
    return used, used > density


def find_bound(compute_ms: float, io_ms: float, overhead_ms: float, *, limited: bool) -> Bound:
    """What dominates the time; `limited`: the skip limit determines the compute time."""
    if overhead_ms > max(compute_ms, io_ms):
        return Bound.OVERHEAD
    if io_ms > compute_ms:
        return Bound.IO
    return Bound.SKIP_LIMIT if limited else Bound.COMPUTE
