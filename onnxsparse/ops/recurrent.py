"""Recurrent layers. Each weight is used once per step and batch element; peepholes and the gates' elementwise work are not
counted.

Shapes, with d directions: W is d × gates·hidden × input, R is d × gates·hidden × hidden. Source: the ONNX operator pages of RNN,
GRU and LSTM; onnxruntime's ContribOperators for DynamicQuantizeLSTM.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from onnxsparse.ir.binding import Shape
from onnxsparse.ops.conflicts import recurring, starting
from onnxsparse.ops.coupling import Coupling, Role
from onnxsparse.ops.facets import ChannelRules, QuantRules, ShapeRules
from onnxsparse.ops.linear_forms import GatesForm
from onnxsparse.ops.refit import Refit
from onnxsparse.ops.spec import OpSpec, WeightAxes, WeightSlot
from onnxsparse.ops.view import OpView, product


def steps(op: OpView) -> int:
    """Sequence length × batch, the first two axes of X in either layout. Raises UnknownFact."""
    return product(op.input(0)[:2])


def operand_macs(op: OpView, at: int) -> int:
    """Steps × elements of the weight at input `at`. Raises UnknownFact."""
    return steps(op) * product(op.input(at))


def recurrent_macs(op: OpView) -> int:
    """Those of W and R. Raises UnknownFact."""
    return operand_macs(op, 1) + operand_macs(op, 2)


def recurrent_axes(op: OpView) -> WeightAxes:
    """W: d × gates·hidden × input; R likewise."""
    return WeightAxes(output=1, input=2)


def slot(at: int) -> WeightSlot:
    """The weight at input `at`, with its own multiply-accumulates."""
    macs: Callable[[OpView], int] = partial(operand_macs, at=at)
    # R multiplies states, which are no activation of the graph
    return WeightSlot(at=at, axes=recurrent_axes, macs=macs, form=input_form if at == 1 else None)


def input_form(op: OpView) -> GatesForm:
    """W. Raises UnknownFact for a weight whose shape is not known."""
    return GatesForm(directions=op.input(1, rank=3)[0])


def quantized_slot(at: int, scale: int, zero_point: int) -> WeightSlot:
    """DynamicQuantizeLSTM's weights are transposed: d × input × 4·hidden."""
    macs: Callable[[OpView], int] = partial(operand_macs, at=at)
    return WeightSlot(at=at, axes=lambda op: WeightAxes(output=2, input=1), macs=macs, scale=scale, zero_point=zero_point)


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Op → gates per unit, which is how often a unit occurs along the second axis of W and R."""


def couple_recurrent(c: Coupling) -> None:
    """One label per hidden unit, shared by all gates and both directions.

    X: steps × batch × input (or batch first). W: d × gates·hidden × input. R: d × gates·hidden × hidden. B: d × 2·gates·hidden.
    States: d × batch × hidden. P: d × 3·hidden. Y: steps × d × batch × hidden (batch first: batch × steps × d × hidden).
    """
    gates = GATES[c.op.node.op_type]
    unit = c.space.fresh(c.op.input(2)[2])
    c.contract((0, 2), (1, 2))
    for at, axis, times in ((1, 1, gates), (2, 1, gates), (2, 2, 1), (3, 1, 2 * gates), (7, 1, 3)):
        if c.op.has_input(at):
            c.unite(c.axes(at)[axis], np.tile(unit, times))
    c.roles |= {(1, 1): Role.PRODUCES, (2, 1): Role.PRODUCES, (2, 2): Role.CONSUMES}
    c.contracted.append((2, 2))
    for at in (5, 6):
        if c.op.has_input(at):
            c.unite(c.axes(at)[-1], unit)
    for at in range(len(c.op.node.output)):
        shape = c.op.outputs[at] if at < len(c.op.outputs) else None
        if shape is not None:
            c.emit((*(None for _ in shape[:-1]), unit), at)


def couple_dynamic_lstm(c: Coupling) -> None:
    """All axes stay: input and states are quantized at every step by ranges computed inside the op."""
    for at in range(len(c.op.node.input)):
        if c.op.has_input(at):
            c.freeze_all(at, "is quantized by a range inside DynamicQuantizeLSTM")
    c.roles |= {(1, 2): Role.PRODUCES, (2, 2): Role.PRODUCES}


def refit_recurrent(r: Refit) -> None:
    """Set `hidden_size`."""
    r.set("hidden_size", r.new.input(2)[2])


def dynamic_outputs(op: OpView) -> Shape:
    """Y of DynamicQuantizeLSTM: steps × d × batch × hidden. Raises UnknownFact."""
    steps, batch, _ = op.partial(0, 3)
    return steps, op.partial(1, 3)[0], batch, op.required("hidden_size")


def dynamic_state(op: OpView) -> Shape:
    """The last state: d × batch × hidden. Raises UnknownFact."""
    return dynamic_outputs(op)[1:]


SPECS = (
    *(
        OpSpec(
            op_type=name,
            macs=recurrent_macs,
            weights=(slot(1), slot(2)),
            channels=ChannelRules(couple=couple_recurrent, refit=refit_recurrent),
            shape=ShapeRules(conflict=recurring),
        )
        for name in GATES
    ),
    OpSpec(
        op_type="DynamicQuantizeLSTM",
        domain="com.microsoft",
        macs=recurrent_macs,
        weights=(quantized_slot(1, scale=8, zero_point=9), quantized_slot(2, scale=10, zero_point=11)),
        channels=ChannelRules(couple=couple_dynamic_lstm),
        quant=QuantRules(dynamic=True),
        shape=ShapeRules(infer=dynamic_outputs, more=(dynamic_state, dynamic_state), conflict=starting),
    ),
)
