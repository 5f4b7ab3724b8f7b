"""What the other way to allocate would have cost: by operations in place of latency, or by latency in place of operations."""

from collections.abc import Sequence
from dataclasses import replace

from onnxsparse.cost.estimate import deploy_on
from onnxsparse.pruning.target import Target
from onnxsparse.recovery.prices import Latency
from onnxsparse.recovery.recover import Recovery, Result

HALVINGS = 12
"""Bisections of the sparsity_op that has a given latency."""


def compared(recovery: Recovery, found: Result, latency: Latency) -> list[str]:
    """Notes on the predicted latency of what `recovery` has `found`, and on the loss at this latency with the other allocation.

    `latency`: the prices on the device.
    """
    reached = deploy_on(found.model, latency.backend).latency_ms
    bound = f"at least, since the cost of {latency.unknown[0]} is unknown: " if latency.unknown else ""
    notes = [f"predicted latency on {latency.backend.name}: {bound}{reached:.3f} ms"]
    if found.kept is None:  # the pattern leaves nothing to allocate
        return notes
    by = "latency" if isinstance(found.target, Target) else "operations"
    if isinstance(found.target, Target):
        other = recovery.allocated(replace(latency, limit_ms=reached))
    else:
        other = by_operations(recovery, latency, reached)
    if other is None:
        return [*notes, f"allocated by {by}, this latency is out of reach"]
    mine, others = predicted_loss(recovery, found.kept), predicted_loss(recovery, other)
    if mine > 0:
        notes.append(f"allocated by {by}, the same latency has {others / mine:.2f} times the predicted loss")
    return notes


def by_operations(recovery: Recovery, latency: Latency, limit_ms: float) -> list[int] | None:
    """The elements that each unit keeps, allocated by operations, at the lowest sparsity_op with this latency; None: none has."""
    candidates = [unit.candidate for unit in recovery.units]
    low, high, found = 0.0, 1.0, None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        kept = recovery.allocated(recovery.prices(Target("sparsity_op", middle)))
        if kept is None:  # below the floors of the layers
            high = middle
        elif latency.latency_ms(dict(zip([c.name for c in candidates], kept, strict=True)), candidates) <= limit_ms:
            high, found = middle, kept
        else:
            low = middle
    return found


def predicted_loss(recovery: Recovery, kept: Sequence[int]) -> float:
    """The predicted divergence of the outputs if each unit keeps this many elements; units whose sparsity is set do not count."""
    pairs = zip(recovery.curves, kept, strict=True)
    return sum(float(curve.loss(count)) for curve, count in pairs if curve is not None)
