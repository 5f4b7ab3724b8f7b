"""Arithmetic, comparison, activation: one output element per input position, no multiply-accumulate."""

from onnxsparse.ops.spec import OpSpec, View, Work, same_shape

ARITHMETIC = """
Abs Add Ceil Clip CumProd CumSum Div Exp Floor Log Max Mean Min Mod Mul Neg Pow Reciprocal Round Sign Sqrt Sub Sum
Acos Acosh Asin Asinh Atan Atanh Cos Cosh Sin Sinh Tan Tanh Erf Det
""".split()

OVER_AN_AXIS = "Hardmax LogSoftmax Softmax".split()

LOGIC = """
And BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or
Where Xor
""".split()

ACTIVATIONS = """
Celu Elu Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Selu Shrink Sigmoid Softplus Softsign SwiGLU Swish ThresholdedRelu
""".split()

MICROSOFT = """
BiasGelu BiasSoftmax FastGelu Gelu QuickGelu QLinearLeakyRelu QLinearSigmoid QLinearSoftmax
""".split()

MICROSOFT_BROADCAST = """
BiasAdd BiasDropout BiasSplitGelu QLinearAdd QLinearConcat QLinearMul QLinearWhere
""".split()

SPECS = (
    *(OpSpec(op_type=name, work=Work.ELEMENTWISE) for name in (*ARITHMETIC, *LOGIC, *ACTIVATIONS)),
    *(OpSpec(op_type=name, domain="com.microsoft", shape=same_shape, work=Work.ELEMENTWISE) for name in MICROSOFT),
    *(OpSpec(op_type=name, domain="com.microsoft", work=Work.ELEMENTWISE) for name in MICROSOFT_BROADCAST),
    *(OpSpec(op_type=name) for name in OVER_AN_AXIS),
    OpSpec(op_type="Equal", compares=True, work=Work.ELEMENTWISE),
    OpSpec(op_type="Cast", view=View(), work=Work.ELEMENTWISE),
    OpSpec(op_type="CastLike", since=15, view=View(), work=Work.ELEMENTWISE),
    OpSpec(op_type="BitCast", work=Work.FREE),
)
