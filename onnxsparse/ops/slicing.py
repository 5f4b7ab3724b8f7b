"""Ops that cut, join and index: which elements of their inputs their outputs are.

Source: the ONNX operator pages of the ops listed at the end.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ops.conflicts import joining
from onnxsparse.ops.coupling import Coupling
from onnxsparse.ops.facets import ChannelRules, CostRules, Quant, QuantRules, ShapeRules, Work
from onnxsparse.ops.index_conflicts import gathering, gathering_elements, gathering_tuples, scattering_elements
from onnxsparse.ops.labels import Labels
from onnxsparse.ops.refit import Refit, positions
from onnxsparse.ops.sizes import UnknownFact, counted, paired
from onnxsparse.ops.spec import OpSpec
from onnxsparse.ops.view import OpView, product


def is_contiguous(op: OpView) -> bool:
    """Whether the joined parts are contiguous in memory: every axis before the joined one has size 1. Raises UnknownFact."""
    output = op.output()
    axis = counted(op.required("axis"), len(output))
    return product(output[:axis]) == 1


def couple_concat(c: Coupling) -> None:
    """Join all inputs."""
    join(c, [at for at in range(len(c.op.node.input)) if c.op.has_input(at)])


def join(c: Coupling, ats: Sequence[int]) -> None:
    """Inputs `ats` are joined along `axis`; along every other axis they are tied. Raises UnknownFact if there are none."""
    if not ats:
        raise UnknownFact("it joins nothing")
    rank = len(c.axes(ats[0]))
    along = counted(c.op.required("axis"), rank)
    found = [c.unite(*(c.axes(at)[i] for at in ats)) if i != along else None for i in range(rank)]
    parts = [c.axes(at)[along] for at in ats]
    if any(part is not None for part in parts):
        found[along] = np.concatenate([staying(c, part, c.op.input(at)[along]) for at, part in paired(ats, parts)])
    c.emit(found)


def staying(c: Coupling, labels: Labels | None, size: int) -> Labels:
    """Labels for a part that cannot be cut, next to parts that can (`labels` None: not followed)."""
    if labels is None:
        labels = c.space.fresh(size)
        c.freeze(labels, "cannot be cut")
    return labels


def couple_split(c: Coupling) -> None:
    """The inverse of Concat."""
    axes = c.axes(0)
    along = c.op.axis(0, len(axes))
    start = 0
    for at in range(len(c.op.node.output)):
        size = c.op.output(at)[along]
        labels = axes[along]
        c.emit((*axes[:along], None if labels is None else labels[start : start + size], *axes[along + 1 :]), at)
        start += size


def refit_split(r: Refit) -> None:
    """Write out the sizes: equal parts may now differ."""
    before, after = split_sizes(r.old), split_sizes(r.new)
    if before == after:
        return
    if r.old.has_input(1):
        r.rescale(1, before, after)
    else:
        r.unset("num_outputs")
        r.replace(1, np.array(after, np.int64))


def refit_old_split(r: Refit) -> None:
    """Before version 13 the sizes are an attribute."""
    before, after = split_sizes(r.old), split_sizes(r.new)
    if before != after:
        r.set("split", after)


def split_sizes(op: OpView) -> list[int]:
    """The size of each part. Raises UnknownFact."""
    along = op.axis(0, len(op.partial(0)))
    return [op.output(at)[along] for at in range(len(op.node.output))]


def slices(c: Coupling) -> dict[int, slice]:
    """Axis → the slice that a Slice takes along it. Raises UnknownFact for bounds that depend on more than sizes and
    constants, and for a step of 0.
    """
    rank = len(c.axes(0))
    old = "starts" in c.op.attributes
    starts, ends = ((c.op.numbers(n) if old else c.vector(at)) for n, at in (("starts", 1), ("ends", 2)))
    default = tuple(range(len(starts)))
    axes = c.op.numbers("axes", default) if old else (c.vector(3) if c.op.has_input(3) else default)
    steps = c.vector(4) if not old and c.op.has_input(4) else (1,) * len(starts)
    found = {}
    for (start, end), (axis, step) in paired(list(paired(starts, ends)), list(paired(axes, steps))):
        axis = counted(axis, rank)
        if step == 0:
            raise UnknownFact("it has a step of 0")
        # a slice that goes backwards to the very start ends before index 0, which Python writes as None
        size = c.op.input(0)[axis]
        found[axis] = slice(start, None if step < 0 and end < -size else end, step)
    return found


def couple_slice(c: Coupling) -> None:
    """Labels are sliced as the elements are. With unknown bounds all axes stay."""
    axes = list(c.axes(0))
    try:
        for axis, taken in slices(c).items():
            labels = axes[axis]
            unite_strides(c, labels, abs(taken.step))
            axes[axis] = None if labels is None else labels[taken]
    except UnknownFact as lacking:
        c.freeze_all(0, f"is sliced at unknown bounds: {lacking}")
        axes = [None] * len(axes)
    c.emit(axes)


def unite_strides(c: Coupling, labels: Labels | None, step: int) -> None:
    """With a step above 1, the elements between two taken ones are tied to the first: the slice then still takes every step-th
    element of what is kept.
    """
    if labels is None or step == 1:
        return
    for start in range(0, labels.size, step):
        stride = labels[start : start + step]
        c.unite(*(stride[i : i + 1] for i in range(stride.size)))


def refit_slice(r: Refit) -> None:
    """Along an axis that was cut, the bounds become those of the kept elements that the slice took, in the same direction."""
    old = "starts" in r.old.attributes
    rank = len(r.old.input(0))
    starts, ends = (list(bounds_of(r, name, at)) for name, at in (("starts", 1), ("ends", 2)))
    axes = r.old.numbers("axes") if old else (bounds_of(r, "axes", 3) if r.old.has_input(3) else ())
    steps = bounds_of(r, "steps", 4) if not old and r.old.has_input(4) else (1,) * len(starts)
    new_starts, new_ends = dict[int, int](), dict[int, int]()
    for i, axis in enumerate(axes or range(len(starts))):
        kept = r.kept_input(0, axis % rank)
        if kept is None:
            continue
        size = r.old.input(0)[axis % rank]
        end = None if steps[i] < 0 and ends[i] < -size else ends[i]
        taken = np.flatnonzero(np.isin(kept, np.arange(size)[starts[i] : end : steps[i]]))
        new_starts[i], new_ends[i] = new_bounds(taken, steps[i], r.new.input(0)[axis % rank])
    if new_starts and old:
        r.set("starts", [new_starts.get(i, start) for i, start in enumerate(starts)])
        r.set("ends", [new_ends.get(i, end) for i, end in enumerate(ends)])
    elif new_starts:
        r.patch(1, new_starts)
        r.patch(2, new_ends)


def bounds_of(r: Refit, name: str, at: int) -> tuple[int, ...]:
    """Starts, ends, axes or steps, from an attribute or a constant input."""
    if name in r.old.attributes:
        return r.old.numbers(name)
    values = r.constant(at)
    assert values is not None, "a cut passed through a slice with unknown bounds"
    return tuple(values.reshape(-1).tolist())


def new_bounds(taken: NDArray[np.intp], step: int, size: int) -> tuple[int, int]:
    """(start, end) of a slice that takes the consecutive positions `taken` of an axis of `size`; (0, 0) for none."""
    if not taken.size:
        return 0, 0
    first, last = int(taken[0]), int(taken[-1])
    return (first, last + 1) if step > 0 else (last, first - 1 if first else -size - 1)


def couple_gather(c: Coupling) -> None:
    """A vector of constant indices selects labels. With a single or computed index the axis stays. Raises UnknownFact if the
    rank of the indices is unknown.
    """
    axes = c.axes(0)
    along = c.op.axis(0, len(axes))
    picked = c.op.inputs[1] if c.op.has_input(1) else None
    if picked is None:
        raise UnknownFact("the rank of its indices is unknown")
    indices = c.constant(1)
    labels = axes[along]
    made: list[Labels | None] = [None] * len(picked)
    if labels is not None and indices is not None and indices.ndim == 1 and indices.size > 1:
        made = [labels[picked_from(labels.size, indices)]]
    else:
        c.freeze(labels, "is looked up by index")
        for at, own in enumerate(c.axes(1)):
            made[at] = own
            c.freeze(own, "holds indices")
    c.emit((*axes[:along], *made, *axes[along + 1 :]))


def picked_from(size: int, indices: NDArray[np.generic]) -> NDArray[np.intp]:
    """The indices as positions of an axis. Raises UnknownFact if one lies outside of it."""
    found = indices.astype(np.intp)
    if found.min() < -size or found.max() >= size:
        raise UnknownFact(f"its indices reach beyond an axis of {size}")
    return found


def refit_gather(r: Refit) -> None:
    """Renumber the indices among the kept elements."""
    along = r.old.axis(0, len(r.old.partial(0)))
    kept, made = r.kept_input(0, along), r.kept_output(0, along)
    indices = r.constant(1)
    if kept is None or indices is None or indices.ndim != 1:
        return
    wanted = indices % r.old.input(0)[along]
    r.replace(1, positions(kept, wanted if made is None else wanted[made]).astype(indices.dtype))


def couple_gather_elements(c: Coupling) -> None:
    """Indices have the output's shape and are tied to it; the axis that they point into stays."""
    axes, indices = c.axes(0), c.axes(1)
    along = c.op.axis(0, len(axes))
    c.freeze(axes[along], "is looked up by index")
    c.freeze(indices[along], "holds indices")
    c.emit([c.unite(a, b) if i != along else None for i, (a, b) in enumerate(paired(axes, indices))])


