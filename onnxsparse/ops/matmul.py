"""Matrix products. Each element of a constant operand is used once per row of the other operand that it meets.

Source: the ONNX operator pages of MatMul, Gemm, MatMulInteger and QLinearMatMul, numpy.matmul for broadcasting; onnxruntime's
ContribOperators for those of com.microsoft.
"""

from collections.abc import Callable
from functools import partial

from onnxsparse.ir.binding import Shape
from onnxsparse.ops.conflicts import columns, gemm, multiplying
from onnxsparse.ops.coupling import Couple, Coupling
from onnxsparse.ops.exact import (
    exact_dynamic_matmul,
    exact_matmul_integer,
    exact_matmul_to_float,
    exact_nbits,
    exact_qgemm,
    exact_qlinear_matmul,
)
from onnxsparse.ops.facets import Absorb, ChannelRules, FoldRules, Quant, QuantRules, ShapeRules
from onnxsparse.ops.folding import gemm_outputs, plain_gemm, scale_gemm
from onnxsparse.ops.forms import FloatForm, Operand, triple
from onnxsparse.ops.labels import Labels
from onnxsparse.ops.linear_forms import gemm_right_form, left_form, right_form
from onnxsparse.ops.masking import mask_range
from onnxsparse.ops.shapes import arranged, matrix_product
from onnxsparse.ops.sizes import UnknownFact, known, paired
from onnxsparse.ops.spec import OpSpec, Packing, WeightAxes, WeightSlot
from onnxsparse.ops.view import OpView, product


def matmul_macs(op: OpView) -> int:
    """Output elements × the contracted size, which is the last axis of the first operand. Raises UnknownFact."""
    return product(op.output()) * op.input(0)[-1]


def fused_matmul_macs(op: OpView) -> int:
    """As `matmul_macs`, after the transpositions of FusedMatMul. Raises UnknownFact."""
    return product(op.output()) * known(arranged(op, 0, "A"))[-1]


def fused_matmul_shape(op: OpView) -> Shape:
    """numpy.matmul's shape after the transpositions of FusedMatMul. Raises UnknownFact."""
    return matrix_product(arranged(op, 0, "A"), arranged(op, 1, "B"))


def product_shape(op: OpView) -> Shape:
    """numpy.matmul's shape of inputs 0 and 1. Raises UnknownFact."""
    return matrix_product(op.partial(0), op.partial(1))


def gemm_macs(op: OpView) -> int:
    """M × N × K; A is M × K or, transposed, K × M. Raises UnknownFact."""
    rows, columns = op.output(rank=2)
    contracted = op.input(0)[0 if op.number("transA", 0) else 1]
    return rows * columns * contracted


def qgemm_shape(op: OpView) -> Shape:
    """M × N, from A (input 0) and B (input 3). Raises UnknownFact."""
    return arranged(op, 0, "A")[0], arranged(op, 3, "B")[-1]


def right_axes(op: OpView, at: int = 1) -> WeightAxes:
    """B of A·B: … × K × N; a vector has K alone. Raises UnknownFact."""
    rank = len(op.input(at))
    return WeightAxes(output=rank - 1, input=max(rank - 2, 0))


def left_axes(op: OpView) -> WeightAxes:
    """A of A·B: … × M × K; each row produces one output. Raises UnknownFact."""
    rank = len(op.input(0))
    return WeightAxes(output=max(rank - 2, 0), input=rank - 1)


def gemm_right_axes(op: OpView) -> WeightAxes:
    """B of Gemm: K × N or, transposed, N × K."""
    return WeightAxes(output=0, input=1) if op.number("transB", 0) else WeightAxes(output=1, input=0)


def gemm_left_axes(op: OpView) -> WeightAxes:
    """A of Gemm: M × K or, transposed, K × M."""
    return WeightAxes(output=1, input=0) if op.number("transA", 0) else WeightAxes(output=0, input=1)


def fused_axes(op: OpView, at: int) -> WeightAxes:
    """Operand `at` of FusedMatMul: its last two axes, or the first and the last, optionally swapped. Raises UnknownFact."""
    plain, letter = (left_axes(op), "A") if at == 0 else (right_axes(op), "B")
    if len(op.input(at)) < 2:
        return plain
    row, column = (0 if op.number(f"transBatch{letter}", 0) else len(op.input(at)) - 2), len(op.input(at)) - 1
    if op.number(f"trans{letter}", 0):
        row, column = column, row
    return WeightAxes(output=row, input=column) if at == 0 else WeightAxes(output=column, input=row)


