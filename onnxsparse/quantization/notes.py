"""What quantization says of its result, in notes for the user."""

from collections import Counter
from collections.abc import Iterable

from onnxsparse.format import format_count
from onnxsparse.ops.spelling import PER_CHANNEL_OPSET
from onnxsparse.quantization.plan.placement import Placement
from onnxsparse.quantization.quantize_model import QuantizedModel


def why_nothing(placement: Placement) -> str:
    """The note for a model without a unit to quantize: it is quantized already, or the most frequent reasons why not."""
    before = len(placement.quantized_before)
    reasons = Counter(skip.reason for skip in placement.skipped)
    if reasons:
        already = f"{before} layers are quantized already; " if before else ""
        return f"nothing to quantize: {already}{', '.join(f'{n} × {reason}' for reason, n in reasons.most_common(3))}"
    if before:
        return f"nothing to do: {before} layers are quantized already, and nothing else is a layer with float weights"
    return f"nothing to quantize: no layer of the model has float weights that {placement.anatomy.target.name} takes as integers"


def what_was_done(found: QuantizedModel) -> list[str]:
    """Notes for the user: layers in integers, widths and scales, zeros that stayed, and layers quantized before."""
    placement, written = found.placement, found.written
    target = placement.anatomy.target
    linear = sum(unit.computes for unit in placement.units)
    changes = written.changes
    kind = "symmetric" if target.activations.symmetric else "asymmetric"
    per_channel = target.weights.per_channel and written.model.opset() >= PER_CHANNEL_OPSET
    blocks = sum(weight.sharing.block is not None for weight in written.weights.values())
    finer = f", {blocks} of them one for every {target.weights.block} inputs" if blocks else ""
    scales = f"one scale per output channel{finer}" if per_channel else "one scale per tensor"
    zeros = sum(change.zeros_before for change in changes)
    rounded = sum(change.zeros_after for change in changes) - zeros
    notes = [
        f"{target.name}: {linear} layers and {len(placement.units) - linear} other ops in integers",
        f"activations: {of_bits(s.grid.bits for s in written.scales.values())} ({kind}); weights: "
        f"{of_bits(w.grid.bits for w in written.weights.values())} ({scales}); {len(written.biases)} biases of 32 bits",
    ]
    if zeros or rounded:
        also = f"; {format_count(rounded)} others are so small that they became zero" if rounded else ""
        notes.append(f"all {format_count(zeros)} weights that were zero are integer 0{also}")
    if placement.quantized_before:
        notes.append(f"{len(placement.quantized_before)} layers were quantized already and keep their scales")
    return notes


def of_bits(widths: Iterable[int]) -> str:
    """How many there are of each width, as text: `61 of 8 bits, 3 of 16 bits`."""
    return ", ".join(f"{count} of {bits} bits" for bits, count in sorted(Counter(widths).items())) or "none"
