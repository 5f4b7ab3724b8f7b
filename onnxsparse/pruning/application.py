"""Pruning of single tensors: their items by the pattern, and zeros for the chosen ones."""

from collections.abc import Sequence
from typing import Literal

from onnxsparse.ir.model import Model
from onnxsparse.pruning.candidates import Candidate
from onnxsparse.pruning.items import Blocks, Elements
from onnxsparse.pruning.plan import Ranking
from onnxsparse.pruning.select import Choice
from onnxsparse.pruning.sparsity_pattern import BlockPattern, GroupPattern
from onnxsparse.records import Change, Skip


def split_blockless(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Skip]]:
    """Candidates with known output and input axes, in which blocks are defined, and the others with the reason."""
    blocked = [c for c in candidates if None not in (stored_axis(c, "output"), stored_axis(c, "input"))]
    reason = "its output and input axes are unknown"
    return blocked, [Skip(node, reason) for c in candidates if c not in blocked for node in c.nodes]


def make_items(model: Model, candidate: Candidate, pattern: BlockPattern | None) -> Elements | Blocks:
    """The items of a candidate: blocks for a block pattern, else (None) elements."""
    nonzeros = candidate.elements - candidate.zeros
    output, inputs = stored_axis(candidate, "output"), stored_axis(candidate, "input")
    if pattern is None or output is None or inputs is None:
        return Elements(model.weights, candidate.stored, nonzeros)
    return Blocks(model.weights, candidate.stored, nonzeros, pattern.rows, pattern.columns, output, inputs)


def stored_axis(candidate: Candidate, which: Literal["input", "output"]) -> int | None:
    """The axis of the stored tensor along which the op's input or output channels lie; None if it is unknown."""
    axes, seen = candidate.stored.axes, candidate.use.axes
    if axes is None or seen is None or max(seen.input, seen.output) >= len(axes):
        return None
    return axes[seen.input if which == "input" else seen.output]


def why_no_groups(model: Model, candidate: Candidate, axis: int | None, pattern: GroupPattern, *, protect: bool) -> str | None:
    """Why a tensor cannot take an N:M pattern along `axis` (None: unknown); None if it can."""
    if protect and candidate.protected is not None:
        return f"protected: {candidate.protected}"
    if axis is None:
        return "its input axis is unknown"
    size = model.weights.shape(candidate.name)[axis]
    if size % pattern.group:
        return f"its input axis has {size} elements, not a multiple of {pattern.group}"
    return None


def apply(model: Model, ranking: Ranking, choice: Choice) -> Change:
    """Zero the chosen items of one tensor; elements and zeros before and after."""
    candidate = ranking.candidate
    model.weights.assign_parts(candidate.name, ranking.items.zeroed(choice))
    after = candidate.zeros + choice.gain
    return Change(candidate.name, candidate.nodes, candidate.elements, candidate.zeros, after)
