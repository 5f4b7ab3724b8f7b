"""Completeness of a report's totals.

1. A layer of unknown cost, size or MACs is left out of every sum, never counted as 0.
2. Sums are then lower bounds (≥), fps is an upper bound (≤), and ratios cover what is known (`marks`).
3. What is unknown is listed in words (`gaps`), --strict refuses it, and a limit on such a total fails.
"""

from collections import Counter
from collections.abc import Sequence

from onnxsparse.analysis.layer import PARAMS, Layers, marks_of
from onnxsparse.cost.estimate import Deployment
from onnxsparse.errors import ParamError
from onnxsparse.format import AT_LEAST, AT_MOST, Mark, name_some

COST_SUMS = ("latency_ms", "mem_p_mb", "dram_mb")
"""Totals that sum the costs of layers."""

RANGE = ("latency_ms_low", "latency_ms_high")
"""Totals over the variants of the target."""

MAX_NAMED = 3
"""Names or reasons that a sentence lists before `and N more`."""


def marks(found: Deployment) -> dict[str, Mark]:
    """Total → its mark (lower bound, upper bound, or ratio of what is known); a total that is not listed is exact."""
    made = {name: mark for name, mark in marks_of(found.load.layers.totals).items() if name != PARAMS}
    if not found.costs_complete:
        made |= dict.fromkeys(COST_SUMS, AT_LEAST) | {"fps": AT_MOST}
    if not found.bytes_complete:
        made["dram_mb"] = AT_LEAST
    if not found.costs_complete or found.partial_variants:
        made |= dict.fromkeys(RANGE, AT_LEAST)
    return made


def gaps(found: Deployment) -> list[str]:
    """What is unknown, in words; empty for a complete report."""
    told = []
    if found.unknown:
        reasons = Counter(row.reason or "" for row in found.unknown)
        counted = (f"{count} × {reason}" if len(reasons) > 1 else reason for reason, count in reasons.most_common(MAX_NAMED))
        told.append(f"the cost of {len(found.unknown)} of {len(found.rows)} layers is unknown ({', '.join(counted)})")
    elif found.partial_variants:
        told.append(f"some layers have no cost on {', '.join(found.partial_variants)}")
    if not told and (found.mem_a_mb is None or not found.bytes_complete):
        told.append("the sizes of some activations are unknown")
    return [*told, *fact_gaps(found.load.layers)]


def fact_gaps(layers: Layers) -> list[str]:
    """What is unknown about MACs and weights, in words; empty if their totals are complete."""
    told = []
    if layers.uncounted:
        count = "1 node" if len(layers.uncounted) == 1 else f"{len(layers.uncounted)} nodes"
        told.append(f"the MACs of {count} are unknown ({name_some(layers.uncounted, MAX_NAMED)})")
    if not layers.totals.weights_complete:
        told.append("unknown ops read tensors that may be weights")
    return told


def incomplete(found: Deployment) -> str | None:
    """The first caveat of a report with incomplete totals; None if they are complete."""
    told = gaps(found)
    meaning = "sums are lower bounds (≥), fps is an upper bound (≤), ratios cover what is known"
    return f"incomplete: {'; '.join(told)}: {meaning}" if told else None


def assumed_free(layers: Layers) -> str | None:
    """A sentence on the nodes that --assume-free counts as 0; None if there are none."""
    names = sorted(layers.free)
    return f"assumed free, counted as 0: {', '.join(names)}" if names else None


def require_complete(told: Sequence[str], layers: Layers, command: str, model: str) -> None:
    """Raises ParamError if `told`, the gaps in words, is not empty. `command` and `model` are names for the message."""
    if told:
        raise ParamError(f"{command}: --strict: {model}: {'; '.join(told)}; {remedy(layers)}")


def remedy(layers: Layers) -> str:
    """What the user can do about unknown costs."""
    sizes = layers.binding.unbound
    give = f"give open sizes with --input-shape ({'; '.join(sizes)}), or " if sizes else ""
    return f"{give}name nodes that cost nothing with --assume-free"
