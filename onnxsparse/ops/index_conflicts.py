"""Invalid positions, pads, permutations and numbers of scales, as the rules in `ops/conflicts.py`.

Positions and pads are checked if they are constant or follow from sizes.
"""

from onnxsparse.ir.binding import Shape, format_shape
from onnxsparse.ops.conflicts import unequal
from onnxsparse.ops.sizes import UnknownFact, counted
from onnxsparse.ops.view import OpView


def gathering(op: OpView) -> str | None:
    """Indices (input 1) must lie within the axis. Raises UnknownFact if its size or the indices are unknown."""
    shape = op.partial(0)
    return outside(shape, op.axis(0, len(shape)), op.integers(1))


def gathering_elements(op: OpView) -> str | None:
    """The indices (input 1) must not exceed input 0 along the other axes, and must lie within their own."""
    shape, indices = op.partial(0), op.partial(1)
    if len(shape) != len(indices):
        return f"cannot take elements of {format_shape(shape)} at {format_shape(indices)}: {len(shape)} axes meet {len(indices)}"
    along = op.axis(0, len(shape))
    for axis, (size, count) in enumerate(zip(shape, indices, strict=True)):
        if axis != along and size is not None and count is not None and count > size:
            return f"cannot take {count} of {size} elements along axis {axis} of {format_shape(shape)}"
    return gathering(op)


def scattering_elements(op: OpView) -> str | None:
    """Indices (input 1) and updates (input 2) must have one shape; otherwise as `gathering_elements`."""
    indices, updates = op.partial(1), op.partial(2)
    if len(indices) != len(updates) or any(unequal(a, b) for a, b in zip(indices, updates, strict=True)):
        return f"cannot write {format_shape(updates)} at {format_shape(indices)} positions"
    return gathering_elements(op)


def gathering_tuples(op: OpView) -> str | None:
    """GatherND and ScatterND: the last axis of the indices (input 1) holds positions along the axes of input 0 after the first
    `batch_dims`. Raises UnknownFact if the indices are unknown.
    """
    shape, length, start = op.partial(0), op.partial(1)[-1], op.number("batch_dims", 0)
    indices = op.integers(1)
    if length is None or not 0 < length <= len(shape) - start:
        raise UnknownFact("its index tuples are not as long as the op requires")
    for at in range(length):
        if shape[start + at] is None:
            continue
        found = outside(shape, start + at, indices[at::length])
        if found is not None:
            return found
    return None


def outside(shape: Shape, axis: int, indices: tuple[int, ...]) -> str | None:
    """The first index that is not within an axis; None if all are. Raises UnknownFact if the size of the axis is unknown."""
    size = shape[axis]
    if size is None:
        raise UnknownFact("the axis that it takes elements of has an open size")
    wrong = next((index for index in indices if not -size <= index < size), None)
    return None if wrong is None else f"cannot take index {wrong} of {size} in {format_shape(shape)}"


def reflecting(op: OpView) -> str | None:
    """Pad by reflection adds at most an axis's size - 1 elements on either side. Raises UnknownFact if the pads are unknown."""
    shape = op.partial(0)
    if op.text("mode", "constant") != "reflect":
        return None
    pads = op.integers(1) if op.has_input(1) else op.numbers("pads")
    axes = op.integers(3) if op.has_input(3) else tuple(range(len(shape)))
    if len(pads) != 2 * len(axes) or min(pads, default=0) < 0:
        raise UnknownFact("its pads are not two per axis, or remove elements")
    for at, axis in enumerate(axes):
        size, most = shape[counted(axis, len(shape))], max(pads[at], pads[at + len(axes)])
        if size is not None and most >= max(size, 1):
            return f"cannot reflect {most} of {size} elements along axis {axis} of {format_shape(shape)}"
    return None


def permuting(op: OpView) -> str | None:
    """Transpose: `perm` must name every axis."""
    shape = op.partial(0)
    perm = op.numbers("perm", tuple(range(len(shape))))
    return None if len(perm) == len(shape) else f"cannot permute {format_shape(shape)}: {len(shape)} axes meet {len(perm)}"


def scaling(op: OpView) -> str | None:
    """QuantizeLinear and DequantizeLinear: several scales (input 1) must be as many as the axis has indices; blocks are not
    checked.
    """
    shape, scale = op.partial(0), op.partial(1)
    if len(scale) != 1 or scale[0] == 1 or op.number("block_size", 0) or not shape:
        return None
    size = shape[op.axis(1, len(shape))]
    return (
        f"cannot scale {format_shape(shape)} by {scale[0]} scales: {size} meets {scale[0]}" if unequal(size, scale[0]) else None
    )
