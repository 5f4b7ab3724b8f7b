"""Invalid sizes that onnx's inference does not detect: sizes for which onnxruntime refuses to run the node.

A rule returns a clause with the two sizes, None if the sizes are valid, and raises UnknownFact if it lacks a size. A rule may
miss invalid sizes but never rejects valid ones.
"""

from collections.abc import Callable

from onnxsparse.ir.binding import Shape, format_shape
from onnxsparse.ops.shapes import arranged, broadcast
from onnxsparse.ops.view import OpView, product

Rule = Callable[[OpView], str | None]


def unequal(a: int | None, b: int | None) -> bool:
    """Whether both sizes are known and differ."""
    return a is not None and b is not None and a != b


def broadcasting(*ats: int) -> Rule:
    """Inputs `ats` (none given: all) must broadcast as in numpy. Not checked before opset 7, where an attribute sets the
    broadcasting.
    """

    def rule(op: OpView) -> str | None:
        """Names the first two sizes that differ, neither of them 1."""
        if "broadcast" in op.attributes:
            return None
        places = ats or tuple(at for at in range(len(op.node.input)) if op.has_input(at))
        shapes = [op.partial(at) for at in places]
        whole: Shape = ()
        for shape in shapes:
            for back in range(1, min(len(shape), len(whole)) + 1):
                if 1 not in (a := shape[-back], b := whole[-back]) and unequal(a, b):
                    return f"cannot broadcast {' and '.join(map(format_shape, shapes))}: {b} meets {a}"
            whole = broadcast(whole, shape)
        return None

    return rule


def multiplying(a: int = 0, b: int = 1) -> Rule:
    """Inputs `a` and `b` must suit numpy.matmul, after the transpositions that onnxruntime's fused ops apply. Source:
    FusedMatMul in ContribOperators.
    """

    def rule(op: OpView) -> str | None:
        """Compares A's columns with B's rows, then the batch axes."""
        left, right = (arranged(op, at, letter) for at, letter in ((a, "A"), (b, "B")))
        columns, rows = left[-1], right[max(len(right) - 2, 0) - len(right)]
        if unequal(columns, rows):
            return f"cannot multiply {format_shape(left)} by {format_shape(right)}: {columns} meets {rows}"
        for back in range(3, min(len(left), len(right)) + 1):
            if 1 not in (first := left[-back], second := right[-back]) and unequal(first, second):
                return f"cannot multiply {format_shape(left)} by {format_shape(right)}: {first} meets {second}"
        return None

    return rule


def gemm(a: int = 0, b: int = 1, bias: int = 2) -> Rule:
    """M × K by K × N, either transposed; the bias must broadcast to M × N."""

    def rule(op: OpView) -> str | None:
        """Compares the operands, then the bias with the result."""
        found = multiplying(a, b)(op)
        if found is not None or not op.has_input(bias):
            return found
        made = (arranged(op, a, "A")[0], arranged(op, b, "B")[-1])
        return spreading(op.partial(bias), made, "add a bias of")

    return rule


def spreading(small: Shape, large: Shape, what: str) -> str | None:
    """Why `small` does not broadcast to `large`, which keeps its shape; `what` is the verb. None if it does."""
    for back in range(1, min(len(small), len(large)) + 1):
        if small[-back] != 1 and unequal(small[-back], large[-back]):
            return f"cannot {what} {format_shape(small)} to {format_shape(large)}: {small[-back]} meets {large[-back]}"
    return f"cannot {what} {format_shape(small)} to {format_shape(large)}" if len(small) > len(large) else None


NONE = 99
"""An input position that no op has; marks an absent optional input."""


def convolving(weight: int = 1, bias: int = 2, *, transposed: bool = False, last: bool = False) -> Rule:
    """X (N × C × positions, or channels last) and W (M × C/group × kernel; `transposed`: C × M/group × kernel) must match.

    `weight`, `bias`: their input positions. `last`: X is always channels last. Source: the ONNX operator pages of Conv and
    ConvTranspose.
    """

    def rule(op: OpView) -> str | None:
        """Compares ranks, channels, the size of the bias, and the kernel with the padded input."""
        x, w = op.partial(0), op.partial(weight)
        if len(x) != len(w):
            return f"cannot convolve {format_shape(x)} with a kernel of {format_shape(w)}: {len(x)} axes meet {len(w)}"
        if len(x) < 3:
            return f"cannot convolve {format_shape(x)} with a kernel of {format_shape(w)}: there are no positions"
        groups = op.number("group", 1)
        if w[0] is not None and groups > 0 and w[0] % groups:
            return f"cannot divide the {w[0]} channels of a kernel of {format_shape(w)} into {groups} groups"
        channels, sizes = (x[-1], x[1:-1]) if last or op.number("channels_last", 0) else (x[1], x[2:])
        wanted = w[0] if transposed else None if w[1] is None else w[1] * groups
        if unequal(channels, wanted):
            return f"cannot convolve {format_shape(x)} with a kernel of {format_shape(w)}: {channels} channels meet {wanted}"
        made = w[0] if not transposed else None if w[1] is None else w[1] * groups
        if op.has_input(bias) and unequal(op.partial(bias, 1)[0], made):
            return f"produces {made} channels and has a bias for {op.partial(bias, 1)[0]}"
        return None if transposed else too_small(op, x, sizes, w[2:])

    return rule


