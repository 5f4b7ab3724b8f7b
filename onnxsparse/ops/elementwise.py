"""Arithmetic, comparison, activation: one output element per input position, no multiply-accumulate."""

from onnxsparse.ops.spec import OpSpec, View, same_shape

ARITHMETIC = """
Abs Add Ceil Clip CumProd CumSum Div Exp Floor Log Max Mean Min Mod Mul Neg Pow Reciprocal Round Sign Sqrt Sub Sum
Acos Acosh Asin Asinh Atan Atanh Cos Cosh Sin Sinh Tan Tanh Erf Det
""".split()

LOGIC = """
And BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or
Where Xor
""".split()

ACTIVATIONS = """
Celu Elu Gelu HardSigmoid HardSwish Hardmax LeakyRelu LogSoftmax Mish PRelu Relu Selu Shrink Sigmoid Softmax Softplus
Softsign SwiGLU Swish ThresholdedRelu
""".split()

MICROSOFT = """
BiasGelu BiasSoftmax FastGelu Gelu QuickGelu QLinearLeakyRelu QLinearSigmoid QLinearSoftmax
""".split()

MICROSOFT_BROADCAST = """
BiasAdd BiasDropout BiasSplitGelu QLinearAdd QLinearConcat QLinearMul QLinearWhere
""".split()

SPECS = (
    *(OpSpec(op_type=name) for name in (*ARITHMETIC, *LOGIC, *ACTIVATIONS)),
    *(OpSpec(op_type=name, domain="com.microsoft", shape=same_shape) for name in MICROSOFT),
    *(OpSpec(op_type=name, domain="com.microsoft") for name in MICROSOFT_BROADCAST),
    OpSpec(op_type="Equal", compares=True),
    OpSpec(op_type="Cast", view=View()),
    OpSpec(op_type="CastLike", since=15, view=View()),
    OpSpec(op_type="BitCast"),
)
