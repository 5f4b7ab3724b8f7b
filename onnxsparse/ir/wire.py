"""The part of protobuf's wire format that is needed to take large tensor payloads out of an ONNX file and put them back.

protobuf gives a new copy of `raw_data` at every access, so weights cannot be viewed through it. Reading and writing therefore
work on the bytes of the file:

Reading (`lift`)
1. Go through the fields of the ModelProto, and open a nested message only if it is long enough to hold a large payload.
2. In a TensorProto, cut out the payload if it has BULK_BYTES or more, and note its place in the file (`FileSpan`).
3. Put a mark in its place: an `external_data` entry whose location is LIFTED_LOCATION and whose offset is the payload's number.
4. Correct the lengths of all messages around it. protobuf parses the result, the skeleton.

Writing (`splice`) is the inverse
1. Find the marks in the serialised skeleton, and open only messages that hold one.
2. Replace each mark by the header of the payload's field, and a `Payload` in the list of pieces.
3. The caller writes the pieces one after the other, payloads from wherever their bytes are.

Source of the format: https://protobuf.dev/programming-guides/encoding/ and onnx.proto3.
"""

import re
import secrets
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from onnxsparse.errors import ModelError

BULK_BYTES = 1024
"""Smallest payload in bytes that is lifted. Shape tensors and scalars are smaller, and stay where shape inference reads them."""

LIFTED_LOCATION = f"lifted-{secrets.token_hex(8)}"
"""`external_data` location that marks a lifted payload. Random for each process, so that no file can contain it on purpose."""

MAX_DEPTH = 64
"""Deepest nesting of messages that is read. protobuf itself stops at 100."""


class Kind(Enum):
    """The ONNX messages in which tensor payloads live."""

    MODEL = auto()
    TRAINING = auto()
    GRAPH = auto()
    FUNCTION = auto()
    NODE = auto()
    ATTRIBUTE = auto()
    TENSOR = auto()


# message → field number → message in that field; sparse tensors are not lifted, protobuf parses them
CHILDREN: dict[Kind, dict[int, Kind]] = {
    Kind.MODEL: {7: Kind.GRAPH, 20: Kind.TRAINING, 25: Kind.FUNCTION},
    Kind.TRAINING: {1: Kind.GRAPH, 2: Kind.GRAPH},
    Kind.GRAPH: {1: Kind.NODE, 5: Kind.TENSOR},
    Kind.FUNCTION: {7: Kind.NODE, 11: Kind.ATTRIBUTE},
    Kind.NODE: {5: Kind.ATTRIBUTE},
    Kind.ATTRIBUTE: {5: Kind.TENSOR, 6: Kind.GRAPH, 10: Kind.TENSOR, 11: Kind.GRAPH},
}

# TensorProto fields
FLOAT_DATA, RAW_DATA, DOUBLE_DATA, EXTERNAL_DATA, DATA_LOCATION = 4, 9, 10, 13, 14
# fields whose packed bytes are the little-endian elements themselves
FLAT_FIELDS = {RAW_DATA, FLOAT_DATA, DOUBLE_DATA}

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class FileSpan:
    """Bytes [offset, offset + length) of the file, which were the TensorProto field `field`."""

    offset: int
    length: int
    field: int


@dataclass(frozen=True)
class Field:
    """One field of a message, as positions in that message: the tag starts at `start`, the value is at [body, end)."""

    number: int
    wire_type: int
    start: int
    body: int
    end: int


@dataclass(frozen=True)
class Payload:
    """A place in a spliced message where the bytes of payload `index` belong."""

    index: int


Piece = memoryview | bytes | Payload


@dataclass(frozen=True)
class Rewritten:
    """A message as consecutive pieces, and its length in bytes."""

    pieces: list[Piece]
    length: int


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """The variable-length integer at position `at`, and the position after it. Raises ModelError for truncated data."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ModelError("the file is truncated or not an ONNX model")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def varint(value: int) -> bytes:
    """The encoding of a non-negative integer: seven bits a byte, low bits first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, wire_type: int) -> bytes:
    """The encoded key that precedes a field's value."""
    return varint(number << 3 | wire_type)


def fields(data: memoryview) -> Iterator[Field]:
    """The fields of one message, in file order. Raises ModelError for bytes that are not a protobuf message."""
    at = 0
    while at < len(data):
        start = at
        key, at = read_varint(data, at)
        number, wire_type = key >> 3, key & 7
        body = at
        if wire_type == VARINT:
            _, at = read_varint(data, at)
        elif wire_type == BYTES:
            length, body = read_varint(data, at)
            at = body + length
        elif wire_type in (FIXED64, FIXED32):
            at += 8 if wire_type == FIXED64 else 4
        else:
            raise ModelError("the file is not an ONNX model (unknown protobuf wire type)")
        if at > len(data) or number == 0:
            raise ModelError("the file is truncated or not an ONNX model")
        yield Field(number, wire_type, start, body, at)


TensorRewrite = Callable[[memoryview, int], Rewritten | None]
"""Called with a tensor message and its file offset. Returns the message to put in its place, or None to keep it."""


Worth = Callable[[int, int], bool]
"""Whether the message at file positions [start, end) has to be opened."""


