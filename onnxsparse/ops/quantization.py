"""Quantize and dequantize: a constant that goes through keeps its elements; its zeros are where the zero point is."""

from onnxsparse.ops.spec import OpSpec, View, Work

DEQUANTIZE = View(scale=1, zero_point=2)

SPECS = (
    OpSpec(op_type="DequantizeLinear", since=10, view=DEQUANTIZE, folds=False, work=Work.ELEMENTWISE),
    OpSpec(op_type="DequantizeLinear", domain="com.microsoft", view=DEQUANTIZE, folds=False, work=Work.ELEMENTWISE),
    # folding would leave the integers without their quantizer, or the quantizer without its float weight
    # a float weight that is quantized in the graph, as in QAT models, has its zeros where the float ones are
    OpSpec(op_type="QuantizeLinear", since=10, view=View(), folds=False, work=Work.ELEMENTWISE),
    OpSpec(op_type="QuantizeLinear", domain="com.microsoft", view=View(), folds=False, work=Work.ELEMENTWISE),
    OpSpec(op_type="DynamicQuantizeLinear", since=11),
)
