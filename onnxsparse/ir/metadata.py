"""Entries of model and node metadata: written, removed, and the names of tensors made from others."""

import json
from collections.abc import Iterable

import onnx

PREFIX = "onnxsparse."
"""Prefix of this package's keys in a model's metadata."""


NAMES = f"{PREFIX}names"
"""Key of a JSON object: new tensor → the tensor of the original model that it was made from. `strip` keeps it."""


def names(proto: onnx.ModelProto) -> dict[str, str]:
    """New tensor → the tensor of the original model that it was made from. Empty if none is recorded."""
    found: dict[str, str] = next((json.loads(e.value) for e in proto.metadata_props if e.key == NAMES), {})
    return found


def remember_names(proto: onnx.ModelProto, made: dict[str, str]) -> None:
    """Record new tensors (`made`: new → source) in the model's metadata.

    A source that is itself new is replaced by its original.
    """
    known = names(proto)
    found = known | {new: known.get(old, old) for new, old in made.items()}
    remove(proto, [NAMES])
    if found:
        proto.metadata_props.add(key=NAMES, value=compact(found))


def remove(holder: onnx.ModelProto | onnx.NodeProto, keys: Iterable[str]) -> int:
    """Remove the entries with these keys. Returns how many were removed."""
    keys = set(keys)
    kept = [(e.key, e.value) for e in holder.metadata_props if e.key not in keys]
    removed = len(holder.metadata_props) - len(kept)
    if removed:
        del holder.metadata_props[:]
        for key, value in kept:
            holder.metadata_props.add(key=key, value=value)
    return removed


def compact(value: object) -> str:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))
