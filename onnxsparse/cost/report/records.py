"""The deployment report as JSON (described in docs/json.md), and limits on its totals."""

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated

from onnxsparse.cost.backends.base import Bound
from onnxsparse.cost.estimate import Deployment, Operation, Row
from onnxsparse.cost.report.completeness import gaps, marks, remedy
from onnxsparse.cost.sparsity_sweep import Curve, curves_json
from onnxsparse.errors import ParamError
from onnxsparse.format import marked
from onnxsparse.ir.option_roles import Role

SCHEMA = 1

LIMIT = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+0-9.eE]+)\s*")
COMPARE: dict[str, Callable[[float, float], bool]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}

TOTALS = (
    *("latency_ms", "latency_ms_low", "latency_ms_high", "fps", "macs", "nonzero_macs", "sparsity", "sparsity_op"),
    *("mem_p_mb", "mem_a_mb", "dram_mb"),
)
"""The keys of `totals`, on which limits are possible."""


def totals(found: Deployment) -> dict[str, float | int | None]:
    """Total → value, for comparisons between models and limits of --fail-if. MB are 10⁶ bytes.

    Layers of unknown cost are left out, so that sums are bounds (`completeness.marks`). Sums are None if no layer has a known
    cost.
    """
    sums = found.load.layers.totals
    nothing = bool(found.unknown) and all(found.load.is_free(row.item) for row in found.rows if row.cost is not None)
    return {
        "latency_ms": None if nothing else found.latency_ms,
        "latency_ms_low": None if nothing else min(found.variants.values()),
        "latency_ms_high": None if nothing else max(found.variants.values()),
        "fps": found.fps,
        "macs": sums.macs,
        "nonzero_macs": sums.nonzero_macs,
        "sparsity": sums.sparsity,
        "sparsity_op": sums.sparsity_op,
        "mem_p_mb": None if nothing else found.mem_p_mb,
        "mem_a_mb": found.mem_a_mb,
        "dram_mb": None if nothing else found.dram_mb,
    }


def deployment_json(
    found: Deployment, model: str, curves: tuple[Curve, ...] = (), operation: Operation | None = None
) -> dict[str, object]:
    """The deployment report as docs/json.md describes it.

    Times are predictions unless the target measures; `fidelity` says how far to trust them. `operation` None: no rate is known.
    """
    _, peak = found.load.peak(found.precision.activation_bits)
    return {
        "schema": SCHEMA,
        "model": model,
        "target": found.backend.name,
        "fidelity": list(found.backend.fidelity),
        "complete": found.complete,
        "incomplete": gaps(found),
        "precision": asdict(found.precision),
        "widths": {
            kind: {"float" if width is None else str(width): number for width, number in counts.items()}
            for kind, counts in found.load.widths().items()
        },
        "totals": totals(found)
        | {"mem_a_tensors": list(peak), "time_by_bound_ms": found.time_by_bound(), "complete": found.complete},
        "operation": None if operation is None else asdict(operation),
        "fps_budget": found.fps_budget,
        "variants_ms": found.variants,
        "sensitivity": [{"number": s.number, "low_ms": s.low_ms, "high_ms": s.high_ms} for s in found.spans],
        "measure_next": None if found.narrowing is None else asdict(found.narrowing),
        "tail": None if found.tail is None else asdict(found.tail) | {"bytes": found.tail.bytes},
        "layers": [row_json(row) for row in found.rows],
        "other_ms": found.other_ms,
        "memory_bytes": found.memory_bytes,
        "unknown": [{"node": row.item.node, "op_type": row.item.op_type, "reason": row.reason} for row in found.unknown],
        "assumed_free": sorted(found.load.free),
        "assumed": list(found.load.layers.binding.assumed),
        "curve": curves_json(curves),
    }


COST_KEYS = (
    *("latency_ms", "compute_ms", "io_ms", "overhead_ms", "bound"),
    *("coefficient_bytes", "input_bytes", "output_bytes", "passes", "dram_bytes", "padded_channels"),
)


