"""Op knowledge: one file per op family, one `OpSpec` per op, and nothing about ops anywhere else."""

from functools import cache

from onnxsparse.model import STANDARD_DOMAINS
from onnxsparse.ops import attention, control, convolution, elementwise, matmul, movement, quantization, recurrent, reduction
from onnxsparse.ops.spec import Body, OpSpec, OpView, Packing, UnknownFact, View, WeightAxes, WeightSlot

FAMILIES = (attention, control, convolution, elementwise, matmul, movement, quantization, recurrent, reduction)


@cache
def table() -> dict[tuple[str, str], tuple[OpSpec, ...]]:
    """(domain, op type) → what is known of it, newest version first."""
    found: dict[tuple[str, str], tuple[OpSpec, ...]] = {}
    for spec in (spec for family in FAMILIES for spec in family.SPECS):
        key = (spec.domain, spec.op_type)
        found[key] = tuple(sorted((*found.get(key, ()), spec), key=lambda s: -s.since))
    return found


def find(domain: str, op_type: str, version: int) -> OpSpec | None:
    """What is known of an op at the imported version of its domain; None for an unknown op."""
    specs = table().get(("" if domain in STANDARD_DOMAINS else domain, op_type), ())
    return next((spec for spec in specs if spec.since <= max(version, 1)), None)


__all__ = [
    "STANDARD_DOMAINS",
    "Body",
    "OpSpec",
    "OpView",
    "Packing",
    "UnknownFact",
    "View",
    "WeightAxes",
    "WeightSlot",
    "find",
    "table",
]