def nbits_macs(op: OpView) -> int:
    """Rows of A × K × N; A is … × K. Raises UnknownFact."""
    return product(op.input(0)[:-1]) * op.required("K") * op.required("N")


def nbits_packing(op: OpView) -> Packing:
    """Width, size and blocks of MatMulNBits's weight, from its attributes. Raises UnknownFact."""
    return Packing(op.number("bits", 4), outputs=op.required("N"), inputs=op.required("K"), block=op.required("block_size"))


def nbits_shape(op: OpView) -> Shape:
    """… × N; A is … × K. Raises UnknownFact."""
    return (*op.partial(0)[:-1], op.required("N"))


def nbits_axes(op: OpView) -> WeightAxes:
    """Weight: N × blocks × bytes."""
    return WeightAxes(output=0, input=1)


def bnb4_shape(op: OpView) -> Shape:
    """… × N; A is … × K. Without `transB` the other way round: … × K from … × N. Raises UnknownFact."""
    return (*op.partial(0)[:-1], op.required("N" if op.number("transB", 1) else "K"))


def bnb4_packing(op: OpView) -> Packing:
    """MatMulBnb4's weight: N × K codes of 4 bits, flattened. Raises UnknownFact for codes other than FP4 (0) and NF4 (1).

    onnxruntime computes 0 from these codes alone, of which FP4 has two.
    """
    zeros = {0: (0, 8), 1: (7,)}.get(op.required("quant_type"))
    if zeros is None:
        raise UnknownFact(f"its quant_type {op.required('quant_type')} is neither FP4 nor NF4")
    return Packing(4, outputs=op.required("N"), inputs=op.required("K"), block=op.required("block_size"), zeros=zeros)


def bnb4_axes(op: OpView) -> WeightAxes:
    """Raises UnknownFact: the axes of the weight are flattened."""
    raise UnknownFact("its weight is flattened")


def couple_matmul(c: Coupling, a: int = 0, b: int = 1, per_column: tuple[int, ...] = ()) -> None:
    """numpy.matmul: the last axis of A is contracted with the last but one of B; batch axes broadcast.

    `a`, `b`: input positions; `per_column`: inputs with one element per column of B.
    """
    left, right = c.axes(a), c.axes(b)
    c.contract((a, len(left) - 1), (b, max(len(right) - 2, 0)))
    rows = [left[-2]] if len(left) > 1 else []
    columns = [c.produce(b, len(right) - 1)] if len(right) > 1 else []
    for at in per_column:
        if c.op.has_input(at) and len(c.axes(at)) == 1 and columns:
            c.follow(at, 0, columns[0])
    c.emit([*batch_axes(c, a, b), *rows, *columns])


def batch_axes(c: Coupling, a: int, b: int) -> list[Labels | None]:
    """The axes before the last two, aligned at their right ends; size 1 broadcasts."""
    sides = [list(paired(c.op.input(at), c.axes(at)))[:-2] for at in (a, b)]
    aligned = ([side[-back] for side in sides if len(side) >= back] for back in range(max(map(len, sides)), 0, -1))
    return [c.unite(*(labels for size, labels in there if size != 1)) for there in aligned]


def couple_fused_matmul(c: Coupling) -> None:
    """numpy.matmul of operands whose last two axes may be swapped. Raises UnknownFact for moved batch axes and for vectors."""
    if c.op.number("transBatchA", 0) or c.op.number("transBatchB", 0) or min(len(c.axes(0)), len(c.axes(1))) < 2:
        raise UnknownFact("it moves batch axes, or multiplies vectors, for which there is no rule")
    flip_a, flip_b = c.op.number("transA", 0), c.op.number("transB", 0)
    c.contract((0, len(c.axes(0)) - (2 if flip_a else 1)), (1, len(c.axes(1)) - (1 if flip_b else 2)))
    rows = c.axes(0)[-1 if flip_a else -2]
    columns = c.produce(1, len(c.axes(1)) - (2 if flip_b else 1))
    c.emit([*batch_axes(c, 0, 1), rows, columns])


