"""Helpers for protobuf's Python classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import onnx

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
    from google.protobuf.message import Message

MessageT = TypeVar("MessageT", bound="Message")


def replace_all(field: "RepeatedCompositeFieldContainer[MessageT]", items: Sequence[MessageT]) -> None:
    """Replace the content of a repeated field by `items`, which may contain messages of the field itself."""
    copies = []
    for item in items:
        twin = type(item)()
        twin.CopyFrom(item)
        copies.append(twin)
    del field[:]
    field.extend(copies)


STANDARD_DOMAINS = ("", "ai.onnx")
"""The two names of the domain of the operators that onnx defines."""


def opset_of(proto: onnx.ModelProto, domain: str = "") -> int:
    """The imported version of an operator domain, 0 if it is not imported."""
    names = STANDARD_DOMAINS if domain in STANDARD_DOMAINS else (domain,)
    return max((entry.version for entry in proto.opset_import if entry.domain in names), default=0)


def opsets_of(proto: onnx.ModelProto) -> dict[str, int]:
    """Operator domain → imported version. The standard domain has both of its names, whichever the model imports."""
    found = {entry.domain: entry.version for entry in proto.opset_import}
    standard = opset_of(proto)
    return found | dict.fromkeys(STANDARD_DOMAINS if standard else (), standard)
