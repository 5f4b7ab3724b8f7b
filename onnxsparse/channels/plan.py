"""A cut as a JSON file, from which it can be repeated here or in a training framework. Format: docs/json.md."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from onnxsparse.analysis.layer import Layers
from onnxsparse.channels.groups import Group, Solution
from onnxsparse.channels.proof import Proof
from onnxsparse.channels.versions import CutResult, TensorCut
from onnxsparse.errors import ParamError
from onnxsparse.ir.model import Model
from onnxsparse.ops.coupling import Role
from onnxsparse.ops.labels import Labels

SCHEMA = 1


def plan_json(
    model: Model, facts: Layers, solution: Solution, chosen: Labels, result: CutResult, proof: Proof | None
) -> dict[str, object]:
    """Groups, cuts per tensor, channels that stay with reasons, and the proof (None: not made).

    `facts`: of the uncut model. `chosen`: classes that were cut.
    """
    return {
        "schema": SCHEMA,
        "model": model.name,
        "complete": facts.totals.complete,
        "groups": [group_json(solution, group, chosen) for group in solution.groups],
        "cuts": [
            {"tensor": c.tensor, "axis": c.axis, "removed": list(c.removed), "role": c.role, "size": c.size} for c in result.cuts
        ],
        "copied": list(result.copied),
        "frozen": [asdict(frozen) for frozen in solution.frozen()],
        "proof": None if proof is None else asdict(proof) | {"holds": proof.holds, "sensitive": proof.sensitive},
    }


def group_json(solution: Solution, group: Group, chosen: Labels) -> dict[str, object]:
    """One group: its members, its channels, and how many are cut."""
    return {
        "name": group.name,
        "channels": int(group.classes.size),
        "width": group.width,
        "cut": int(np.isin(group.classes, chosen).sum()),
        "macs_at_stake": macs_at_stake(solution, group),
        "members": [{"node": m.node, "tensor": m.tensor, "axis": m.axis, "role": m.role.value} for m in group.members],
    }


def macs_at_stake(solution: Solution, group: Group) -> int:
    """Multiply-accumulates saved by cutting all channels of the group but one, all other groups whole."""
    nothing = solution.removal(np.zeros(0, np.int64))
    return solution.macs(nothing) - solution.macs(solution.removal(group.classes[1:]))


def read_cuts(path: Path) -> list[TensorCut]:
    """The cuts in a plan. Raises ParamError if the file cannot be read, or is no plan."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [read_cut(entry) for entry in content["cuts"]]
    except (OSError, UnicodeDecodeError) as error:
        raise ParamError(f"cannot read the plan {path}: {getattr(error, 'strerror', None) or error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ParamError(f"{path} is not a plan from prune-channels --json: {error}") from None


def read_cut(entry: Mapping[str, object]) -> TensorCut:
    """One cut. Raises ValueError or KeyError for an entry that is no cut."""
    removed, size = entry["removed"], entry["size"]
    if not isinstance(removed, list) or not all(type(i) is int for i in removed) or type(size) is not int:
        raise ValueError("'removed' must be a list of indices and 'size' an integer")
    if any(not 0 <= i < size for i in removed):
        raise ValueError(f"'removed' of '{entry['tensor']}' has an index outside of its {size} channels")
    return TensorCut(str(entry["tensor"]), int(str(entry["axis"])), tuple(removed), str(entry["role"]), size)


def classes_of(cuts: Sequence[TensorCut], model: Model, solution: Solution, source: Path) -> Labels:
    """The classes that a plan cuts from this model.

    A per-channel tensor that is missing, such as a normalisation that was folded since, is skipped: its channels are cut with
    their layer. Raises ParamError if the plan does not fit the model, or cuts all channels of a group.
    """
    chosen: list[Labels] = []
    by_tensor = {(use.tensor, axis): labels for use in solution.found.uses for axis, labels in enumerate(use.axes)}
    for cut in cuts:
        if cut.tensor not in model.weights and cut.role == Role.PER_CHANNEL.value:
            continue
        if cut.tensor not in model.weights:
            raise ParamError(f"{source}: {model.name} has no tensor '{cut.tensor}'")
        labels = by_tensor.get((cut.tensor, cut.axis))
        if labels is None or labels.size != cut.size:
            raise ParamError(f"{source}: axis {cut.axis} of '{cut.tensor}' does not have {cut.size} channels in {model.name}")
        chosen.append(solution.classes.root[labels[list(cut.removed)]])
    found = np.unique(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
    if not found.size:
        raise ParamError(f"{source}: it cuts nothing")
    if any(np.isin(group.classes, found).all() for group in solution.groups):
        raise ParamError(f"{source}: it cuts all channels of a group of {model.name}")
    if solution.classes.frozen[found].any():
        raise ParamError(
            f"{source}: it cuts channels that cannot be cut from {model.name}; see --plan (or was it made with --cut-norms?)"
        )
    return found
