"""Convolutions. A Conv uses each weight once per output position, a ConvTranspose once per input position.

MACs count positions in padding and leave out the bias. Source: the ONNX operator pages of Conv, ConvTranspose, ConvInteger,
QLinearConv and DeformConv; onnxruntime's ContribOperators for those of com.microsoft.
"""

from functools import partial

from onnxsparse.ir.binding import Shape, format_shape
from onnxsparse.ops.conflicts import NONE, convolving, first_of, unequal
from onnxsparse.ops.coupling import Couple, Coupling, Role
from onnxsparse.ops.exact import exact_conv_integer, exact_qlinear_conv
from onnxsparse.ops.facets import Absorb, ChannelRules, FoldRules, Quant, QuantRules, ShapeRules
from onnxsparse.ops.folding import conv_outputs, conv_transpose_outputs, scale_conv, scale_conv_transpose
from onnxsparse.ops.forms import FloatForm, Operand, channels_first, triple
from onnxsparse.ops.labels import Labels
from onnxsparse.ops.linear_forms import conv_form, conv_transpose_form
from onnxsparse.ops.padding import padding_conv
from onnxsparse.ops.refit import Refit
from onnxsparse.ops.shapes import windows
from onnxsparse.ops.sizes import Listed, UnknownFact, divided
from onnxsparse.ops.spec import OpSpec, WeightAxes, WeightSlot
from onnxsparse.ops.view import OpView, product


def conv_macs(op: OpView, weight: int = 1) -> int:
    """Weight elements × batch × output positions. Weight: M × C/group × kernel; output: N × M × positions. Raises UnknownFact."""
    batch, _, *positions = op.output(least=2)
    return product(op.input(weight)) * batch * product(tuple(positions))


def conv_transpose_macs(op: OpView) -> int:
    """Weight elements × batch × input positions. Weight: C × M/group × kernel; input: N × C × positions. Raises UnknownFact."""
    batch, _, *positions = op.input(0, least=2)
    return product(op.input(1)) * batch * product(tuple(positions))


def last_conv_macs(op: OpView, weight: int = 1) -> int:
    """As `conv_macs`, with activations channels last: output N × positions × M. Raises UnknownFact."""
    return product(op.input(weight)) * product(op.output()[:-1])


def either_conv_macs(op: OpView, weight: int) -> int:
    """As `last_conv_macs` if the attribute `channels_last` is set, else as `conv_macs`. Raises UnknownFact."""
    return last_conv_macs(op, weight) if op.number("channels_last", 0) else conv_macs(op, weight)


def last_conv_shape(op: OpView, weight: int = 1) -> Shape:
    """Output of a convolution with activations channels last: N × positions × M. Raises UnknownFact."""
    x, w = op.partial(0), op.partial(weight)
    return (x[0], *windows(op, x[1:-1], w[2:]), w[0])


def either_conv_shape(op: OpView, weight: int) -> Shape:
    """Output in the layout that the attribute `channels_last` sets: N × positions × M, or N × M × positions. Raises
    UnknownFact.
    """
    if op.number("channels_last", 0):
        return last_conv_shape(op, weight)
    x, w = op.partial(0), op.partial(weight)
    return (x[0], w[0], *windows(op, x[2:], w[2:]))


def causal_macs(op: OpView) -> int:
    """Weight elements × batch × positions, which are axis 1 if `channels_last` is set, else all after the channels.

    Weight: C × 1 × kernel; the output has the input's positions. Raises UnknownFact.
    """
    output = op.output(least=3)
    positions = output[1:2] if op.number("channels_last", 0) else output[2:]
    return product(op.input(1)) * output[0] * product(positions)


def causal_shape(op: OpView) -> Shape:
    """The shape of the input; CUDA's `input_channels`, if set, is then the last axis. Raises UnknownFact."""
    x, chosen = op.partial(0), op.number("input_channels", 0)
    return (*x[:-1], chosen) if chosen else x


def causal_state(op: OpView) -> Shape:
    """N × C × length, with `channels_last` N × length × channels; `state_window` adds an axis in front. The length is the
    receptive field before a position. Raises UnknownFact, also for the state of several spatial axes.
    """
    if op.number("ndim", 1) != 1 or op.number("state_channels_last", -1) != -1 or op.number("state_length", 0):
        raise UnknownFact("its state has a layout for which there is no rule")
    x = Listed(causal_shape(op))
    batch, first, rest = x[0], x[1], x[2:]
    width, window = op.partial(1, 3)[2], op.number("state_window", 0)
    length = None if width is None else (width - 1) * op.number("dilation", 1)
    state = (batch, length, *rest) if op.number("channels_last", 0) else (batch, first, length)
    return (window, *state) if window else state


def channel_count(op: OpView) -> int:
    """Channels, each a group of its own. Weight: C × 1 × kernel. Raises UnknownFact."""
    return op.input(1)[0]


