"""What every report says before its numbers: how far to trust them."""

from collections.abc import Iterator

from onnxsparse.deployment import Deployment


def caveats(found: Deployment) -> Iterator[str]:
    """What the target was calibrated on, how far the result moves with what is not known, and what to measure."""
    yield from found.backend.fidelity
    if (counts := widths_of(found)) is not None:
        yield counts
    if not found.costs:
        return
    low, high = min(found.variants.values()), max(found.variants.values())
    if len(found.variants) > 1:
        yield f"latency range over variants that explain the same measurements: {low:.2f} to {high:.2f} ms"
    if found.spans:
        widest = found.spans[0]
        ends = sorted((widest.low_ms, widest.high_ms))
        yield f"the number that moves the result most: {widest.number}, {ends[0]:.2f} to {ends[1]:.2f} ms over its range"
    if found.narrowing is not None:
        told = found.narrowing
        widths = f"from {told.before_ms:.2f} to {told.after_ms:.2f} ms wide"
        yield f"the measurement that would narrow it most: {told.node} alone, all numbers together {widths}"


def widths_of(found: Deployment) -> str | None:
    """How many tensors have which width, for a model with integers."""
    counts = found.load.widths()
    if not any(width is not None for count in counts.values() for width in count):
        return None
    floats = {"activations": found.precision.activation_bits, "weights": found.precision.coefficient_bits}
    told = []
    for kind, count in counts.items():
        sizes = (width for width in sorted(count, key=lambda w: (w is None, w)))
        texts = (f"{count[w]} of {w} bit" if w is not None else f"{count[w]} of floats, at {floats[kind]} bit" for w in sizes)
        told.append(f"{kind} {', '.join(texts)}")
    return f"widths of tensors: {'; '.join(told)}"


def open_sizes(found: Deployment) -> str | None:
    """Why layers have no cost, where the caller can give what is missing."""
    sizes = found.load.layers.binding.unbound if found.unknown else ()
    return f"open input sizes: {', '.join(sizes)}; give them with --input-shape" if sizes else None
