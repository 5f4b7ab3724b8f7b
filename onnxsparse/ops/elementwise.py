"""Arithmetic, comparison, activation: one output element per input position, no multiply-accumulates.

Source: the ONNX operator pages; onnxruntime's ContribOperators for those of com.microsoft.
"""

from collections.abc import Iterable, Iterator
from functools import partial

from onnxsparse.ir.binding import Shape
from onnxsparse.ops.conflicts import broadcasting, normalising
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
"""f(a · x) = a · f(x) for positive a."""

COMMON_FACTOR = ("Add", "Max", "Mean", "Min", "Sub", "Sum")
"""f(a · x, a · y) = a · f(x, y) for positive a."""

SIGNS = {
    **dict.fromkeys(("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softplus", "Sqrt"), Sign.NONNEGATIVE),
    **dict.fromkeys(("Add", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sum"), Sign.KEPT),
    **dict.fromkeys(("Ceil", "Celu", "Elu", "Floor", "Gelu", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Round"), Sign.KEPT),
    **dict.fromkeys(("Selu", "Sign", "Softsign", "Swish", "Tanh"), Sign.KEPT),
}
"""Signs of results; an op that is not listed has Sign.ANY."""

OVER_THE_REST = ("Hardmax", "LogSoftmax", "Softmax")
"""Ops that before version 13 flatten all axes from `axis` on."""


def couple_cumulative(c: Coupling) -> None:
    """CumSum, CumProd: the axis stays whole, because later elements contain earlier ones. All axes stay if it is unknown."""
    axes = c.axes(0)
    axis = c.constant(1)
    for i, labels in enumerate(axes):
        if axis is None or axis.size != 1 or i == counted(int(axis.reshape(-1)[0]), len(axes)):
            c.freeze(labels, f"{c.op.node.op_type} runs along it")
    c.emit(axes)


def softmax(op_type: str) -> tuple[OpSpec, OpSpec]:
    """The specs of a Softmax-like op: before version 13 over all flattened axes, since then over one."""
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


def sloping(op: OpView) -> str | None:
    """PRelu: the slope must broadcast. One of a single axis is not checked: before opset 7 it was one element per channel."""
    return broadcasting(0, 1)(op) if len(op.partial(1)) > 1 else None


PARAMETERS = {"BiasGelu": normalising(1), "FastGelu": normalising(1), "PRelu": sloping}
"""Ops whose further input must have a certain size."""


def functions(names: Iterable[str], domain: str = "") -> Iterator[OpSpec]:
    """Specs of unary functions, and of functions whose further inputs are parameters that broadcast."""
    for name in names:
        yield OpSpec(
            op_type=name,
            domain=domain,
            channels=ChannelRules(couple=couple_broadcast),
            quant=QuantRules(
                role=Quant.ACTIVATION,
                homogeneous=name in HOMOGENEOUS and not domain,
                sign=Sign.ANY if domain else SIGNS.get(name, Sign.ANY),
                floor=clip_floor if name == "Clip" and not domain else None,
                bounds=((1, "min"), (2, "max")) if name == "Clip" and not domain else (),
            ),
            shape=ShapeRules(infer=same_shape if domain else None, conflict=PARAMETERS.get(name)),
            cost=CostRules(work=Work.ELEMENTWISE),
        )


def clip_floor(op: OpView) -> float:
    """The lower bound: attribute `min` or, since version 11, input 1. −∞ if there is none, or it is computed."""
    if "min" in op.attributes:
        return op.real("min", 0.0)
    bound = op.values.get(op.node.input[1]) if op.has_input(1) else None
    return float("-inf") if bound is None or not bound.size else float(bound.min())


def halved(op: OpView) -> Shape:
    """BiasSplitGelu: half of the last axis, times the Gelu of the other half; output … × last/2."""
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
                role=Quant.ARITHMETIC,
                divisor_at=1 if name in ("Div", "Mod") else None,
                sign=SIGNS.get(name, Sign.ANY),
                common_factor=name in COMMON_FACTOR,
                bilinear=name == "Mul",
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
