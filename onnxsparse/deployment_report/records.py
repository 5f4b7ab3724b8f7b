"""The deployment report as JSON (described in docs/json.md), and limits on its totals."""

import operator
import re
from collections.abc import Sequence
from dataclasses import asdict

from onnxsparse.deployment import Deployment, Operation, Row
from onnxsparse.errors import ParamError
from onnxsparse.knee import Curve, curves_json

SCHEMA = 1

LIMIT = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+0-9.eE]+)\s*")
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def totals(found: Deployment) -> dict[str, float | int | None]:
    """What is compared between models, and limited by --fail-if. MB are 10⁶ bytes.

    Layers whose cost is unknown are left out; where all are, so are the sums: an unknown latency keeps no limit.
    """
    sums = found.load.layers.totals
    nothing = bool(found.rows) and not found.costs
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
    """The deployment report. Times are predictions unless the target measures; `fidelity` says how far to trust them."""
    _, peak = found.load.peak(found.precision.activation_bits)
    return {
        "schema": SCHEMA,
        "model": model,
        "target": found.backend.name,
        "fidelity": list(found.backend.fidelity),
        "precision": asdict(found.precision),
        "widths": {
            kind: {"float" if width is None else str(width): number for width, number in counts.items()}
            for kind, counts in found.load.widths().items()
        },
        "totals": totals(found) | {"mem_a_tensors": list(peak), "time_by_bound_ms": found.time_by_bound()},
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
        "assumed": list(found.load.layers.binding.assumed),
        "curve": curves_json(curves),
    }


COST_KEYS = (
    *("latency_ms", "compute_ms", "io_ms", "overhead_ms", "bound"),
    *("coefficient_bytes", "input_bytes", "output_bytes", "passes", "dram_bytes", "padded_channels"),
)


def row_json(row: Row) -> dict[str, object]:
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
    }
    if cost is None:
        return facts | dict.fromkeys(COST_KEYS) | {"reason": row.reason, "advice": None}
    known = {key: getattr(cost, key) for key in COST_KEYS} | {"bound": cost.bound.value}
    return facts | known | {"advice": None if row.advice is None else str(row.advice)}


def nonzero_macs(row: Row) -> int | None:
    """Of the whole layer, whose weights are taken to be used equally often."""
    item = row.item
    return item.macs if item.macs is None or not item.weights else round(item.macs * item.nonzeros / item.weights)


def comparison_json(found: Sequence[tuple[str, Deployment]]) -> dict[str, object]:
    """Several models: each report, and each total's difference to the first model's."""
    first = totals(found[0][1])
    return {
        "schema": SCHEMA,
        "models": [deployment_json(deployment, name) for name, deployment in found],
        "differences": [
            {"model": name} | {key: difference(value, first[key]) for key, value in totals(deployment).items()}
            for name, deployment in found[1:]
        ],
    }


def difference(value: float | None, first: float | None) -> float | None:
    return None if value is None or first is None else value - first


def exceeded(found: Deployment, limits: Sequence[str]) -> list[str]:
    """The limits that hold, as in `latency_ms>35`: each a reason to fail. Raises ParamError for one that cannot be read."""
    known = totals(found)
    reasons = []
    for limit in limits:
        match = LIMIT.fullmatch(limit)
        if match is None or match[1] not in known or not is_number(match[3]):
            raise ParamError(
                f"--fail-if '{limit}' is not a total, < or >, and a number, as in 'latency_ms>35'; totals: {', '.join(known)}"
            )
        value = known[match[1]]
        if value is None:
            reasons.append(f"{match[1]} is unknown (--fail-if '{limit}')")
        elif COMPARE[match[2]](value, float(match[3])):
            reasons.append(f"{match[1]} is {value:.6g} (--fail-if '{limit}')")
    return reasons


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
