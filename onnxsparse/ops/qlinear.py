"""onnxruntime's quantized ops without multiply-accumulates: integers in, integers out, scale and zero point after each tensor.

Channels pass as through the float ops that they stand for, because scales and zero points are per tensor. Source: onnxruntime's
ContribOperators.
"""

from onnxsparse.ir.binding import Shape
from onnxsparse.ops.conflicts import broadcasting
from onnxsparse.ops.coupling import Coupling
from onnxsparse.ops.facets import ChannelRules, CostRules, QuantRules, ShapeRules, Work
from onnxsparse.ops.forms import FloatForm, Operand, channels_first, triple, triples
from onnxsparse.ops.shapes import broadcast, joined, windows
from onnxsparse.ops.sizes import UnknownFact, counted, paired
from onnxsparse.ops.slicing import is_contiguous, join
from onnxsparse.ops.spec import OpSpec
from onnxsparse.ops.view import OpView, same_shape

MICROSOFT = "com.microsoft"


def binary_shape(op: OpView) -> Shape:
    """A (input 0) broadcast with B (input 3). Raises UnknownFact."""
    return broadcast(op.partial(0), op.partial(3))


def where_shape(op: OpView) -> Shape:
    """The condition (input 0), X (1) and Y (4), broadcast. Raises UnknownFact."""
    return broadcast(op.partial(0), op.partial(1), op.partial(4))


def concat_parts(op: OpView) -> list[int]:
    """Positions of the joined inputs: after the output's scale and zero point, each with its own two."""
    return list(range(2, len(op.node.input), 3))


def concat_shape(op: OpView) -> Shape:
    """The parts joined along `axis`. Raises UnknownFact if there are none, or their ranks differ."""
    parts = [op.partial(at) for at in concat_parts(op)]
    if not parts or len({len(part) for part in parts}) != 1:
        raise UnknownFact("its parts have different numbers of axes, or there are none")
    return joined(parts, counted(op.required("axis"), len(parts[0])))


def global_pool_shape(op: OpView) -> Shape:
    """Batch and channels; 1 along all other axes. Raises UnknownFact."""
    shape, channel = op.partial(0), channel_axis(op)
    return tuple(size if i in (0, channel) else 1 for i, size in enumerate(shape))


def pool_shape(op: OpView) -> Shape:
    """As AveragePool's, in the layout that `channels_last` sets. Raises UnknownFact."""
    shape, kernel = op.partial(0), op.numbers("kernel_shape")
    if op.number("channels_last", 0):
        return (shape[0], *windows(op, shape[1:-1], kernel), shape[-1])
    return (*shape[:2], *windows(op, shape[2:], kernel))


def channel_axis(op: OpView) -> int:
    """The last axis if `channels_last` is set, else 1. Raises UnknownFact."""
    return len(op.partial(0)) - 1 if op.number("channels_last", 0) else 1


def concat_operands(op: OpView) -> tuple[Operand, ...]:
    """The joined inputs, each with its scale and zero point."""
    return tuple(triple(at) for at in concat_parts(op))


def where_operands(op: OpView) -> tuple[Operand, ...]:
    """The condition, then X and Y with scale and zero point each."""
    return Operand(0), triple(1), triple(4)


def same_softmax(op: OpView, opset: int) -> bool:
    """Whether the model's opset has the Softmax that the node means: before version 13 it flattens; the attribute `opset` says
    which.
    """
    return (op.number("opset", opset) >= 13) == (opset >= 13)


def couple_binary(c: Coupling) -> None:
    """A is input 0, B input 3."""
    c.emit(c.broadcast([0, 3]))


def couple_where(c: Coupling) -> None:
    """The condition is input 0, X input 1, Y input 4."""
    c.emit(c.broadcast([0, 1, 4]))


def couple_concat(c: Coupling) -> None:
    """Concat over every third input."""
    join(c, concat_parts(c.op))


def couple_elementwise(c: Coupling) -> None:
    """Channels of input 0; the other inputs are scales and zero points of whole tensors."""
    c.emit(c.axes(0))