def couple_scatter(c: Coupling) -> None:
    """ScatterND: the axes that index tuples point into stay; the axes after them are tied to the last axes of the updates."""
    data, indices, updates = (c.axes(at) for at in (0, 1, 2))
    depth = c.op.input(1)[-1]
    for labels in (*data[:depth], *indices, *updates[: len(indices) - 1]):
        c.freeze(labels, "is written to by index")
    tails = paired(data[depth:], updates[max(len(indices) - 1, 0) :])
    c.emit((*data[:depth], *(c.unite(a, b) for a, b in tails)))


def couple_gather_nd(c: Coupling) -> None:
    """GatherND: the axes that index tuples point into stay; the axes after them pass through."""
    data, indices = c.axes(0), c.axes(1)
    depth = c.op.input(1)[-1] + c.op.number("batch_dims", 0)
    for labels in (*data[:depth], *indices):
        c.freeze(labels, "is looked up by index")
    c.emit((*(None for _ in indices[:-1]), *data[depth:]))


def couple_scatter_elements(c: Coupling) -> None:
    """ScatterElements: indices and updates of one shape; the axis that they point into stays."""
    data, indices, updates = (c.axes(at) for at in (0, 1, 2))
    along = c.op.axis(0, len(data))
    for axes in (data, indices, updates):
        c.freeze(axes[along], "is written to by index")
    c.emit([labels if i == along else c.unite(labels, indices[i], updates[i]) for i, labels in enumerate(data)])


