"""Sequences of tensors and optional values. What is known of a sequence is the shapes of its elements, in order.

A rule raises UnknownFact if it lacks a fact. Source: the ONNX operator pages of the ops in RULES.
"""

import numpy as np

from onnxsparse.ops.facets import CostRules, ShapeRules, Work
from onnxsparse.ops.parts import Sequences
from onnxsparse.ops.shapes import joined
from onnxsparse.ops.sizes import UnknownFact, counted
from onnxsparse.ops.spec import OpSpec


def make_empty(s: Sequences) -> None:
    """A sequence without elements."""
    s.made = ()


def construct(s: Sequences) -> None:
    """A sequence of the inputs."""
    s.made = s.op.inputs


def insert(s: Sequences) -> None:
    """Insert input 1 before a position (input 2), or at the end. Raises UnknownFact if there is no input 1."""
    parts = s.parts(0)
    if not s.op.has_input(1):
        raise UnknownFact("it has no element to insert")
    at = s.position(2, len(parts), len(parts)) if s.op.has_input(2) else len(parts)
    s.made = (*parts[:at], s.op.inputs[1], *parts[at:])


def erase(s: Sequences) -> None:
    """Remove the element at a position (input 1), or the last."""
    parts = s.parts(0)
    at = s.position(1, len(parts), len(parts) - 1) if s.op.has_input(1) else len(parts) - 1
    s.made = (*parts[:at], *parts[at + 1 :])


def pick(s: Sequences) -> None:
    """The shape of the element at a position (input 1); the position need not be known if all elements have one shape."""
    parts = s.parts(0)
    s.shape = parts[0] if len(set(parts)) == 1 else None
    s.shape = parts[s.position(1, len(parts), len(parts) - 1)]


def measure(s: Sequences) -> None:
    """The number of elements."""
    s.shape, s.value = (), np.array(len(s.parts(0)), np.int64)


def split(s: Sequences) -> None:
    """Split along `axis` into given sizes, pieces of one size (the last may be smaller), or single slices."""
    whole = s.op.partial(0)
    axis = s.op.axis(0, len(whole))
    if not s.op.has_input(1):
        one = (1,) if s.op.number("keepdims", 1) else ()
        s.made = ((*whole[:axis], *one, *whole[axis + 1 :]),) * s.op.input(0)[axis]
        return
    sizes = s.op.integers(1)
    if s.op.inputs[1] == ():
        size, piece = s.op.input(0)[axis], max(s.op.integer(1), 1)
        sizes = tuple(min(piece, size - start) for start in range(0, size, piece))
    s.made = tuple((*whole[:axis], part, *whole[axis + 1 :]) for part in sizes)


def concatenate(s: Sequences) -> None:
    """Join the elements along `axis`, or stack them along a new axis. Raises UnknownFact if their shapes are unknown or of
    different ranks.
    """
    parts = s.parts(0)
    if not parts or any(part is None for part in parts):
        raise UnknownFact("the elements of its sequence are unknown")
    shapes = [part for part in parts if part is not None]
    if len(set(map(len, shapes))) > 1:
        raise UnknownFact("the elements of its sequence have different numbers of axes")
    stacked = bool(s.op.number("new_axis", 0))
    axis = counted(s.op.required("axis"), len(shapes[0]) + stacked)
    for at, column in enumerate(zip(*shapes, strict=True)):
        sizes = {size for size in column if size is not None}
        if len(sizes) > 1 and (stacked or at != axis):
            s.wrong = f"cannot join elements along axis {axis}: {min(sizes)} meets {max(sizes)}"
    s.shape = joined([(*shape[:axis], 1, *shape[axis:]) for shape in shapes] if stacked else shapes, axis)


def pass_on(s: Sequences) -> None:
    """The tensor or sequence of input 0 unchanged."""
    s.shape = s.op.inputs[0] if s.op.inputs else None
    if s.shape is None:
        s.made = s.parts(0)


RULES = {
    "ConcatFromSequence": concatenate,
    "Optional": pass_on,
    "OptionalGetElement": pass_on,
    "SequenceAt": pick,
    "SequenceConstruct": construct,
    "SequenceEmpty": make_empty,
    "SequenceErase": erase,
    "SequenceInsert": insert,
    "SequenceLength": measure,
    "SplitToSequence": split,
}
"""Op → its rule."""

SPECS = (
    *(OpSpec(op_type=name, shape=ShapeRules(sequence=rule), cost=CostRules(work=Work.HOST)) for name, rule in RULES.items()),
    OpSpec(op_type="OptionalHasElement", shape=ShapeRules(infer=lambda op: ()), cost=CostRules(work=Work.HOST)),
)