def couple_softmax(c: Coupling) -> None:
    """All axes from `axis` on stay: whether it reduces over one or all of them depends on the attribute `opset`."""
    axes = c.axes(0)
    axis = c.op.axis(-1, len(axes))
    for labels in axes[axis:]:
        c.freeze(labels, "QLinearSoftmax reduces over it")
    c.emit(axes)


def couple_pool(c: Coupling) -> None:
    """Channel by channel; positions are not cut."""
    axes, channel = c.axes(0), channel_axis(c.op)
    kept = [labels if i in (0, channel) else None for i, labels in enumerate(axes)]
    for labels, stays in paired(axes, kept):
        if stays is None:
            c.freeze(labels, f"{c.op.node.op_type} reduces over it")
    c.emit(kept)


BINARY = {"QLinearAdd": "Add", "QLinearMul": "Mul"}

FUNCTIONS = {"QLinearLeakyRelu": "LeakyRelu", "QLinearSigmoid": "Sigmoid"}

LAST = ("channels_last",)

SPECS = (
    *(
        OpSpec(
            op_type=name,
            domain=MICROSOFT,
            channels=ChannelRules(couple=couple_binary),
            quant=QuantRules(form=FloatForm(op_type=plain, operands=triples(0, 3), result=(6, 7))),
            shape=ShapeRules(infer=binary_shape, conflict=broadcasting(0, 3)),
            cost=CostRules(work=Work.ELEMENTWISE),
        )
        for name, plain in BINARY.items()
    ),
    *(
        OpSpec(
            op_type=name,
            domain=MICROSOFT,
            channels=ChannelRules(couple=couple_elementwise),
            quant=QuantRules(form=FloatForm(op_type=plain, operands=triples(0), result=(3, 4))),
            shape=ShapeRules(infer=same_shape),
            cost=CostRules(work=Work.ELEMENTWISE),
        )
        for name, plain in FUNCTIONS.items()
    ),
    OpSpec(
        op_type="QLinearSoftmax",
        domain=MICROSOFT,
        channels=ChannelRules(couple=couple_softmax),
        quant=QuantRules(
            form=FloatForm(op_type="Softmax", operands=triples(0), result=(3, 4), without=("opset",), when=same_softmax)
        ),
        shape=ShapeRules(infer=same_shape),
    ),
    OpSpec(
        op_type="QLinearConcat",
        domain=MICROSOFT,
        channels=ChannelRules(couple=couple_concat),
        quant=QuantRules(form=FloatForm(op_type="Concat", operands=concat_operands, result=(0, 1))),
        shape=ShapeRules(infer=concat_shape, typed_by=(2,)),
        cost=CostRules(work=Work.MOVE, in_place=is_contiguous),
    ),
    OpSpec(
        op_type="QLinearWhere",
        domain=MICROSOFT,
        channels=ChannelRules(couple=couple_where),
        quant=QuantRules(form=FloatForm(op_type="Where", operands=where_operands, result=(7, 8))),
        shape=ShapeRules(infer=where_shape, conflict=broadcasting(0, 1, 4), typed_by=(1,)),
        cost=CostRules(work=Work.ELEMENTWISE),
    ),
    OpSpec(
        op_type="QLinearAveragePool",
        domain=MICROSOFT,
        channels=ChannelRules(couple=couple_pool),
        quant=QuantRules(
            form=FloatForm(op_type="AveragePool", operands=triples(0), result=(3, 4), without=LAST, when=channels_first)
        ),
        shape=ShapeRules(infer=pool_shape),
    ),
    OpSpec(
        op_type="QLinearGlobalAveragePool",
        domain=MICROSOFT,
        channels=ChannelRules(couple=couple_pool),
        quant=QuantRules(
            form=FloatForm(op_type="GlobalAveragePool", operands=triples(0), result=(3, 4), without=LAST, when=channels_first)
        ),
        shape=ShapeRules(infer=global_pool_shape),
    ),
)
