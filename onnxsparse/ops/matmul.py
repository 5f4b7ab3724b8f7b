"""Matrix products. Each element of a constant operand is used once per row of the other one it meets.

Source: the ONNX operator pages of MatMul, Gemm, Einsum, MatMulInteger and QLinearMatMul, numpy.matmul for broadcasting;
onnxruntime's ContribOperators for the com.microsoft ones.
"""

import math
from collections import Counter
from collections.abc import Callable
from functools import partial

from onnxsparse.ops.coupling import Couple, Coupling, Role
from onnxsparse.ops.exact import (
    exact_dynamic_matmul,
    exact_matmul_integer,
    exact_matmul_to_float,
    exact_nbits,
    exact_qgemm,
    exact_qlinear_matmul,
)
from onnxsparse.ops.folding import gemm_outputs, plain_gemm, scale_gemm
from onnxsparse.ops.forms import FloatForm, Operand, triple
from onnxsparse.ops.labels import Labels
from onnxsparse.ops.masking import mask_range
from onnxsparse.ops.sizes import Size, UnknownFact, broadcast, paired
from onnxsparse.ops.spec import Absorb, OpSpec, OpView, Packing, Quant, WeightAxes, WeightSlot, product


def matmul_macs(op: OpView) -> int:
    """Output elements × the contracted size, which is the first operand's last."""
    return product(op.output()) * op.input(0)[-1]


def fused_matmul_macs(op: OpView) -> int:
    """As `matmul_macs`, the first operand optionally transposed; transBatchA moves its row axis to the front."""
    a = op.input(0)
    contracted = a[-1]
    if op.number("transA", 0):
        contracted = a[0] if op.number("transBatchA", 0) else a[-2]
    return product(op.output()) * contracted


def fused_matmul_shape(op: OpView) -> Size:
    """numpy.matmul's, the operands transposed first; unknown where the batch axes are moved."""
    if op.number("transBatchA", 0) or op.number("transBatchB", 0) or min(len(op.input(0)), len(op.input(1))) < 2:
        raise UnknownFact("it moves batch axes, for which there is no rule")
    a, b = op.input(0), op.input(1)
    rows = a[-1] if op.number("transA", 0) else a[-2]
    columns = b[-2] if op.number("transB", 0) else b[-1]
    return (*broadcast(a[:-2], b[:-2]), rows, columns)


def gemm_macs(op: OpView) -> int:
    """M × N × K with A of M × K or, transposed, K × M."""
    rows, columns = op.output(rank=2)
    contracted = op.input(0)[0 if op.number("transA", 0) else 1]
    return rows * columns * contracted


def qgemm_shape(op: OpView) -> Size:
    """M × N, from A and, behind A's scale and zero point, B."""
    return op.input(0)[1 if op.number("transA", 0) else 0], op.input(3)[0 if op.number("transB", 0) else 1]


def einsum_macs(op: OpView) -> int:
    """Operands contracted from left to right: each step costs the product of all sizes that either side has.

    A label is summed as soon as no later operand and not the output needs it.
    """
    terms, output, sizes = einsum_labels(op)
    macs, current = 0, terms[0]
    for position, term in enumerate(terms[1:], start=1):
        macs += math.prod(sizes[label] for label in set(current) | set(term))
        needed = set(output).union(*terms[position + 1 :])
        current = [label for label in dict.fromkeys([*current, *term]) if label in needed]
    return macs