def conv_axes(op: OpView) -> WeightAxes:
    """Weight: M × C/group × kernel."""
    return WeightAxes(output=0, input=1)


def conv_transpose_axes(op: OpView) -> WeightAxes:
    """Weight: C × M/group × kernel."""
    return WeightAxes(output=1, input=0)


def group_count(op: OpView) -> int:
    """The attribute `group`. Raises UnknownFact for an attribute of another type."""
    return op.number("group", 1)


def is_depthwise(op: OpView, weight: int = 1) -> bool:
    """One input channel per group, and more than one group."""
    return op.number("group", 1) > 1 and op.input(weight)[1] == 1


def is_depthwise_transpose(op: OpView) -> bool:
    """One input channel per group, and more than one group."""
    return op.number("group", 1) == op.input(1)[0] > 1


def couple_conv(c: Coupling, weight: int = 1, per_output: tuple[int, ...] = (2,), residual: int = NONE) -> None:
    """X: N × C × positions; W: M × C/group × kernel; inputs `per_output`: bias, scales and zero points per output channel.

    The input `residual`, added to the result before an activation, has the shape of the result.
    """
    x, groups = c.axes(0), c.op.count("group", 1)
    for labels in (*x[2:], *c.axes(weight)[2:]):
        c.freeze(labels, "is convolved over")
    made = c.produce(weight, 0)
    if groups == 1:
        c.contract((0, 1), (weight, 1))
    else:
        couple_groups(c, weight, groups, made)
    for at in per_output:
        if c.op.has_input(at) and len(c.axes(at)) == 1:
            c.follow(at, 0, made)
    batch = x[0]
    if c.op.has_input(residual):
        z = c.axes(residual)
        batch, made = c.unite(batch, z[0]), c.unite(made, z[1])
        for labels in z[2:]:
            c.freeze(labels, "is added to positions of a convolution")
    c.emit((batch, made, *(None for _ in x[2:])))


def couple_groups(c: Coupling, weight: int, groups: int, made: Labels | None) -> None:
    """Grouped convolution: whole groups are cut with their inputs and outputs; or the same inputs, or outputs, within every
    group.
    """
    outputs, inputs = divided(c.op.input(weight)[0], groups), c.op.input(weight)[1]
    of_input = c.factor(c.axes(0)[1], (groups, inputs))
    of_output = c.factor(made, (groups, outputs))
    c.unite(of_input[0], of_output[0])
    if inputs > 1:
        c.unite(of_input[1], c.axes(weight)[1])
        c.contracted += [(0, 1), (weight, 1)]
        c.roles[weight, 1] = Role.CONSUMES


def couple_conv_transpose(c: Coupling) -> None:
    """X: N × C × positions; W: C × M/group × kernel."""
    x, w, groups = c.axes(0), c.axes(1), c.op.count("group", 1)
    for labels in (*x[2:], *w[2:]):
        c.freeze(labels, "is convolved over")
    if groups == 1:
        c.contract((0, 1), (1, 0))
        made = c.produce(1, 1)
    else:
        c.unite(x[1], w[0])
        c.roles[1, 0] = Role.CONSUMES
        within, channels, outputs = w[1], c.op.input(1)[0], c.op.input(1)[1]
        group = c.factor(w[0], (groups, divided(channels, groups)))[0]
        made = c.space.fresh(groups * outputs)
        both = c.factor(made, (groups, outputs))
        c.unite(both[0], group)
        if outputs > 1:
            c.unite(both[1], within)
        if channels > groups:
            c.contracted += [(0, 1), (1, 0)]
    c.follow(2, 0, made)
    c.emit((x[0], made, *(None for _ in x[2:])))


def refit_conv(r: Refit, weight: int = 1) -> None:
    """Set `group` to the number of groups that remain."""
    if r.old.number("group", 1) > 1:
        r.set("group", divided(r.new.input(0)[1], r.new.input(weight)[1]))


def refit_conv_transpose(r: Refit) -> None:
    """Set `group` to the number of groups that remain."""
    if r.old.number("group", 1) > 1:
        r.set("group", divided(r.new.output()[1], r.new.input(1)[1]))


def qlinear_operands(op: OpView) -> tuple[Operand, ...]:
    """X and W, each followed by scale and zero point; the result's two; a bias with the scale of the products."""
    return triple(0), triple(3, axis=0), Operand(8, (1, 4), axis=0)


QLINEAR_FORM = FloatForm(
    op_type="Conv", operands=qlinear_operands, result=(6, 7), without=("channels_last",), when=channels_first
)

RESIDUAL = 3
"""Input of onnxruntime's fused convolutions that is added to the result before the activation."""