def row_json(row: Row) -> dict[str, object]:
    """One entry of `layers`; the keys of the cost are None if it is unknown, and `reason` says why."""
    item, cost = row.item, row.cost
    facts: dict[str, object] = {
        "node": item.node,
        "op_type": item.op_type,
        "fused": list(item.fused),
        "macs": item.macs,
        "nonzero_macs": nonzero_macs(row),
        "weights": item.weights,
        "nonzeros": item.nonzeros,
        "density": item.nonzeros / item.weights if item.weights else None,
        "sparsity_op": item.weight_share,
        "two_of_four": item.two_of_four,
    }
    if cost is None:
        return facts | dict.fromkeys(COST_KEYS) | {"reason": row.reason, "advice": None}
    known = {key: getattr(cost, key) for key in COST_KEYS} | {"bound": cost.bound.value}
    sizes = {"input_bytes": item.reads, "output_bytes": item.writes}
    # a measured layer has a time even if the sizes of its inputs and outputs are unknown
    known |= {key: None for key, volumes in sizes.items() if volumes is None and cost.bound is not Bound.FREE}
    return facts | known | {"reason": None, "advice": None if row.advice is None else str(row.advice)}


def nonzero_macs(row: Row) -> int | None:
    """MACs on nonzero weights, assuming that all weights of the layer are used equally often; None if the MACs are unknown."""
    item = row.item
    return item.macs if item.macs is None or not item.weights else round(item.macs * item.nonzeros / item.weights)


def comparison_json(found: Sequence[tuple[str, Deployment]]) -> dict[str, object]:
    """Several (name, deployment): each report, and the differences of its totals to the first model's."""
    return {
        "schema": SCHEMA,
        "complete": all(deployment.complete for _, deployment in found),
        "models": [deployment_json(deployment, name) for name, deployment in found],
        "differences": [{"model": name} | differences(deployment, found[0][1]) for name, deployment in found[1:]],
    }


def differences(found: Deployment, first: Deployment) -> dict[str, float | None]:
    """Total → value minus the first model's; None if one of the two is unknown or a bound."""
    ours, theirs = totals(found), totals(first)
    bounds = marks(found).keys() | marks(first).keys()
    return {name: None if name in bounds else difference(value, theirs[name]) for name, value in ours.items()}


def difference(value: float | None, first: float | None) -> float | None:
    """`value` minus `first`; None if one of them is."""
    return None if value is None or first is None else value - first


def exceeded(found: Deployment, limits: Sequence[str]) -> list[str]:
    """The reasons to fail, in words; empty if there are none. A limit is written like `latency_ms>35` and fails if it is true.

    A limit on a total that is unknown or a bound always fails; what is unknown is then listed first, and what to do about it
    last. Raises ParamError for a limit that cannot be read.
    """
    known, bounds = totals(found), marks(found)
    reasons = []
    for limit in limits:
        name, compare, end = read_limit(limit)
        value, mark = known[name], bounds.get(name)
        if value is None:
            reasons.append(f"{name} is unknown (--fail-if '{limit}')")
        elif mark is not None or compare(value, end):
            reasons.append(f"{name} is {marked(f'{value:.6g}', mark)} (--fail-if '{limit}')")
    partial = any(known[name] is None or name in bounds for name, _, _ in (read_limit(limit) for limit in limits))
    missing = gaps(found) if partial else []
    return [*missing, *reasons, remedy(found.load.layers)] if missing else reasons


def read_limit(limit: str) -> tuple[str, Callable[[float, float], bool], float]:
    """A total's name, the comparison that fails, and its limit. Raises ParamError for anything else."""
    match = LIMIT.fullmatch(limit)
    if match is None or match[1] not in TOTALS or not is_number(match[3]):
        raise ParamError(
            f"--fail-if '{limit}' is not a total, < or >, and a number, as in 'latency_ms>35'; totals: {', '.join(TOTALS)}"
        )
    return match[1], COMPARE[match[2]], float(match[3])


Limit = Annotated[str, Role(lambda limit, _option: read_limit(limit))]
"""A limit of --fail-if, such as `latency_ms>35`."""


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