def einsum_labels(op: OpView) -> tuple[list[list[str]], list[str], dict[str, int]]:
    """The labels of each operand and of the output, and each label's size.

    An ellipsis becomes labels `…1`, `…2`, counted from its right end, as broadcasting aligns them.
    """
    left, arrow, right = op.text("equation", "").replace(" ", "").partition("->")
    terms: list[list[str]] = []
    sizes: dict[str, int] = {}
    for at, text in enumerate(left.split(",")):
        shape = op.input(at)
        hidden = len(shape) - len(text.replace("...", ""))
        head, dots, tail = text.partition("...")
        labels = [*head, *(f"…{i}" for i in range(hidden, 0, -1) if dots), *tail]
        if len(labels) != len(shape):
            raise UnknownFact(f"its equation has {len(labels)} letters for an input of {len(shape)} axes")
        for label, size in paired(labels, shape):
            sizes[label] = max(size, sizes.get(label, 1))  # sizes of 1 broadcast
        terms.append(labels)
    dots_labels = sorted((label for label in sizes if label[0] == "…"), reverse=True)
    if arrow:
        head, dots, tail = right.partition("...")
        return terms, [*head, *(dots_labels if dots else []), *tail], sizes
    # without an arrow the output has every label that occurs once, in alphabetical order
    counts = Counter(label for term in terms for label in term)
    return terms, [*dots_labels, *sorted(label for label, n in counts.items() if n == 1 and label[0] != "…")], sizes


def right_axes(op: OpView, at: int = 1) -> WeightAxes:
    """B of A·B is K × N, with batch axes before; a vector has K alone."""
    rank = len(op.input(at))
    return WeightAxes(output=rank - 1, input=max(rank - 2, 0))


def left_axes(op: OpView) -> WeightAxes:
    """A of A·B is M × K: each row makes an output of its own."""
    rank = len(op.input(0))
    return WeightAxes(output=max(rank - 2, 0), input=rank - 1)


def gemm_right_axes(op: OpView, at: int = 1) -> WeightAxes:
    return WeightAxes(output=0, input=1) if op.number("transB", 0) else WeightAxes(output=1, input=0)


def gemm_left_axes(op: OpView) -> WeightAxes:
    return WeightAxes(output=1, input=0) if op.number("transA", 0) else WeightAxes(output=0, input=1)


def fused_axes(op: OpView, at: int) -> WeightAxes:
    """FusedMatMul's operands with the last two axes optionally swapped."""
    plain = left_axes(op) if at == 0 else right_axes(op)
    swapped = op.number("transA" if at == 0 else "transB", 0)
    return WeightAxes(output=plain.input, input=plain.output) if swapped else plain


def einsum_axes(op: OpView, at: int) -> WeightAxes:
    """The input axis is the first contracted label's, the output axis the first kept one's that no other operand has."""
    terms, output, _ = einsum_labels(op)
    if at >= len(terms):
        raise UnknownFact(f"its equation has {len(terms)} terms")
    others = set().union(*(term for i, term in enumerate(terms) if i != at))
    labels = terms[at]
    contracted = [i for i, label in enumerate(labels) if label not in output]
    own = [i for i, label in enumerate(labels) if label in output and label not in others]
    return WeightAxes(output=(own or [0])[0], input=(contracted or [len(labels) - 1])[0])


def nbits_macs(op: OpView) -> int:
    """Rows of A × K × N; A is … × K."""
    return product(op.input(0)[:-1]) * op.required("K") * op.required("N")


def nbits_packing(op: OpView) -> Packing:
    return Packing(op.number("bits", 4), outputs=op.required("N"), inputs=op.required("K"), block=op.required("block_size"))


def nbits_axes(op: OpView) -> WeightAxes:
    return WeightAxes(output=0, input=1)


def couple_matmul(c: Coupling, a: int = 0, b: int = 1, per_column: tuple[int, ...] = ()) -> None:
    """numpy.matmul: the last axis of A meets the last but one of B, batch axes broadcast."""
    left, right = c.axes(a), c.axes(b)
    c.contract((a, len(left) - 1), (b, max(len(right) - 2, 0)))
    rows = [left[-2]] if len(left) > 1 else []
    columns = [c.produce(b, len(right) - 1)] if len(right) > 1 else []
    for at in per_column:
        if c.op.has_input(at) and len(c.axes(at)) == 1 and columns:
            c.follow(at, 0, columns[0])
    c.emit([*batch_axes(c, a, b), *rows, *columns])


