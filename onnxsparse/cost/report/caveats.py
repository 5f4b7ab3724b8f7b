"""The sentences before the numbers of every report: what is missing, and how far to trust the rest."""

from collections.abc import Iterator

from onnxsparse.cost.backends.layer_model import FileBackend
from onnxsparse.cost.estimate import Deployment
from onnxsparse.cost.report.completeness import assumed_free, incomplete, marks
from onnxsparse.format import AT_LEAST, marked


def caveats(found: Deployment) -> Iterator[str]:
    """All caveats in order: gaps, the target's fidelity, widths, uncertainty of the latency, and nodes that are assumed free."""
    if (missing := incomplete(found)) is not None:
        yield missing
    yield from found.backend.fidelity
    if (counts := widths_of(found)) is not None:
        yield counts
    if found.costs:
        yield from trust(found)
    if (pattern := structured(found)) is not None:
        yield pattern
    if (free := assumed_free(found.load.layers)) is not None:
        yield free


def trust(found: Deployment) -> Iterator[str]:
    """Range of the latency over variants and uncertain numbers, and what to measure; marked as bounds if layers have no cost."""
    mark = marks(found).get("latency_ms")
    low, high = min(found.variants.values()), max(found.variants.values())
    if len(found.variants) > 1:
        partial = AT_LEAST if found.partial_variants else None
        ends = f"{marked(f'{low:.2f}', partial)} to {marked(f'{high:.2f}', partial)} ms"
        yield f"latency range over variants that explain the same measurements: {ends}"
    if found.spans:
        widest = found.spans[0]
        first, last = (marked(f"{ms:.2f}", mark) for ms in sorted((widest.low_ms, widest.high_ms)))
        yield f"the number with the largest effect: {widest.number}, {first} to {last} ms over its range"
    if found.narrowing is not None:
        told = found.narrowing
        widths = f"from {told.before_ms:.2f} to {told.after_ms:.2f} ms wide"
        known = "" if mark is None else ", of the layers whose cost is known"
        yield f"the measurement that would narrow it most: {told.node} alone, all numbers together {widths}{known}"


def structured(found: Deployment) -> str | None:
    """How many layers are 2:4, would be and what that saves, and cannot be; None for a target that does not gain from it."""
    if not isinstance(found.backend, FileBackend) or found.backend.structured_sparsity <= 1:
        return None
    layers = [item.two_of_four for item in found.load.costed if item.weights and item.macs]
    conforming, possible, other = (sum(each is kind for each in layers) for kind in (True, False, None))
    advice = (row.advice for row in found.rows if row.advice is not None)
    saved_ms = sum(each.gain_ms or 0.0 for each in advice if each.action == "prune to 2:4")
    told = f"pattern 2:4: {conforming} of {len(layers)} layers have it, and only they gain from zeros"
    would = f"; {possible} could by 'prune --pattern 2:4 --protect none', which saves {saved_ms:.3g} ms" if possible else ""
    cannot = f"; {other} cannot: their inputs are unknown, packed or no multiple of 4" if other else ""
    return told + would + cannot


def widths_of(found: Deployment) -> str | None:
    """How many tensors there are of each width; None for a model without integers."""
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
    """A hint to give the open input sizes, if layers have no cost and sizes are open; else None."""
    sizes = found.load.layers.binding.unbound if found.unknown else ()
    return f"open input sizes: {', '.join(sizes)}; give them with --input-shape" if sizes else None
