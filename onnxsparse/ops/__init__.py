"""Op knowledge: one file per op family, one `OpSpec` per op. No other room compares op types."""

from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points

from onnxsparse.errors import ParamError
from onnxsparse.ir.protos import STANDARD_DOMAINS
from onnxsparse.ops import (
    attention,
    control,
    convolution,
    einsum,
    elementwise,
    embedding,
    experts,
    matmul,
    movement,
    qlinear,
    quantization,
    recurrent,
    reduction,
    sequences,
    slicing,
    sources,
)
from onnxsparse.ops.facets import ChannelRules, CostRules, FoldRules, Quant, QuantRules, Scaling, ShapeRules, Sign, View, Work
from onnxsparse.ops.forms import FloatForm, Operand
from onnxsparse.ops.sizes import UnknownFact
from onnxsparse.ops.spec import Body, OpSpec, Packing, WeightAxes, WeightSlot
from onnxsparse.ops.view import OpView

GROUP = "onnxsparse.ops"
"""Entry-point group for other packages: any name → `module:SPECS`, an iterable of OpSpec."""

FAMILIES = (
    attention,
    control,
    convolution,
    einsum,
    elementwise,
    embedding,
    experts,
    matmul,
    movement,
    qlinear,
    quantization,
    recurrent,
    reduction,
    sequences,
    slicing,
    sources,
)
"""Modules with a tuple SPECS, one per op family."""


@cache
def table() -> dict[tuple[str, str], tuple[OpSpec, ...]]:
    """(domain, op type) → its specs, newest version first. Raises ParamError as `third_party` does."""
    found: dict[tuple[str, str], tuple[OpSpec, ...]] = {}
    for spec in (*(spec for family in FAMILIES for spec in family.SPECS), *third_party()):
        key = (spec.domain, spec.op_type)
        found[key] = tuple(sorted((*found.get(key, ()), spec), key=lambda s: -s.since))
    return found


def third_party() -> Iterator[OpSpec]:
    """OpSpecs of other packages, from the entry points of GROUP.

    Raises ParamError if an entry point cannot be loaded, yields something else, or describes an op of onnx's own domains.
    """
    for point in entry_points(group=GROUP):
        who = point.dist.name if point.dist else point.module
        try:
            specs = tuple(point.load())
        except (ImportError, AttributeError, TypeError) as error:
            raise ParamError(f"the ops of {who} (entry point '{point.name}') cannot be loaded: {error}") from None
        for spec in specs:
            if not isinstance(spec, OpSpec) or spec.domain in STANDARD_DOMAINS:
                raise ParamError(
                    f"the ops of {who} (entry point '{point.name}') must be OpSpecs of its own domains, not {spec!r}"
                )
            yield spec


def find(domain: str, op_type: str, version: int) -> OpSpec | None:
    """The spec of an op at the imported version of its domain. None for an unknown op."""
    specs = table().get(("" if domain in STANDARD_DOMAINS else domain, op_type), ())
    return next((spec for spec in specs if spec.since <= max(version, 1)), None)


__all__ = [
    "STANDARD_DOMAINS",
    "Body",
    "ChannelRules",
    "CostRules",
    "FloatForm",
    "FoldRules",
    "OpSpec",
    "OpView",
    "Operand",
    "Packing",
    "Quant",
    "QuantRules",
    "Scaling",
    "ShapeRules",
    "Sign",
    "UnknownFact",
    "View",
    "WeightAxes",
    "WeightSlot",
    "Work",
    "find",
    "table",
]