def batch_axes(c: Coupling, a: int, b: int) -> list[Labels | None]:
    """All axes but the last two, aligned at their right ends; one of size 1 broadcasts."""
    sides = [list(paired(c.op.input(at), c.axes(at)))[:-2] for at in (a, b)]
    aligned = ([side[-back] for side in sides if len(side) >= back] for back in range(max(map(len, sides)), 0, -1))
    return [c.unite(*(labels for size, labels in there if size != 1)) for there in aligned]


def couple_fused_matmul(c: Coupling) -> None:
    """numpy.matmul of operands whose last two axes may be swapped."""
    if c.op.number("transBatchA", 0) or c.op.number("transBatchB", 0) or min(len(c.axes(0)), len(c.axes(1))) < 2:
        raise UnknownFact("it moves batch axes, or multiplies vectors, for which there is no rule")
    flip_a, flip_b = c.op.number("transA", 0), c.op.number("transB", 0)
    c.contract((0, len(c.axes(0)) - (2 if flip_a else 1)), (1, len(c.axes(1)) - (1 if flip_b else 2)))
    rows = c.axes(0)[-1 if flip_a else -2]
    columns = c.produce(1, len(c.axes(1)) - (2 if flip_b else 1))
    c.emit([*batch_axes(c, 0, 1), rows, columns])


def couple_dynamic_matmul(c: Coupling) -> None:
    """A is quantized by its range, B comes with scales and zero points, and there is a bias."""
    for labels in c.axes(0):
        c.crosses(labels, "a range for quantization")
    couple_matmul(c, per_column=(2, 3, 4))


def couple_gemm(c: Coupling, a: int = 0, b: int = 1, bias: int = 2, per_column: tuple[int, ...] = ()) -> None:
    """M × K by K × N, either transposed; the bias broadcasts to M × N."""
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


def couple_einsum(c: Coupling) -> None:
    """Axes of one letter go together; a letter that the output lacks is summed over."""
    terms, output, _ = einsum_labels(c.op)
    found: dict[str, Labels | None] = {}
    for letter in {letter for term in terms for letter in term}:
        places = [(at, i) for at, term in enumerate(terms) for i, other in enumerate(term) if other == letter]
        there = [c.axes(at)[i] for at, i in places if c.op.input(at)[i] != 1]
        found[letter] = c.unite(*there)
        if len({at for at, _ in places}) < len(places):
            c.freeze(found[letter], "is a diagonal")
        if letter not in output:
            c.contracted += places
            c.roles |= dict.fromkeys(places, Role.CONSUMES)
        elif len(places) == 1:
            c.roles[places[0]] = Role.PRODUCES
    c.emit([found.get(letter) for letter in output])


def qlinear_operands(op: OpView) -> tuple[Operand, ...]:
    """A with a scale for each row, B with one for each column."""
    return triple(0, axis=-2), triple(3, axis=-1)


def qgemm_operands(op: OpView) -> tuple[Operand, ...]:
    """As Gemm's; C has the scale of the products, alpha included."""
    return triple(0), triple(3, axis=0 if op.number("transB", 0) else 1), Operand(6, (1, 4), axis=-1)


def has_plain_bias(op: OpView, opset: int) -> bool:
    """C is on the scale of alpha times the products."""
    return not op.has_input(6) or op.real("alpha", 1.0) == 1


QLINEAR_MATMUL: Couple = partial(couple_matmul, b=3, per_column=(4, 5))
INTEGER_MATMUL: Couple = partial(couple_matmul, per_column=(3,))
FLOAT_MATMUL: Couple = partial(couple_matmul, per_column=(3, 5, 6))
QGEMM: Couple = partial(couple_gemm, b=3, bias=6, per_column=(4, 5))

AxesOf = Callable[[OpView], WeightAxes]
FUSED_LEFT: AxesOf = partial(fused_axes, at=0)
FUSED_RIGHT: AxesOf = partial(fused_axes, at=1)
QLINEAR_RIGHT: AxesOf = partial(right_axes, at=3)

