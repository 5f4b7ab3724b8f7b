"""Arithmetic, comparison, activation: one output element per input position, no multiply-accumulate."""

from collections.abc import Iterable, Iterator
from functools import partial

from onnxsparse.ir.binding import Shape
from onnxsparse.ops.conflicts import broadcasting
from onnxsparse.ops.coupling import Couple, Coupling, couple_broadcast, couple_over_axis, couple_over_rest, couple_same
from onnxsparse.ops.facets import Affine, ChannelRules, CostRules, FoldRules, Quant, QuantRules, ShapeRules, Sign, View, Work
from onnxsparse.ops.folding import ARITHMETIC as SCALES_AND_SHIFTS
from onnxsparse.ops.folding import arithmetic, is_numpy_like
from onnxsparse.ops.masking import mask_softmax, mask_softmax_over_rest
from onnxsparse.ops.sizes import counted
from onnxsparse.ops.spec import OpSpec
from onnxsparse.ops.view import OpView, same_shape

ARITHMETIC = """
Add Div Max Mean Min Mod Mul Pow Sub Sum
""".split()

FUNCTIONS = """
Abs Ceil Clip Exp Floor Log Neg Reciprocal Round Sign Sqrt
Acos Acosh Asin Asinh Atan Atanh Cos Cosh Sin Sinh Tan Tanh Erf
""".split()

LOGIC = """
And BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or
Where Xor
""".split()

ACTIVATIONS = """
Celu Elu Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Selu Shrink Sigmoid Softplus Softsign SwiGLU Swish ThresholdedRelu
""".split()

MICROSOFT = """
BiasGelu FastGelu Gelu QuickGelu
""".split()

MICROSOFT_SAME = """
BiasAdd BiasDropout BiasSoftmax
""".split()

HOMOGENEOUS = ("Abs", "LeakyRelu", "PRelu", "Relu")

SIGNS = {
    "Clip": Sign.CLIPPED,
    **dict.fromkeys(("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softplus", "Sqrt"), Sign.NONNEGATIVE),
    **dict.fromkeys(("Add", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sum"), Sign.KEPT),
    **dict.fromkeys(("Ceil", "Celu", "Elu", "Floor", "Gelu", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Round"), Sign.KEPT),
    **dict.fromkeys(("Selu", "Sign", "Softsign", "Swish", "Tanh"), Sign.KEPT),
}
"""Of what is not listed nothing is known."""

OVER_THE_REST = ("Hardmax", "LogSoftmax", "Softmax")
"""Before version 13 these flatten everything from their axis on."""


def couple_cumulative(c: Coupling) -> None:
    """What is summed up along an axis cannot be cut along it: later elements hold earlier ones."""
    axes = c.axes(0)
    axis = c.constant(1)
    for i, labels in enumerate(axes):
        if axis is None or axis.size != 1 or i == counted(int(axis.reshape(-1)[0]), len(axes)):
            c.freeze(labels, f"{c.op.node.op_type} runs along it")
    c.emit(axes)


def softmax(op_type: str) -> tuple[OpSpec, OpSpec]:
    over_rest: Couple = partial(couple_over_rest, what=op_type)
    over_axis: Couple = partial(couple_over_axis, what=op_type)
    quant = Quant.FLOAT if op_type == "Hardmax" else Quant.DISTRIBUTION
    sign = Sign.NONNEGATIVE if op_type == "Softmax" else Sign.ANY
    return (
        OpSpec(
            op_type=op_type,
            channels=ChannelRules(couple=over_rest, masked=mask_softmax_over_rest),
            quant=QuantRules(role=quant, sign=sign),
        ),
        OpSpec(
            op_type=op_type,
            since=13,
            channels=ChannelRules(couple=over_axis, masked=mask_softmax),
            quant=QuantRules(role=quant, sign=sign),
        ),
    )


def functions(names: Iterable[str], domain: str = "") -> Iterator[OpSpec]:
    """Of one element each, or of one and of parameters that broadcast."""
    for name in names:
        yield OpSpec(
            op_type=name,
            domain=domain,
            channels=ChannelRules(couple=couple_broadcast),
            quant=QuantRules(
                role=Quant.ACTIVATION,
                homogeneous=name in HOMOGENEOUS and not domain,
                sign=Sign.ANY if domain else SIGNS.get(name, Sign.ANY),
            ),
            shape=ShapeRules(infer=same_shape if domain else None),
            cost=CostRules(work=Work.ELEMENTWISE),
        )


def halved(op: OpView) -> Shape:
    """BiasSplitGelu: one half of the last axis times the Gelu of the other."""
    *others, last = op.partial(0, 3)
    return (*others, None if last is None else last // 2)


SPECS = (
    *(
        OpSpec(
            op_type=name,
            channels=ChannelRules(couple=couple_broadcast),
            shape=ShapeRules(conflict=broadcasting()),
            cost=CostRules(work=Work.ELEMENTWISE),
        )
        for name in LOGIC
    ),
    *(
        OpSpec(
            op_type=name,
            channels=ChannelRules(couple=couple_broadcast),
            quant=QuantRules(
                role=Quant.ARITHMETIC, divisor_at=1 if name in ("Div", "Mod") else None, sign=SIGNS.get(name, Sign.ANY)
            ),
            shape=ShapeRules(conflict=broadcasting()),
            fold=FoldRules(affine=Affine(values=arithmetic, when=is_numpy_like) if name in SCALES_AND_SHIFTS else None),
            cost=CostRules(work=Work.ELEMENTWISE),
        )
        for name in ARITHMETIC
    ),
    *functions((*FUNCTIONS, *ACTIVATIONS)),
    *(
        OpSpec(op_type=name, channels=ChannelRules(couple=couple_cumulative), cost=CostRules(work=Work.ELEMENTWISE))
        for name in ("CumSum", "CumProd")
    ),
    *functions(MICROSOFT, "com.microsoft"),
    *(
        OpSpec(op_type=name, domain="com.microsoft", shape=ShapeRules(infer=same_shape), cost=CostRules(work=Work.ELEMENTWISE))
        for name in MICROSOFT_SAME
    ),
    OpSpec(
        op_type="BiasSplitGelu", domain="com.microsoft", shape=ShapeRules(infer=halved), cost=CostRules(work=Work.ELEMENTWISE)
    ),
    *(spec for name in OVER_THE_REST for spec in softmax(name)),
    OpSpec(
        op_type="Equal",
        channels=ChannelRules(couple=couple_broadcast),
        shape=ShapeRules(compares=True, conflict=broadcasting()),
        cost=CostRules(work=Work.ELEMENTWISE),
    ),
    OpSpec(
        op_type="Cast",
        channels=ChannelRules(couple=couple_same),
        shape=ShapeRules(view=View()),
        cost=CostRules(work=Work.ELEMENTWISE),
    ),
    OpSpec(
        op_type="CastLike",
        since=15,
        channels=ChannelRules(couple=couple_same),
        shape=ShapeRules(view=View()),
        cost=CostRules(work=Work.ELEMENTWISE),
    ),
    OpSpec(op_type="BitCast", cost=CostRules(work=Work.FREE)),
)
