"""Masked ops for the reference of a cut: the same op over the kept channels, written in standard ops.

In a sum a channel of zeros adds nothing, so zeros are enough. A mean, an extreme or a normalisation is different with zeros; a
rule here writes it over the kept elements. It shares no code with the cutter, so that the two can be compared. Rules raise
UnknownFact if they lack a fact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ops.sizes import UnknownFact, counted
from onnxsparse.ops.view import OpView

FAR = 1e30
"""Added to or subtracted from removed elements so that no maximum, minimum or exponential sees them. Far above any activation,
and far enough below float32's maximum of 3.4e38 that the sum stays finite.
"""

Mask = NDArray[np.bool_]


@dataclass
class Masking:
    """One node of the reference."""

    op: OpView
    """The node, at the uncut sizes."""
    keep: Callable[[int, int], Mask | None]
    """(input, axis) → which indices are kept. None: all."""
    value: Callable[[int], NDArray[np.generic] | None]
    """Value of a constant input by position. None: it is computed."""
    add: Callable[..., str]
    """(op type, inputs, attributes…) adds a node and returns its output's name."""
    constant: Callable[[NDArray[np.float32] | NDArray[np.int64]], str]
    """Stores an array and returns its name."""
    again: Callable[[str], str]
    """Adds a copy of the node with another first input, and returns its output's name."""
    finish: Callable[..., None]
    """(name, output=0) makes this value the node's output."""

    @property
    def x(self) -> str:
        """Name of the first input."""
        return self.op.node.input[0]

    def mask(self, axes: Sequence[int]) -> Mask:
        """Which elements are kept along `axes`, of the input's rank, with size 1 along every other axis and where all are
        kept.
        """
        rank = len(self.op.input(0))
        found = np.ones([1] * rank, np.bool_)
        for axis in axes:
            kept = self.keep(0, axis)
            if kept is not None:
                shape = [1] * rank
                shape[axis] = kept.size
                found = found & kept.reshape(shape)
        return found

    def numbers(self, values: NDArray[np.generic] | float) -> str:
        """Name of a float32 constant with these values."""
        return self.constant(np.asarray(values, np.float32))

    def mean(self, value: str, axes: Sequence[int], mask: Mask) -> str:
        """Name of the mean over the kept elements, `axes` kept with size 1."""
        zeroed = self.add("Mul", [value, self.numbers(mask)])
        summed = self.sum(zeroed, axes)
        shape = [size if i in axes else mask.shape[i] for i, size in enumerate(self.op.input(0))]
        count = np.maximum(np.broadcast_to(mask, shape).sum(tuple(axes), keepdims=True), 1)
        return self.add("Div", [summed, self.numbers(count)])

    def sum(self, value: str, axes: Sequence[int]) -> str:
        """Name of the sum over `axes`, kept with size 1."""
        return self.add("ReduceSum", [value, self.constant(np.array(axes, np.int64))], keepdims=1)


def reduced_axes(op: OpView, value: Callable[[int], NDArray[np.generic] | None]) -> set[int]:
    """The axes that a reduction reduces, from an attribute or input 1; all if it names none. Raises UnknownFact if they are
    computed.
    """
    rank = len(op.input(0))
    given: Sequence[int] = op.numbers("axes")
    if not given and op.has_input(1):
        values = value(1)
        if values is None:
            raise UnknownFact("its axes are computed")
        given = values.reshape(-1).tolist()
    if not given:
        return set() if op.number("noop_with_empty_axes", 0) else set(range(rank))
    return {counted(axis, rank) for axis in given}


def mask_softmax(m: Masking) -> None:
    """Softmax over one axis: removed elements are moved to −FAR, so that their exponential is 0."""
    mask_exponentials(m, [m.op.number("axis", -1) % len(m.op.input(0))])


def mask_softmax_over_rest(m: Masking) -> None:
    """Softmax before version 13: as `mask_softmax`, over all axes from `axis` on."""
    rank = len(m.op.input(0))
    mask_exponentials(m, range(m.op.number("axis", 1) % rank, rank))


def mask_exponentials(m: Masking, axes: Sequence[int]) -> None:
    """The op again with removed elements along `axes` at −FAR."""
    mask = m.mask(axes)
    if not mask.all():
        m.finish(m.again(m.add("Add", [m.x, m.numbers(np.where(mask, 0.0, -FAR))])))


def mask_range(m: Masking) -> None:
    """A range for quantization: removed elements are 0, which every such range contains."""
    mask = m.mask(range(len(m.op.input(0))))
    if not mask.all():
        m.finish(m.again(m.add("Mul", [m.x, m.numbers(mask)])))


def mask_reduction(m: Masking) -> None:
    """ReduceMean over the kept elements; ReduceMax and ReduceMin with removed elements at ∓FAR."""
    kind = m.op.node.op_type
    mask = m.mask(sorted(reduced_axes(m.op, m.value)))
    if mask.all():
        return
    if kind == "ReduceMean":
        share = mask.mean()  # the op divides by the number of all elements, removed ones included
        m.finish(m.add("Div", [m.again(m.add("Mul", [m.x, m.numbers(mask)])), m.numbers(float(share))]))
        return
    away = -FAR if kind == "ReduceMax" else FAR
    m.finish(m.again(m.add("Add", [m.x, m.numbers(np.where(mask, 0.0, away))])))


