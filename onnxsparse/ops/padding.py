"""Padding with zeros, by a Pad node and by the ops downstream of it.

1. A Pad of zeros before a Conv gives the same sums as a Conv with larger `pads`.
2. A Pad of zeros before an AveragePool gives the same averages as an AveragePool with larger `pads` that counts its padding, if
   every window lies within the padded tensor.
3. MaxPool pads with −∞ and quantized ops pad with their zero point; they cannot take zeros in.

Source: the ONNX operator pages of Pad, Conv and AveragePool.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ops.coupling import Coupling
from onnxsparse.ops.refit import Refit
from onnxsparse.ops.sizes import Size, UnknownFact, counted
from onnxsparse.ops.view import OpView

Attributes = Mapping[str, "int | str | list[int]"]
"""Attributes to set on a node."""
Constant = Callable[[int], NDArray[np.generic] | None]
"""Value of a constant input by position. None: it is computed."""

SPATIAL = 2
"""First spatial axis, after batch and channels."""


@dataclass(frozen=True)
class Zeros:
    """Zeros added around a tensor."""

    axes: Size
    """Axes that are padded; negative ones count from the end."""
    before: Size
    """Elements added before each of `axes`."""
    after: Size
    """Elements added after each of `axes`."""
    rank: int | None
    """Rank of the tensor. None: unknown."""

    def around(self, rank: int) -> tuple[Size, Size] | None:
        """Elements before and after each spatial axis of a tensor of `rank` axes.

        None if batch or channels are padded, or the tensor has another rank.
        """
        if self.rank not in (None, rank) or not all(-rank <= axis < rank for axis in self.axes):
            return None
        before, after = [0] * rank, [0] * rank
        for axis, first, last in zip(self.axes, self.before, self.after, strict=True):
            before[axis], after[axis] = first, last
        if any(before[:SPATIAL] + after[:SPATIAL]):
            return None
        return tuple(before[SPATIAL:]), tuple(after[SPATIAL:])


def pad_zeros(op: OpView, constant: Constant) -> Zeros | None:
    """The zeros that a Pad adds. None if it adds something else, crops, or its sizes are not constant.

    Sizes are attribute `paddings` in version 1, `pads` from 2 on, input 1 from 11 on, with axes in input 3 from 18 on.
    """
    if op.text("mode", "constant") != "constant" or not pads_with_zero(op, constant):
        return None
    given = op.numbers("pads") or op.numbers("paddings") or integers(op, constant, 1)
    axes = integers(op, constant, 3) if op.has_input(3) else tuple(range(len(given or ()) // 2))
    if given is None or axes is None or len(given) != 2 * len(axes) or min(given, default=0) < 0:
        return None
    return Zeros(axes, given[: len(axes)], given[len(axes) :], None if op.has_input(3) else len(axes))


def pads_with_zero(op: OpView, constant: Constant) -> bool:
    """Whether the padded value is 0: an attribute before version 11, input 2 from then on, 0 by default."""
    if op.has_input(2):
        value = constant(2)
        return value is not None and not np.any(value)
    return op.real("value", 0.0) == 0


def integers(op: OpView, constant: Constant, at: int) -> Size | None:
    """The elements of a constant input. None if it is missing or computed."""
    values = constant(at) if op.has_input(at) else None
    return None if values is None else tuple(int(v) for v in values.reshape(-1))


def padding_conv(op: OpView, zeros: Zeros) -> Attributes | None:
    """Attributes of a Conv with these zeros added to its padding. None if it cannot take them."""
    weight = op.inputs[1] if op.has_input(1) else None
    kernel = op.numbers("kernel_shape") or (weight or ())[SPATIAL:]
    rank = SPATIAL + len(kernel) if kernel else zeros.rank
    return None if rank is None else padded(op, zeros, rank)


def padding_average(op: OpView, zeros: Zeros) -> Attributes | None:
    """Attributes of an AveragePool with these zeros added to its padding. None if it cannot take them.

    It must count its padding or have none, and its windows must not reach beyond the padding (`ceil_mode`). onnxruntime refuses a
    pool whose padding is as wide as its kernel.
    """
    kernel = op.numbers("kernel_shape")
    attributes = padded(op, zeros, SPATIAL + len(kernel))
    counts = op.number("count_include_pad", 0) == 1 or not any(op.numbers("pads"))
    if attributes is None or not counts or op.number("ceil_mode", 0):
        return None
    pads = attributes["pads"]
    assert isinstance(pads, list)
    if any(pad >= size for pad, size in zip(pads, kernel * 2, strict=True)):
        return None
    return {**attributes, "count_include_pad": 1}


def padded(op: OpView, zeros: Zeros, rank: int) -> dict[str, int | str | list[int]] | None:
    """`pads` with these zeros added. None if the op derives its padding from the input's size (`auto_pad`).

    VALID without `pads` is no padding.
    """
    around = zeros.around(rank)
    own = op.numbers("pads") or (0,) * 2 * (rank - SPATIAL)
    how = op.text("auto_pad", "NOTSET")
    alone = how == "NOTSET" or (how == "VALID" and "pads" not in op.attributes)
    if around is None or not alone or len(own) != 2 * (rank - SPATIAL):
        return None
    pads = [a + b for a, b in zip(own, (*around[0], *around[1]), strict=True)]
    return {"pads": pads, "auto_pad": "NOTSET"} if "auto_pad" in op.attributes else {"pads": pads}


def couple_pad(c: Coupling) -> None:
    """Constant padding adds labels of its own. An axis that is padded with copies, or cropped, stays."""
    axes = list(c.axes(0))
    before, after = pad_sizes(c)
    for i, labels in enumerate(axes):
        if labels is None or (not before[i] and not after[i]):
            continue
        if c.op.text("mode", "constant") != "constant" or before[i] < 0 or after[i] < 0:
            c.freeze(labels, "is padded with copies, or cropped")
            axes[i] = None
        else:
            axes[i] = np.concatenate([c.space.fresh(before[i]), labels, c.space.fresh(after[i])])
    c.emit(axes)


def pad_sizes(c: Coupling) -> tuple[list[int], list[int]]:
    """Elements before and after each axis. Raises UnknownFact if they are unknown."""
    rank = len(c.axes(0))
    given = c.op.numbers("pads") or c.vector(1)
    at = [counted(axis, rank) for axis in c.vector(3)] if c.op.has_input(3) else list(range(rank))
    before, after = [0] * rank, [0] * rank
    for axis, first, last in ends_of(given, at):
        before[axis], after[axis] = first, last
    return before, after


def ends_of(given: Sequence[int], axes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Each axis with the elements before and after it. Raises UnknownFact if the number of pads does not fit."""
    if len(given) != 2 * len(axes):
        raise UnknownFact(f"it has {len(given)} pads for {len(axes)} axes")
    return zip(axes, given[: len(axes)], given[len(axes) :], strict=True)


def refit_pad(r: Refit) -> None:
    """Set the pads to the number of added elements that remain on each side."""
    rank = len(r.old.input(0))
    given = list(r.old.numbers("pads"))
    values = r.constant(1) if not given else None
    if values is not None:
        given = values.reshape(-1).tolist()
    named = r.constant(3) if r.old.has_input(3) else None
    at = list(range(rank)) if named is None else [int(axis) % rank for axis in named.reshape(-1)]
    changed = list(given)
    for i, axis in enumerate(at):
        kept = r.kept_output(0, axis)
        if kept is not None and (given[i] or given[i + len(at)]):
            changed[i] = int(np.count_nonzero(kept < given[i]))
            changed[i + len(at)] = int(np.count_nonzero(kept >= given[i] + r.old.input(0)[axis]))
    if changed == given:
        return
    if values is None:
        r.set("pads", changed)
    else:
        r.replace(1, np.array(changed, np.int64))