def too_small(op: OpView, x: Shape, sizes: Shape, kernel: Shape) -> str | None:
    """Why the kernel exceeds the padded input along some axis. None if it fits, or padding follows from `auto_pad`."""
    rank = len(sizes)
    pads = op.numbers("pads", (0,) * 2 * rank) if op.text("auto_pad", "NOTSET") != "VALID" else (0,) * 2 * rank
    dilations = op.numbers("dilations", (1,) * rank)
    regular = len(pads) == 2 * rank and len(kernel) == len(dilations) == rank
    if op.text("auto_pad", "NOTSET").startswith("SAME") or not regular:
        return None
    for i, (size, window) in enumerate(zip(sizes, kernel, strict=True)):
        if size is None or window is None:
            continue
        reach, padded = dilations[i] * (window - 1) + 1, size + pads[i] + pads[i + rank]
        if reach > padded:
            return f"cannot convolve {format_shape(x)}: its kernel spans {reach}, its padded input {padded}"
    return None


def reshaping(op: OpView) -> str | None:
    """Input and output must have equally many elements."""
    before, after = op.input(0), op.output()
    if 0 in after or product(before) == product(after):
        return None
    return f"cannot reshape {format_shape(before)} to {format_shape(after)}: {product(before)} elements meet {product(after)}"


def joining(op: OpView) -> str | None:
    """All inputs must have one rank, and equal sizes along all axes but `axis`."""
    shapes = [op.partial(at) for at in range(len(op.node.input))]
    ranks = {len(shape) for shape in shapes}
    if len(ranks) > 1:
        return f"cannot join {' and '.join(map(format_shape, shapes))}: {min(ranks)} axes meet {max(ranks)}"
    axis = op.number("axis", 1) % max((*ranks, 1))
    for i, column in enumerate(zip(*shapes, strict=True)):
        sizes = {size for size in column if size is not None}
        if i != axis and len(sizes) > 1:
            return f"cannot join {' and '.join(map(format_shape, shapes))} along axis {axis}: {min(sizes)} meets {max(sizes)}"
    return None


def normalising(*ats: int) -> Rule:
    """The parameters at inputs `ats` must broadcast to input 0."""

    def rule(op: OpView) -> str | None:
        """Names the first parameter that does not broadcast."""
        x = op.partial(0)
        for at in (at for at in ats if op.has_input(at)):
            found = spreading(op.partial(at), x, "scale or shift by")
            if found is not None:
                return found
        return None

    return rule


def skipping(op: OpView) -> str | None:
    """SkipLayerNormalization: the scale must have the last axis of the input, the skip its last two axes."""
    x, skip, scale = op.partial(0), op.partial(1), op.partial(2, 1)
    for other in (skip, scale):
        for size, met in zip(x[:-3:-1], other[:-3:-1], strict=False):
            if unequal(size, met):
                return f"cannot normalise {format_shape(x)} with {format_shape(other)}: {size} meets {met}"
    return None


def per_channel(op: OpView) -> str | None:
    """InstanceNormalization: scale and bias must have one element per channel (axis 1)."""
    x = op.partial(0)
    for at in (1, 2):
        size = op.input(at)[0] if len(op.partial(at)) == 1 else None
        if len(x) > 1 and unequal(size, x[1]):
            return f"cannot normalise {format_shape(x)} with parameters for {size} channels: {size} meets {x[1]}"
    return None


def recurring(op: OpView) -> str | None:
    """X (steps × batch × input) and W (directions × gates·hidden × input) must have the same input size."""
    x, w = op.partial(0, 3), op.partial(1, 3)
    if unequal(x[2], w[2]):
        return f"cannot multiply {format_shape(x)} by {format_shape(w)}: {x[2]} meets {w[2]}"
    return starting(op)


def starting(op: OpView) -> str | None:
    """The initial states (inputs 5 and 6: directions × batch × hidden) must have the batch of X. `layout` 1 is not checked."""
    x = op.partial(0, 3)
    for at in (at for at in (5, 6) if op.has_input(at) and not op.number("layout", 0)):
        state = op.partial(at, 3)
        if unequal(state[1], x[1]):
            return f"cannot process {format_shape(x)} from an initial state of {format_shape(state)}: {x[1]} meets {state[1]}"
    return None


def blocks(op: OpView) -> str | None:
    """DepthToSpace: blocksize² must divide the channels (axis 1)."""
    channels, block = op.partial(0, 4)[1], op.required("blocksize")
    wrong = channels is not None and block > 0 and channels % (block * block)
    return f"cannot divide {channels} channels by {block}x{block}" if wrong else None


def squares(op: OpView) -> str | None:
    """SpaceToDepth: blocksize must divide height and width (axes 2 and 3)."""
    sizes, block = op.partial(0, 4)[2:], op.required("blocksize")
    wrong = next((size for size in sizes if size is not None and block > 0 and size % block), None)
    return None if wrong is None else f"cannot divide {wrong} positions into blocks of {block}"


def groups(name: str) -> Rule:
    """The attribute `name`, a number of groups, must divide the channels (axis 1)."""

    def rule(op: OpView) -> str | None:
        """Compares the channels with the number of groups."""
        channels, count = op.partial(0)[1:2], op.required(name)
        wrong = channels and channels[0] is not None and count > 0 and channels[0] % count
        return f"cannot divide {channels[0]} channels by {count} groups" if wrong else None

    return rule


def columns(name: str) -> Rule:
    """The last axis of input 0 must have the size in attribute `name`."""

    def rule(op: OpView) -> str | None:
        """Compares the last axis with the attribute."""
        shape, wanted = op.partial(0), op.required(name)
        wrong = bool(shape) and unequal(shape[-1], wanted)
        return (
            f"cannot multiply {format_shape(shape)} by a weight of {wanted} rows: {shape[-1]} meets {wanted}" if wrong else None
        )

    return rule


def first_of(*rules: Rule) -> Rule:
    """A rule that returns the first reason that any of `rules` gives."""
    return lambda op: next((reason for reason in (rule(op) for rule in rules) if reason is not None), None)
