"""What a cut tells its user: notes, a table of the groups, and why nothing can be cut."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from onnxsparse.channels.groups import Group, Solution
from onnxsparse.channels.plan import macs_at_stake
from onnxsparse.channels.proof import Proof
from onnxsparse.channels.versions import CutResult
from onnxsparse.format import format_count
from onnxsparse.ops.labels import Labels
from onnxsparse.records import TextTable


def told(solution: Solution, chosen: Labels, result: CutResult, proof: Proof | None) -> list[str]:
    """Notes for the user: how much was cut, which tensors were copied, and what the proof showed (None: it was not made)."""
    groups = sum(bool(np.isin(group.classes, chosen).any()) for group in solution.groups)
    notes = [f"{chosen.size} channels of {groups} groups were cut from {len({c.tensor for c in result.cuts})} tensors"]
    if result.copied:
        some = ", ".join(result.copied[:3]) + ("…" if len(result.copied) > 3 else "")
        notes.append(f"{len(result.copied)} tensors were copied, since the nodes that use them are cut differently: {some}")
    if proof is None:
        notes.append("the cut was not proven (--no-verify)")
        return notes
    worst = 0.0 if proof.worst_node is None else proof.worst_node.error
    notes.append(
        f"proven in onnxruntime: outputs equal the original's without those channels to {proof.output_error:.1e}, "
        f"each of {proof.nodes} nodes alone to {worst:.1e}"
    )
    if not proof.sensitive:
        notes.append(
            f"but other channels would have changed the outputs by only {proof.moved:.1e}, so that equal outputs prove little"
        )
    elif proof.rescaled:
        notes.append("the weights were rescaled for the proof: unscaled, no choice of channels changes the outputs")
    return notes


def groups_table(solution: Solution, chosen: Labels) -> TextTable:
    """One row per group of channels; "to cut" counts its channels in `chosen`."""
    rows = [
        (
            group.name,
            str(group.classes.size),
            str(group.width),
            str(int(np.isin(group.classes, chosen).sum())),
            format_count(macs_at_stake(solution, group)),
            str(len(group.members)),
        )
        for group in solution.groups
    ]
    return TextTable("groups", ("group", "channels", "width", "to cut", "MACs at stake", "tensors"), tuple(rows))


def why_nothing(solution: Solution, groups: list[Group]) -> str:
    """Why none of `groups`, those of `solution` that the options leave, can be cut, and what to do."""
    if not solution.groups:
        reasons = Counter(f.reason.split(" (")[0] for f in solution.frozen()) or Counter(solution.found.stopped.values())
        why = ", ".join(f"{count} × {reason}" for reason, count in reasons.most_common(3)) or "it has no layers with weights"
        open_sizes = "; ".join(solution.found.model.binding.unbound) if solution.found.open_sizes else ""
        hint = f"give the open sizes with --input-shape ({open_sizes})" if open_sizes else "see --plan"
        return f"all channels have to stay ({why}); {hint}"
    if not groups:
        return "--only and --exclude leave nothing"
    largest = max(int(group.classes.size) * group.width for group in groups)
    return f"no group gets smaller when it is rounded to --round-to (the largest has {largest} channels); see --plan"


def unmeasured(groups: Sequence[Group]) -> list[str]:
    """A note about groups whose loss data cannot measure."""
    if not groups:
        return []
    some = ", ".join(group.name for group in groups[:3]) + ("…" if len(groups) > 3 else "")
    return [f"{len(groups)} groups are read by no layer that can be measured; their channels were chosen by weights: {some}"]