def couple_activated_matmul(c: Coupling) -> None:
    """As `couple_fused_matmul`. Raises UnknownFact for an activation that reduces over an axis."""
    if c.op.text("activation", "").endswith(("Softmax", "Hardmax")):
        raise UnknownFact("its activation reduces over an axis, for which there is no rule")
    couple_fused_matmul(c)


def couple_dynamic_matmul(c: Coupling) -> None:
    """DynamicQuantizeMatMul: A is quantized by its own range; B has scales, zero points and a bias."""
    for labels in c.axes(0):
        c.crosses(labels, "a quantization range")
    couple_matmul(c, per_column=(2, 3, 4))


def couple_gemm(c: Coupling, a: int = 0, b: int = 1, bias: int = 2, per_column: tuple[int, ...] = ()) -> None:
    """M × K by K × N, either transposed; the bias broadcasts to M × N. `per_column`: inputs with one element per column of B."""
    flip_a, flip_b = c.op.number("transA", 0), c.op.number("transB", 0)
    c.contract((a, 0 if flip_a else 1), (b, 1 if flip_b else 0))
    rows = c.axes(a)[1 if flip_a else 0]
    columns = c.produce(b, 0 if flip_b else 1)
    if c.op.has_input(bias):
        axes = c.axes(bias)
        if axes:
            c.follow(bias, -1, columns)
        if len(axes) > 1:
            c.follow(bias, -2, rows)
    for at in per_column:
        if c.op.has_input(at) and len(c.axes(at)) == 1:
            c.follow(at, 0, columns)
    c.emit((rows, columns))


def qlinear_operands(op: OpView) -> tuple[Operand, ...]:
    """A with a scale per row, B with a scale per column."""
    return triple(0, axis=-2), triple(3, axis=-1)


def qgemm_operands(op: OpView) -> tuple[Operand, ...]:
    """As Gemm's; C has the scale of the products, alpha included."""
    return triple(0), triple(3, axis=0 if op.number("transB", 0) else 1), Operand(6, (1, 4), axis=-1)


def has_plain_bias(op: OpView, opset: int) -> bool:
    """Whether C can be read as a bias of the float Gemm: its scale includes alpha, so alpha must be 1."""
    return not op.has_input(6) or op.real("alpha", 1.0) == 1


QLINEAR_MATMUL: Couple = partial(couple_matmul, b=3, per_column=(4, 5))
INTEGER_MATMUL: Couple = partial(couple_matmul, per_column=(3,))
FLOAT_MATMUL: Couple = partial(couple_matmul, per_column=(3, 5, 6))
QGEMM: Couple = partial(couple_gemm, b=3, bias=6, per_column=(4, 5))

AxesOf = Callable[[OpView], WeightAxes]
FUSED_LEFT: AxesOf = partial(fused_axes, at=0)
FUSED_RIGHT: AxesOf = partial(fused_axes, at=1)
QLINEAR_RIGHT: AxesOf = partial(right_axes, at=3)

BOTH_SIDES = (WeightSlot(at=1, axes=right_axes, form=right_form), WeightSlot(at=0, axes=left_axes, form=left_form))
GEMM_SIDES = (WeightSlot(at=1, axes=gemm_right_axes, form=gemm_right_form), WeightSlot(at=0, axes=gemm_left_axes))