def gather_axis(op: OpView) -> int:
    """The attribute `axis`, by default 0. Raises UnknownFact for an attribute of another type."""
    return op.number("axis", 0)


SPECS = (
    OpSpec(
        op_type="GatherND",
        channels=ChannelRules(couple=couple_gather_nd),
        quant=QuantRules(role=Quant.FOLLOW),
        shape=ShapeRules(moves=True, conflict=gathering_tuples),
        cost=CostRules(work=Work.MOVE),
    ),
    OpSpec(
        op_type="Slice",
        channels=ChannelRules(couple=couple_slice, refit=refit_slice),
        quant=QuantRules(role=Quant.FOLLOW),
        shape=ShapeRules(moves=True),
        cost=CostRules(work=Work.MOVE),
    ),
    OpSpec(
        op_type="Split",
        channels=ChannelRules(couple=couple_split, refit=refit_old_split),
        quant=QuantRules(role=Quant.FOLLOW),
        shape=ShapeRules(moves=True),
        cost=CostRules(work=Work.MOVE),
    ),
    OpSpec(
        op_type="Split",
        since=13,
        channels=ChannelRules(couple=couple_split, refit=refit_split),
        quant=QuantRules(role=Quant.FOLLOW),
        shape=ShapeRules(moves=True),
        cost=CostRules(work=Work.MOVE),
    ),
    OpSpec(
        op_type="Concat",
        channels=ChannelRules(couple=couple_concat),
        quant=QuantRules(role=Quant.JOIN, common_factor=True),
        shape=ShapeRules(moves=True, conflict=joining),
        cost=CostRules(work=Work.MOVE, in_place=is_contiguous),
    ),
    OpSpec(op_type="Compress", shape=ShapeRules(moves=True), cost=CostRules(work=Work.HOST)),
    OpSpec(
        op_type="Gather",
        channels=ChannelRules(couple=couple_gather, refit=refit_gather),
        quant=QuantRules(role=Quant.FOLLOW),
        shape=ShapeRules(moves=True, index_at=1, index_axis=gather_axis, conflict=gathering),
        cost=CostRules(work=Work.MOVE),
    ),
    OpSpec(
        op_type="GatherElements",
        channels=ChannelRules(couple=couple_gather_elements),
        quant=QuantRules(role=Quant.FOLLOW),
        shape=ShapeRules(moves=True, index_at=1, index_axis=gather_axis, conflict=gathering_elements),
        cost=CostRules(work=Work.MOVE),
    ),
    OpSpec(op_type="ScatterND", channels=ChannelRules(couple=couple_scatter), shape=ShapeRules(conflict=gathering_tuples)),
    *(
        OpSpec(
            op_type=name,
            channels=ChannelRules(couple=couple_scatter_elements),
            shape=ShapeRules(conflict=scattering_elements),
        )
        for name in ("ScatterElements", "Scatter")
    ),
)
