"""Facets of an OpSpec: what is known of an op for channel pruning, quantization, shape inference, folding and cost.

Rules are functions of an OpView, or of a dataclass around one. A rule that lacks a fact raises UnknownFact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from onnxsparse.ir.binding import Shape
from onnxsparse.ops.coupling import Coupling
from onnxsparse.ops.exact import Exact
from onnxsparse.ops.forms import FloatForm
from onnxsparse.ops.masking import Masking
from onnxsparse.ops.padding import Attributes, Constant, Zeros
from onnxsparse.ops.parts import Sequences
from onnxsparse.ops.refit import Refit
from onnxsparse.ops.sizes import Size
from onnxsparse.ops.view import OpView


class Work(Enum):
    """How an op without multiply-accumulates occupies a device."""

    ELEMENTWISE = auto()
    """One output element per input position; fused into the producer if that has no other user."""
    WINDOW = auto()
    """Reads a neighbourhood or a whole axis per output element; reads its input and writes its output."""
    MOVE = auto()
    """Reads and writes without computing."""
    FREE = auto()
    """Another view of the same bytes, or sizes alone: takes no time."""
    HOST = auto()
    """Depends on values in what it does or how much it produces; runs on the host, not on an accelerator."""


class Quant(Enum):
    """What an op does on a target that computes in integers."""

    COMPUTE = auto()
    """Multiplies and accumulates. Operands and result have a scale each; the bias has the scale of the products."""
    ACTIVATION = auto()
    """Elementwise function; fused into its producer if the target lists the op in `absorbs`."""
    ARITHMETIC = auto()
    """Combines values of different scales into one of a new scale."""
    JOIN = auto()
    """Places values side by side; they share one scale if the target requires it."""
    FOLLOW = auto()
    """Moves or selects elements: the result has the scale of the first input."""
    DISTRIBUTION = auto()
    """Produces shares that sum to 1, which 8 bits resolve badly. Stays float, as does a mean weighted by them."""
    BOUNDARY = auto()
    """Converts between integers and floats by a scale that the model already holds."""
    FLOAT = auto()
    """Stays float."""


class Sign(Enum):
    """Whether elements of a result can be negative."""

    ANY = auto()
    """They can."""
    KEPT = auto()
    """Not if no element of an input is negative."""
    NONNEGATIVE = auto()
    """Never."""


@dataclass(frozen=True, kw_only=True)
class View:
    """How a constant passes through an op that keeps its elements."""

    axes: Callable[[OpView, int], tuple[int, ...] | None] = field(default=lambda op, rank: tuple(range(rank)))
    """(op, rank) → for each axis after the op, the axis before it. None: the axes are not recoverable (Reshape)."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """The scale by which an op turns the floats of its first input into integers, or integers into floats."""

    to_integers: bool
    """Whether integers come out; otherwise floats do."""
    scale: int
    """The input that holds the scale, or several of them."""
    zero_point: int
    """The input that holds the integers which stand for zero; zero where it is left out."""
    axis: Callable[[OpView], int]
    """The axis along which several scales lie; a negative one counts from the end. Raises UnknownFact."""
    block: Callable[[OpView], int]
    """How many elements of that axis share a scale; 0: each index has its own. Raises UnknownFact."""


@dataclass(frozen=True, kw_only=True)
class Affine:
    """An op that computes scale · x + shift per channel (axis 1) if all inputs but x are constant."""

    values: "Callable[[OpView, Sequence[NDArray[np.float64] | None], int, int], ScaleShift | None]"
    """(op, inputs as float64 with None for x, rank of x, channels) → scale and shift. None: this node computes something else."""
    when: Callable[[OpView], bool] = field(default=lambda op: True)
    """Whether the op is affine at all with these attributes and outputs."""
    shift_at: int | None = None
    """Input that the shift is named after. None: the only constant."""


@dataclass(frozen=True)
class ScaleShift:
    """Scale and shift per channel, each a float64 vector with one element per channel."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Absorb:
    """A linear op that can take a scale and shift of its outputs into its weight and bias."""

    weight_at: int
    """Input that holds the weight."""
    bias_at: int
    """Input that holds the bias; it may be missing."""
    scale: Callable[[OpView, NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
    """(op, weight, scale per output channel) → the scaled weight."""
    outputs: Callable[[OpView, Size], int]
    """(op, shape of the weight) → number of output channels."""
    when: Callable[[OpView], bool] = field(default=lambda op: True)
    """Whether the node's attributes allow it."""


@dataclass(frozen=True, kw_only=True)
class ChannelRules:
    """How removed channels pass through an op."""

    couple: Callable[[Coupling], None] | None = None
    """Declares which axes of its inputs and outputs are cut together. Raises UnknownFact. None: no cut passes through the op."""
    refit: Callable[[Refit], None] | None = None
    """Corrects the node's attributes and constant inputs after a cut. Raises UnknownFact. None: nothing needs correction."""
    masked: Callable[[Masking], None] | None = None
    """Computes the op over the kept channels alone, for the reference of a cut. None: zeros in a sum suffice."""


@dataclass(frozen=True, kw_only=True)
class QuantRules:
    """What an op does on a target that computes in integers."""

    role: Quant = Quant.FLOAT
    """Its place between scales."""
    divisor_at: int | None = None
    """Input that it divides by, which no grid may round to zero. None: it does not divide."""
    homogeneous: bool = False
    """Whether a positive factor on an input channel appears unchanged on the same output channel, if there is one."""
    common_factor: bool = False
    """Whether a positive factor on all of its inputs appears on its result: f(k·x, k·y) = k · f(x, y)."""
    bilinear: bool = False
    """Whether a factor on either of its two inputs appears on its result: f(k·x, y) = f(x, k·y) = k · f(x, y)."""
    bounds: tuple[tuple[int, str], ...] = ()
    """Inputs, and attributes in their place, with numbers to which it limits its first input."""
    sign: Sign = Sign.ANY
    """Whether elements of its result can be negative."""
    floor: Callable[[OpView], float] | None = None
    """The number that no element of its result is below, from attributes and constant inputs; −∞ if there is none."""
    scaling: Scaling | None = None
    """The scale of an op whose role is BOUNDARY."""
    fill_at: int | None = None
    """Input with the element that it adds around the others; without that input it adds zeros. None: it adds none."""
    fill_attribute: str = ""
    """Attribute with an element that it adds around the others, in versions without `fill_at` or in some modes."""
    form: FloatForm | None = None
    """The float op that this integer op stands for. None: it is no integer op, or has no such form."""
    dynamic: bool = False
    """Whether it computes in integers whose scale follows from the data at run time."""
    exact: Callable[[Exact], None] | None = None
    """Writes its sums of integer products as float nodes, because its kernels saturate on some processors. None: not needed."""
    selects: tuple[int, ...] = ()
    """Inputs in which a small change may change which elements are selected; values downstream are then not comparable."""


@dataclass(frozen=True, kw_only=True)
class ShapeRules:
    """What follows from an op's inputs about its outputs: shapes, types, values, and the origin of their elements."""

    like: str | None = None
    """Standard op whose shape inference applies, for an op that onnx does not define. None: no such op."""
    infer: Callable[[OpView], Shape] | None = None
    """Shape of the first output if onnx's inference does not know it. Raises UnknownFact. None: onnx's inference is enough."""
    more: tuple[Callable[[OpView], Shape], ...] = ()
    """Shapes of the outputs after the first, in order. Each raises UnknownFact."""
    typed_by: tuple[int, ...] = (0,)
    """Inputs in order of preference; the outputs have the element type of the first that is present."""
    needs_values: tuple[int, ...] = ()
    """Inputs whose values, not only shapes, its formulas read."""
    sequence: Callable[[Sequences], None] | None = None
    """Sets what the op does with the sequences of tensors that it takes or produces. Raises UnknownFact. None: it handles none.
    """
    conflict: Callable[[OpView], str | None] | None = None
    """Why inputs of these sizes are invalid, naming the two sizes, where onnx's inference does not check. Raises UnknownFact.

    Returns None if the sizes are valid.
    """
    value: Callable[[OpView], NDArray[np.generic]] | None = None
    """Its output if that follows from the shapes of its inputs (Shape, Size). Raises UnknownFact. None: it does not."""
    view: View | None = None
    """How a constant passes through, for an op that keeps elements and the position of their zeros. None: it does not keep them.
    """
    moves: bool = False
    """Whether its outputs consist of elements of its inputs, moved, dropped or repeated."""
    index_at: int | None = None
    """Input whose values are positions along an axis of input 0. None: it takes no positions."""
    index_axis: Callable[[OpView], int] | None = None
    """That axis, for an op with `index_at`; a negative one counts from the end. Raises UnknownFact."""
    compares: bool = False
    """Whether it reports which elements equal another input's."""


@dataclass(frozen=True, kw_only=True)
class FoldRules:
    """What an op can be folded into or replaced by."""

    allowed: bool = True
    """Whether it may be replaced by its result if all inputs are constant. False for ops whose result can be far larger than
    their inputs, and for quantizers.
    """
    makes: Callable[[OpView, Sequence[NDArray[np.generic]]], int | None] | None = None
    """(op, constant inputs) → number of integers produced, for an op that is not `allowed`; ops downstream of few integers may be
    replaced. None: unknown, or floats.
    """
    passes: Callable[[OpView], bool] | None = None
    """Whether its first output equals its first input and its other outputs are unused. None: never."""
    affine: Affine | None = None
    """How it scales and shifts channels by constants. None: it does not."""
    absorb: Absorb | None = None
    """How it takes in a scale and shift of its output. None: it cannot."""
    zeros: Callable[[OpView, Constant], Zeros | None] | None = None
    """(op, value of a constant input by position) → the zeros it adds around its input. None, or a result of None: it does
    something else.
    """
    take_zeros: Callable[[OpView, Zeros], Attributes | None] | None = None
    """(op, zeros) → its attributes with the zeros added to its own padding. None, or a result of None: it cannot take them."""


@dataclass(frozen=True, kw_only=True)
class CostRules:
    """How an op occupies a device, apart from multiply-accumulates."""

    work: Work = Work.WINDOW
    """How its time is estimated."""
    in_place: Callable[[OpView], bool] | None = None
    """Whether its inputs, if they have no other user, can be produced directly in its output's memory. None: never."""