BOTH_SIDES = (WeightSlot(at=1, axes=right_axes), WeightSlot(at=0, axes=left_axes))
GEMM_SIDES = (WeightSlot(at=1, axes=gemm_right_axes), WeightSlot(at=0, axes=gemm_left_axes))

SPECS = (
    OpSpec(op_type="MatMul", macs=matmul_macs, weights=BOTH_SIDES, couple=couple_matmul, quant=Quant.COMPUTE),
    OpSpec(
        op_type="Gemm",
        macs=gemm_macs,
        weights=GEMM_SIDES,
        absorb=Absorb(weight_at=1, bias_at=2, scale=scale_gemm, outputs=gemm_outputs, when=plain_gemm),
        couple=couple_gemm,
        quant=Quant.COMPUTE,
    ),
    OpSpec(
        op_type="Einsum",
        since=12,
        macs=einsum_macs,
        couple=couple_einsum,
        weights=tuple(WeightSlot(at=at, axes=partial(einsum_axes, at=at)) for at in (1, 0, 2, 3)),
    ),
    OpSpec(
        op_type="MatMulInteger",
        couple=INTEGER_MATMUL,
        since=10,
        macs=matmul_macs,
        weights=(WeightSlot(at=1, axes=right_axes, zero_point=3), WeightSlot(at=0, axes=left_axes, zero_point=2)),
        dynamic=True,
        exact=exact_matmul_integer,
    ),
    OpSpec(
        op_type="QLinearMatMul",
        couple=QLINEAR_MATMUL,
        since=10,
        macs=matmul_macs,
        weights=(
            WeightSlot(at=3, axes=QLINEAR_RIGHT, zero_point=5, scale=4),
            WeightSlot(at=0, axes=left_axes, zero_point=2, scale=1),
        ),
        form=FloatForm(op_type="MatMul", operands=qlinear_operands, result=(6, 7)),
        exact=exact_qlinear_matmul,
    ),
    OpSpec(
        op_type="MatMulIntegerToFloat",
        couple=FLOAT_MATMUL,
        domain="com.microsoft",
        macs=matmul_macs,
        weights=(WeightSlot(at=1, axes=right_axes, zero_point=5, scale=3),),
        dynamic=True,
        exact=exact_matmul_to_float,
    ),
    OpSpec(
        op_type="DynamicQuantizeMatMul",
        domain="com.microsoft",
        couple=couple_dynamic_matmul,
        masked=mask_range,
        shape=lambda op: (*op.input(0)[:-1], op.input(1)[-1]),
        macs=matmul_macs,
        weights=(WeightSlot(at=1, axes=right_axes, zero_point=3, scale=2),),
        dynamic=True,
        exact=exact_dynamic_matmul,
    ),
    OpSpec(
        op_type="QGemm",
        couple=QGEMM,
        shape=qgemm_shape,
        domain="com.microsoft",
        macs=gemm_macs,
        weights=(WeightSlot(at=3, axes=gemm_right_axes, zero_point=5, scale=4),),
        form=FloatForm(op_type="Gemm", operands=qgemm_operands, result=(7, 8), when=has_plain_bias),
        exact=exact_qgemm,
    ),
    OpSpec(op_type="FusedGemm", domain="com.microsoft", like="Gemm", macs=gemm_macs, weights=GEMM_SIDES, couple=couple_gemm),
    OpSpec(
        op_type="FusedMatMul",
        domain="com.microsoft",
        macs=fused_matmul_macs,
        couple=couple_fused_matmul,
        shape=fused_matmul_shape,
        weights=(WeightSlot(at=1, axes=FUSED_RIGHT), WeightSlot(at=0, axes=FUSED_LEFT)),
    ),
    OpSpec(
        op_type="MatMulNBits",
        domain="com.microsoft",
        macs=nbits_macs,
        weights=(WeightSlot(at=1, axes=nbits_axes, zero_point=3, packed=nbits_packing),),
        exact=exact_nbits,
    ),
)