def mask_layer_norm(m: Masking) -> None:
    """(x − mean) / sqrt(variance + ε) · scale + bias; the RMS variants subtract no mean.

    The mean and 1 / sqrt(variance + ε) are further outputs. Source: the ONNX operator page of LayerNormalization.
    """
    rank = len(m.op.input(0))
    axes = list(range(m.op.number("axis", -1) % rank, rank))
    mask = m.mask(axes)
    if mask.all():
        return
    centred = m.op.node.op_type == "LayerNormalization"
    mean = [m.mean(m.x, axes, mask)] if centred else []
    value = m.add("Sub", [m.x, *mean]) if mean else m.x
    deviation = deviation_of(m, value, axes, mask)
    m.finish(scale_and_shift(m, m.add("Div", [value, deviation])))
    for at, made in enumerate([*mean, m.add("Reciprocal", [deviation])], start=1):
        m.finish(made, at)


def mask_skip_norm(m: Masking) -> None:
    """SkipLayerNormalization: as `mask_layer_norm`, of the sum of two inputs and a bias. Its other outputs stay as they are.
    Source: onnxruntime's ContribOperators.
    """
    axes = [len(m.op.input(0)) - 1]
    if m.mask(axes).all():
        return
    m.again(m.x)
    centred = m.op.node.op_type == "SkipLayerNormalization"
    total, bias = m.add("Add", [m.x, m.op.node.input[1]]), 4 if centred else 3
    if m.op.has_input(bias):
        total = m.add("Add", [total, m.op.node.input[bias]])
    standard = standardise(m, total, axes, m.mask(axes), centred=centred, default=1e-12)
    normalised = m.add("Mul", [standard, m.op.node.input[2]])
    m.finish(m.add("Add", [normalised, m.op.node.input[3]]) if centred and m.op.has_input(3) else normalised)


def mask_instance_norm(m: Masking) -> None:
    """As `mask_layer_norm`, over the axes after the channels; scale and bias per channel."""
    rank = len(m.op.input(0))
    axes = list(range(2, rank))
    if m.mask(axes).all():
        return
    normalised = standardise(m, m.x, axes, m.mask(axes), centred=True)
    m.finish(scale_and_shift(m, normalised, along_channels=True))


def mask_group_norm(m: Masking) -> None:
    """As `mask_layer_norm`, over the channels and positions of each group."""
    batch, channels, *rest = m.op.input(0)
    groups = m.op.count("num_groups")
    kept = m.keep(0, 1)
    if kept is None:
        return
    shape = (batch, groups, channels // groups, *rest)
    grouped = m.add("Reshape", [m.x, m.constant(np.array(shape, np.int64))])
    mask = kept.reshape(1, groups, channels // groups, *(1 for _ in rest))
    axes = list(range(2, len(shape)))
    normalised = standardise(regrouped(m, shape), grouped, axes, mask, centred=True)
    flat = m.add("Reshape", [normalised, m.constant(np.array(m.op.input(0), np.int64))])
    m.finish(scale_and_shift(m, flat, along_channels=True, repeat=channels // groups if m.op.input(1)[0] == groups else 1))


def regrouped(m: Masking, shape: Sequence[int]) -> Masking:
    """The same node with its input seen in another shape."""
    return replace(m, op=replace(m.op, inputs=(tuple(shape), *m.op.inputs[1:])))


def standardise(m: Masking, value: str, axes: Sequence[int], mask: Mask, *, centred: bool, default: float = 1e-5) -> str:
    """Name of (x − mean) / sqrt(variance + ε), or x / sqrt(variance + ε) if not `centred`, over the kept elements; `default`:
    ε without an attribute.
    """
    if centred:
        value = m.add("Sub", [value, m.mean(value, axes, mask)])
    return m.add("Div", [value, deviation_of(m, value, axes, mask, default)])


def deviation_of(m: Masking, centred: str, axes: Sequence[int], mask: Mask, default: float = 1e-5) -> str:
    """Name of sqrt(variance + ε) of values without a mean."""
    variance = m.mean(m.add("Mul", [centred, centred]), axes, mask)
    return m.add("Sqrt", [m.add("Add", [variance, m.numbers(m.op.real("epsilon", default))])])


def scale_and_shift(m: Masking, value: str, *, along_channels: bool = False, repeat: int = 1) -> str:
    """Multiply by input 1 and add input 2, where they exist.

    `along_channels`: they have one element per channel (axis 1), each repeated `repeat` times.
    """
    rank = len(m.op.input(0))
    for at, op_type in ((1, "Mul"), (2, "Add")):
        if not m.op.has_input(at):
            continue
        parameter = m.op.node.input[at]
        if along_channels:
            column = m.add("Reshape", [parameter, m.constant(np.array([-1, 1], np.int64))])
            if repeat > 1:
                column = m.add("Tile", [column, m.constant(np.array([1, repeat], np.int64))])
            parameter = m.add("Reshape", [column, m.constant(np.array([-1, *(1 for _ in range(rank - 2))], np.int64))])
        value = m.add(op_type, [value, parameter])
    return value
