"""Model metadata: how entries are written and removed, and which tensor a new one was made from."""

import json
from collections.abc import Iterable

import onnx

PREFIX = "onnxsparse."


NAMES = f"{PREFIX}names"
"""New tensor → the tensor of the original model that it was made from; it stays when annotations are stripped."""


def names(proto: onnx.ModelProto) -> dict[str, str]:
    """New tensor → the original one it was made from."""
    found: dict[str, str] = next((json.loads(e.value) for e in proto.metadata_props if e.key == NAMES), {})
    return found


def remember_names(proto: onnx.ModelProto, made: dict[str, str]) -> None:
    """Add to what is known of tensors made from others; chains lead to the original."""
    known = names(proto)
    found = known | {new: known.get(old, old) for new, old in made.items()}
    remove(proto, [NAMES])
    if found:
        proto.metadata_props.add(key=NAMES, value=compact(found))


def remove(holder: onnx.ModelProto | onnx.NodeProto, keys: Iterable[str]) -> int:
    keys = set(keys)
    kept = [(e.key, e.value) for e in holder.metadata_props if e.key not in keys]
    removed = len(holder.metadata_props) - len(kept)
    if removed:
        del holder.metadata_props[:]
        for key, value in kept:
            holder.metadata_props.add(key=key, value=value)
    return removed


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
