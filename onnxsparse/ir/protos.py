"""What protobuf's Python classes lack."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
    from google.protobuf.message import Message

MessageT = TypeVar("MessageT", bound="Message")


def replace_all(field: "RepeatedCompositeFieldContainer[MessageT]", items: Sequence[MessageT]) -> None:
    """Set a repeated field; its present messages may be among the items."""
    copies = []
    for item in items:
        twin = type(item)()
        twin.CopyFrom(item)
        copies.append(twin)
    del field[:]
    field.extend(copies)