SPECS = (
    OpSpec(
        op_type="MatMul",
        macs=matmul_macs,
        weights=BOTH_SIDES,
        channels=ChannelRules(couple=couple_matmul),
        quant=QuantRules(role=Quant.COMPUTE),
        shape=ShapeRules(conflict=multiplying()),
    ),
    OpSpec(
        op_type="Gemm",
        macs=gemm_macs,
        weights=GEMM_SIDES,
        channels=ChannelRules(couple=couple_gemm),
        quant=QuantRules(role=Quant.COMPUTE),
        shape=ShapeRules(conflict=gemm()),
        fold=FoldRules(absorb=Absorb(weight_at=1, bias_at=2, scale=scale_gemm, outputs=gemm_outputs, when=plain_gemm)),
    ),
    OpSpec(
        op_type="MatMulInteger",
        since=10,
        macs=matmul_macs,
        weights=(WeightSlot(at=1, axes=right_axes, zero_point=3), WeightSlot(at=0, axes=left_axes, zero_point=2)),
        channels=ChannelRules(couple=INTEGER_MATMUL),
        quant=QuantRules(dynamic=True, exact=exact_matmul_integer),
        shape=ShapeRules(conflict=multiplying()),
    ),
    OpSpec(
        op_type="QLinearMatMul",
        since=10,
        macs=matmul_macs,
        weights=(
            WeightSlot(at=3, axes=QLINEAR_RIGHT, zero_point=5, scale=4),
            WeightSlot(at=0, axes=left_axes, zero_point=2, scale=1),
        ),
        channels=ChannelRules(couple=QLINEAR_MATMUL),
        quant=QuantRules(form=FloatForm(op_type="MatMul", operands=qlinear_operands, result=(6, 7)), exact=exact_qlinear_matmul),
        shape=ShapeRules(conflict=multiplying(b=3)),
    ),
    OpSpec(
        op_type="MatMulIntegerToFloat",
        domain="com.microsoft",
        macs=matmul_macs,
        weights=(WeightSlot(at=1, axes=right_axes, zero_point=5, scale=3),),
        channels=ChannelRules(couple=FLOAT_MATMUL),
        quant=QuantRules(dynamic=True, exact=exact_matmul_to_float),
        shape=ShapeRules(infer=product_shape, typed_by=(2,), conflict=multiplying()),
    ),
    OpSpec(
        op_type="DynamicQuantizeMatMul",
        domain="com.microsoft",
        macs=matmul_macs,
        weights=(WeightSlot(at=1, axes=right_axes, zero_point=3, scale=2),),
        channels=ChannelRules(couple=couple_dynamic_matmul, masked=mask_range),
        quant=QuantRules(dynamic=True, exact=exact_dynamic_matmul),
        shape=ShapeRules(infer=product_shape, conflict=multiplying()),
    ),
    OpSpec(
        op_type="QGemm",
        domain="com.microsoft",
        macs=gemm_macs,
        weights=(WeightSlot(at=3, axes=gemm_right_axes, zero_point=5, scale=4),),
        channels=ChannelRules(couple=QGEMM),
        quant=QuantRules(
            form=FloatForm(op_type="Gemm", operands=qgemm_operands, result=(7, 8), when=has_plain_bias), exact=exact_qgemm
        ),
        shape=ShapeRules(infer=qgemm_shape, typed_by=(8, 1), conflict=gemm(b=3, bias=6)),
    ),
    OpSpec(
        op_type="FusedGemm",
        domain="com.microsoft",
        macs=gemm_macs,
        weights=GEMM_SIDES,
        channels=ChannelRules(couple=couple_gemm),
        shape=ShapeRules(like="Gemm", conflict=gemm()),
    ),
    OpSpec(
        op_type="GemmFastGelu",
        domain="com.microsoft",
        macs=matmul_macs,
        weights=BOTH_SIDES,
        channels=ChannelRules(couple=partial(couple_matmul, per_column=(2,))),
        shape=ShapeRules(infer=product_shape, conflict=multiplying()),
    ),
    *(
        OpSpec(
            op_type=name,
            domain="com.microsoft",
            macs=fused_matmul_macs,
            weights=(WeightSlot(at=1, axes=FUSED_RIGHT), WeightSlot(at=0, axes=FUSED_LEFT)),
            channels=ChannelRules(couple=couple_fused_matmul if name != "FusedMatMulActivation" else couple_activated_matmul),
            shape=ShapeRules(infer=fused_matmul_shape, conflict=multiplying()),
        )
        for name in ("FusedMatMul", "FusedMatMulActivation", "TransposeMatMul")
    ),
    OpSpec(
        op_type="MatMulNBits",
        domain="com.microsoft",
        macs=nbits_macs,
        weights=(WeightSlot(at=1, axes=nbits_axes, zero_point=3, packed=nbits_packing),),
        quant=QuantRules(exact=exact_nbits),
        shape=ShapeRules(infer=nbits_shape, conflict=columns("K")),
    ),
    OpSpec(
        op_type="MatMulBnb4",
        domain="com.microsoft",
        macs=nbits_macs,
        weights=(WeightSlot(at=1, axes=bnb4_axes, packed=bnb4_packing),),
        shape=ShapeRules(infer=bnb4_shape),
    ),
)
