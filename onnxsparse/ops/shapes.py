"""Shape formulas for ops that onnx's inference does not know. None is an unknown size."""

import itertools
from collections.abc import Sequence

from onnxsparse.ir.binding import Shape
from onnxsparse.ops.sizes import Size, UnknownFact
from onnxsparse.ops.view import OpView


def times(*sizes: int | None) -> int | None:
    """The product; None if a factor is unknown."""
    product = 1
    for size in sizes:
        if size is None:
            return None
        product *= size
    return product


def broadcast(*shapes: Shape) -> Shape:
    """numpy's broadcast shape. An unknown size beside a size above 1 must equal that size or 1, thus gives that size."""
    columns = itertools.zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)
    return tuple(reversed([widest(column) for column in columns]))


def widest(sizes: Sequence[int | None]) -> int | None:
    """The size that the sizes of one axis broadcast to. None: unknown."""
    wide = [size for size in sizes if size is not None and size != 1]
    return wide[0] if wide else None if None in sizes else 1


def matrix_product(a: Shape, b: Shape) -> Shape:
    """The shape of numpy.matmul(a, b); a vector on either side has no axis in the result. Raises UnknownFact for a scalar
    operand.
    """
    if not a or not b:
        raise UnknownFact("an operand is a scalar")
    rows, columns = a[-2:-1], b[-1:] if len(b) > 1 else ()
    return (*broadcast(a[:-2], b[:-2]), *rows, *columns)


def arranged(op: OpView, at: int, letter: str) -> Shape:
    """The shape of a matrix operand as it is multiplied, `letter` A or B.

    1. `transBatch…` moves its first axis before its last.
    2. `trans…` swaps the last two axes.

    Raises UnknownFact for a scalar. Source: onnxruntime's ContribOperators for FusedMatMul, the ONNX operator page of Gemm.
    """
    shape = op.partial(at)
    if not shape:
        raise UnknownFact("an operand is a scalar")
    if len(shape) > 1 and op.number(f"transBatch{letter}", 0):
        shape = (*shape[1:-1], shape[0], shape[-1])
    if len(shape) > 1 and op.number(f"trans{letter}", 0):
        shape = (*shape[:-2], shape[-1], shape[-2])
    return shape


def windows(op: OpView, sizes: Shape, kernel: Shape) -> Shape:
    """Number of windows along each axis, from the op's strides, dilations, padding and rounding mode. None: unknown.

    Raises UnknownFact if the attributes do not fit the number of axes, or a window exceeds the padded input. Source: the ONNX
    operator pages of Conv and AveragePool.
    """
    rank = len(sizes)
    strides, dilations = (op.numbers(name, (1,) * rank) for name in ("strides", "dilations"))
    pads, way = op.numbers("pads", (0,) * 2 * rank), op.text("auto_pad", "NOTSET")
    if way == "VALID":
        pads = (0,) * 2 * rank
    if not len(kernel) == len(strides) == len(dilations) == len(pads) / 2 == rank or min(strides, default=1) < 1:
        raise UnknownFact(f"its window, strides, dilations and padding do not fit {rank} axes")
    if way.startswith("SAME"):
        return tuple(None if size is None else -(-size // stride) for size, stride in zip(sizes, strides, strict=True))
    found: list[int | None] = []
    for i, (size, window) in enumerate(zip(sizes, kernel, strict=True)):
        if size is None or window is None:
            found.append(None)
            continue
        spare = size + pads[i] + pads[i + rank] - dilations[i] * (window - 1) - 1
        if spare < 0:
            raise UnknownFact("its window is larger than its padded input")
        last = spare // strides[i]
        # rounded up, there is one more window if it begins before the padding at the end
        if op.number("ceil_mode", 0) and spare % strides[i] and (last + 1) * strides[i] < size + pads[i]:
            last += 1
        found.append(last + 1)
    return tuple(found)


def joined(shapes: Sequence[Shape], axis: int) -> Shape:
    """The shape of values of one rank, joined along `axis`. None for each unknown size."""
    columns = list(zip(*shapes, strict=True))
    common = [next((size for size in column if size is not None), None) for column in columns]
    sizes = [size for size in columns[axis] if size is not None]
    return (*common[:axis], sum(sizes) if len(sizes) == len(shapes) else None, *common[axis + 1 :])


def reduced(op: OpView, axes: Size) -> Shape:
    """Input 0 after a reduction over `axes` (empty: all axes), which become 1, or vanish if `keepdims` is 0. None for each
    unknown size.
    """
    shape = op.partial(0)
    if not shape:
        return shape
    gone = {axis % len(shape) for axis in axes or range(len(shape))}
    if op.number("keepdims", 1):
        return tuple(1 if i in gone else size for i, size in enumerate(shape))
    return tuple(size for i, size in enumerate(shape) if i not in gone)