def adding(op: OpView) -> str | None:
    """Why the residual input does not have the shape of the result, or None. Raises UnknownFact."""
    if not op.has_input(RESIDUAL):
        return None
    z, made = op.partial(RESIDUAL), op.outputs[0] if op.outputs else None
    if made is None:
        raise UnknownFact("the number of axes of its output is not known")
    different = len(z) != len(made) or any(map(unequal, z, made))
    return f"cannot add {format_shape(z)} to {format_shape(made)}" if different else None


QLINEAR: Couple = partial(couple_conv, weight=3, per_output=(4, 5, 8))
INTEGER: Couple = partial(couple_conv, per_output=(3,))

KERNEL = WeightSlot(at=1, axes=conv_axes)
PLAIN_KERNEL = WeightSlot(at=1, axes=conv_axes, form=conv_form)

SPECS = (
    OpSpec(
        op_type="Conv",
        macs=conv_macs,
        weights=(PLAIN_KERNEL,),
        depthwise=is_depthwise,
        groups=group_count,
        channels=ChannelRules(couple=couple_conv, refit=refit_conv),
        quant=QuantRules(role=Quant.COMPUTE),
        shape=ShapeRules(conflict=convolving()),
        fold=FoldRules(absorb=Absorb(weight_at=1, bias_at=2, scale=scale_conv, outputs=conv_outputs), take_zeros=padding_conv),
    ),
    OpSpec(
        op_type="ConvTranspose",
        macs=conv_transpose_macs,
        weights=(WeightSlot(at=1, axes=conv_transpose_axes, form=conv_transpose_form),),
        depthwise=is_depthwise_transpose,
        groups=group_count,
        channels=ChannelRules(couple=couple_conv_transpose, refit=refit_conv_transpose),
        quant=QuantRules(role=Quant.COMPUTE),
        shape=ShapeRules(conflict=convolving(transposed=True)),
        fold=FoldRules(absorb=Absorb(weight_at=1, bias_at=2, scale=scale_conv_transpose, outputs=conv_transpose_outputs)),
    ),
    OpSpec(op_type="DeformConv", since=19, macs=conv_macs, weights=(KERNEL,), depthwise=is_depthwise, groups=group_count),
    OpSpec(
        op_type="ConvInteger",
        since=10,
        macs=conv_macs,
        weights=(WeightSlot(at=1, axes=conv_axes, zero_point=3),),
        depthwise=is_depthwise,
        groups=group_count,
        channels=ChannelRules(couple=INTEGER, refit=refit_conv),
        quant=QuantRules(dynamic=True, exact=exact_conv_integer),
        shape=ShapeRules(conflict=convolving(bias=NONE)),
    ),
    OpSpec(
        op_type="QLinearConv",
        since=10,
        macs=partial(conv_macs, weight=3),
        weights=(WeightSlot(at=3, axes=conv_axes, zero_point=5, scale=4),),
        depthwise=partial(is_depthwise, weight=3),
        groups=group_count,
        channels=ChannelRules(couple=QLINEAR, refit=partial(refit_conv, weight=3)),
        quant=QuantRules(form=QLINEAR_FORM, exact=exact_qlinear_conv),
        shape=ShapeRules(conflict=convolving(3, 8)),
    ),
    OpSpec(
        op_type="QLinearConv",
        domain="com.microsoft",
        macs=partial(either_conv_macs, weight=3),
        weights=(WeightSlot(at=3, axes=conv_axes, zero_point=5, scale=4),),
        depthwise=partial(is_depthwise, weight=3),
        groups=group_count,
        quant=QuantRules(form=QLINEAR_FORM, exact=exact_qlinear_conv),
        shape=ShapeRules(infer=partial(either_conv_shape, weight=3), typed_by=(7, 0), conflict=convolving(3, 8)),
    ),
    OpSpec(
        op_type="FusedConv",
        domain="com.microsoft",
        macs=conv_macs,
        weights=(PLAIN_KERNEL,),
        depthwise=is_depthwise,
        groups=group_count,
        channels=ChannelRules(couple=partial(couple_conv, residual=RESIDUAL), refit=refit_conv),
        shape=ShapeRules(like="Conv", conflict=first_of(convolving(), adding)),
    ),
    *(
        OpSpec(
            op_type=name,
            domain="com.microsoft",
            macs=last_conv_macs,
            weights=(KERNEL,),
            depthwise=is_depthwise,
            groups=group_count,
            shape=ShapeRules(infer=last_conv_shape, conflict=first_of(convolving(last=True), adding)),
        )
        for name in ("NhwcConv", "NhwcFusedConv")
    ),
    OpSpec(
        op_type="CausalConvWithState",
        domain="com.microsoft",
        macs=causal_macs,
        weights=(KERNEL,),
        depthwise=lambda op: True,
        groups=channel_count,
        shape=ShapeRules(infer=causal_shape, more=(causal_state,)),
    ),
)