def rewrite(data: memoryview, offset: int, kind: Kind, tensor: TensorRewrite, worth: Worth, depth: int = 0) -> Rewritten:
    """The message `data`, of which `worth` selects the nested messages to open, after `tensor` was applied to each TensorProto.

    `offset`: position of `data` in the file. `depth`: number of messages around it. Raises ModelError for messages that are
    damaged or nested more than MAX_DEPTH deep.
    """
    if depth > MAX_DEPTH:
        raise ModelError(f"messages are nested more than {MAX_DEPTH} deep")
    pieces: list[Piece] = []
    length = kept = 0
    for field in fields(data):
        child = CHILDREN[kind].get(field.number)
        if child is None or field.wire_type != BYTES or not worth(offset + field.body, offset + field.end):
            continue
        inner = data[field.body : field.end]
        if child is Kind.TENSOR:
            new = tensor(inner, offset + field.body)
        else:
            new = rewrite(inner, offset + field.body, child, tensor, worth, depth + 1)
        if new is None:
            continue
        head = tag(field.number, BYTES) + varint(new.length)
        pieces += [data[kept : field.start], head, *new.pieces]
        length += field.start - kept + len(head) + new.length
        kept = field.end
    pieces.append(data[kept:])
    return Rewritten(pieces, length + len(data) - kept)


def string_entry(key: str, value: str) -> bytes:
    """An encoded `external_data` entry of a TensorProto."""
    parts = b"".join(tag(n, BYTES) + varint(len(s)) + s for n, s in ((1, key.encode()), (2, value.encode())))
    return tag(EXTERNAL_DATA, BYTES) + varint(len(parts)) + parts


DEFAULT_LOCATION = tag(DATA_LOCATION, VARINT) + varint(0)
"""The field data_location with the value DEFAULT, which some files write although it is the default."""


def mark(payload: int, located: bool) -> bytes:
    """The fields that replace a lifted payload. `located`: whether the tensor had an explicit data_location DEFAULT."""
    entries = string_entry("location", LIFTED_LOCATION) + string_entry("offset", str(payload))
    if located:
        entries += string_entry("located", "")
    return entries + tag(DATA_LOCATION, VARINT) + varint(1)


def lift(data: memoryview) -> tuple[bytes, list[FileSpan]]:
    """The bytes of a ModelProto without its large payloads, and the places of these: mark *i* stands for span *i*.

    Raises ModelError for bytes that are truncated or not an ONNX model.
    """
    spans: list[FileSpan] = []

    def lift_tensor(message: memoryview, offset: int) -> Rewritten | None:
        """The tensor with a mark in place of its payload; None for one that is small, external or not stored as plain bytes."""
        found = list(fields(message))
        flat = [f for f in found if f.number in FLAT_FIELDS and f.wire_type == BYTES and f.end > f.body]
        if len(flat) != 1 or flat[0].end - flat[0].body < BULK_BYTES or any(f.number == EXTERNAL_DATA for f in found):
            return None
        payload = flat[0]
        spans.append(FileSpan(offset + payload.body, payload.end - payload.body, payload.number))
        marked = mark(len(spans) - 1, located=any(f.number == DATA_LOCATION for f in found))
        rest: list[memoryview | bytes] = [message[: payload.start], message[payload.end :], marked]
        return Rewritten([*rest], sum(map(len, rest)))

    skeleton = rewrite(data, 0, Kind.MODEL, lift_tensor, lambda start, end: end - start >= BULK_BYTES)
    return b"".join(p for p in skeleton.pieces if not isinstance(p, Payload)), spans


def splice(skeleton: bytes, describe: Callable[[int], tuple[int, int]]) -> Rewritten:
    """`skeleton` with a `Payload` in place of each mark. `describe(i)`: TensorProto field and length in bytes of payload *i*."""

    def splice_tensor(message: memoryview, _offset: int) -> Rewritten | None:
        """The tensor with its payload in place of the mark; None for a tensor without a mark."""
        kept, index = unmark(message)
        if index is None:
            return None
        number, size = describe(index)
        head = tag(number, BYTES) + varint(size)
        return Rewritten([*kept, head, Payload(index)], sum(map(len, kept)) + len(head) + size)

    marks = [m.start() for m in re.finditer(LIFTED_LOCATION.encode(), skeleton)]

    def holds_mark(start: int, end: int) -> bool:
        """Whether a mark starts in [start, end) of the skeleton."""
        return bisect_left(marks, start) < bisect_left(marks, end)

    return rewrite(memoryview(skeleton), 0, Kind.MODEL, splice_tensor, holds_mark)


def unmark(message: memoryview) -> tuple[list[memoryview | bytes], int | None]:
    """The fields of a tensor without its mark, and the number of the payload that the mark stands for (None: no mark)."""
    kept: list[memoryview | bytes] = []
    entries: dict[bytes, bytes] = {}
    for field in fields(message):
        value = message[field.body : field.end]
        if field.number == EXTERNAL_DATA:
            parts = {f.number: bytes(value[f.body : f.end]) for f in fields(value)}
            entries[parts.get(1, b"")] = parts.get(2, b"")
        elif field.number != DATA_LOCATION:
            kept.append(message[field.start : field.end])
    if b"located" in entries:
        kept.append(DEFAULT_LOCATION)
    lifted = entries.get(b"location") == LIFTED_LOCATION.encode()
    return kept, int(entries[b"offset"]) if lifted else None
