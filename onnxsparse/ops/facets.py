"""What is known of an op beside its multiply-accumulates: a facet each for channels, quantization, shapes, folding and cost."""

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
    """Element by element: part of the op that makes its input, where nothing else feeds it."""
    WINDOW = auto()
    """Looks over an axis or a neighbourhood: reads its input and writes its output."""
    MOVE = auto()
    """Reads and writes, and computes nothing."""
    FREE = auto()
    """Another view of the same bytes, or nothing but sizes."""
    HOST = auto()
    """What it does, or how much it makes, depends on values: no accelerator runs it."""


class Quant(Enum):
    """What an op does where a target computes in integers."""

    COMPUTE = auto()
    """Multiplies and accumulates: operands and result have scales of their own, the bias that of the products."""
    ACTIVATION = auto()
    """A function of one element: part of what makes its input, where the target has it so."""
    ARITHMETIC = auto()
    """Combines values of different scales into one of another."""
    JOIN = auto()
    """Puts values of different scales side by side: under one scale, where the target wants that."""
    FOLLOW = auto()
    """Moves or picks elements: its result has its first input's scale."""
    DISTRIBUTION = auto()
    """Makes shares that sum to one, which eight bits resolve badly: stays float, and so does the mean that is taken over them."""
    BOUNDARY = auto()
    """Between integers and floats: a scale that is there already."""
    FLOAT = auto()
    """Stays as it is."""


class Sign(Enum):
    """Whether elements of a result can be negative."""

    ANY = auto()
    KEPT = auto()
    """None is, where no input's is."""
    NONNEGATIVE = auto()
    CLIPPED = auto()
    """None is below the attribute `min` or, since version 11, input 1."""


@dataclass(frozen=True, kw_only=True)
class View:
    """How a constant passes through: `axes(op, rank)` gives, per axis seen behind the op, the axis before it (None: lost)."""

    axes: Callable[[OpView, int], tuple[int, ...] | None] = field(default=lambda op, rank: tuple(range(rank)))
    zero_point: int | None = None
    scale: int | None = None


@dataclass(frozen=True, kw_only=True)
class Affine:
    """An op that computes scale · x + shift per channel (axis 1), where `when` holds and all its inputs but x are constant.

    `values(op, inputs, rank, channels)`: scale and shift, None where it does more; the input that is None is x, of `rank` axes.
    `shift_at`: the input that a shift has its name from; None: the only constant.
    """

    values: "Callable[[OpView, Sequence[NDArray[np.float64] | None], int, int], ScaleShift | None]"
    when: Callable[[OpView], bool] = field(default=lambda op: True)
    shift_at: int | None = None


@dataclass(frozen=True)
class ScaleShift:
    """One number each for every channel."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Absorb:
    """A linear op that takes a scale and shift of its outputs into the weight `weight_at` and the bias `bias_at`.

    `outputs`: how many channels a weight of that shape makes.
    """

    weight_at: int
    bias_at: int
    scale: Callable[[OpView, NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
    outputs: Callable[[OpView, Size], int]
    when: Callable[[OpView], bool] = field(default=lambda op: True)


@dataclass(frozen=True, kw_only=True)
class ChannelRules:
    """How cut channels pass through an op."""

    couple: Callable[[Coupling], None] | None = None
    """Declares which axes of its inputs and outputs are cut together. None: no cut passes."""
    refit: Callable[[Refit], None] | None = None
    """Corrects the node's attributes and constants after a cut. None: nothing needs correction."""
    masked: Callable[[Masking], None] | None = None
    """Computes the op over the kept channels alone, for the reference of a cut. None: zeros in a sum are enough."""


@dataclass(frozen=True, kw_only=True)
class QuantRules:
    """What an op does where a target computes in integers."""

    role: Quant = Quant.FLOAT
    divisor_at: int | None = None
    """The input that it divides by, which no grid may round to zero."""
    homogeneous: bool = False
    """Whether a positive factor on a channel of its input comes out on the same channel of its output."""
    sign: Sign = Sign.ANY
    fill_at: int | None = None
    """The input with the element that it adds around others; without that input it adds zeros."""
    form: FloatForm | None = None
    """The float op that an op on integers stands for."""
    dynamic: bool = False
    """Whether it computes with integers whose scale follows from the data."""
    exact: Callable[[Exact], None] | None = None
    """Writes its sums of integer products as float nodes; its kernels saturate on some processors."""
    selects: tuple[int, ...] = ()
    """Inputs of which a small change may change which elements are selected, so that values downstream do not compare."""


@dataclass(frozen=True, kw_only=True)
class ShapeRules:
    """What follows of an op's outputs from its inputs: shapes, types, values, and where their elements come from."""

    like: str | None = None
    """The standard op that shape inference takes it for, where onnx does not define it."""
    infer: Callable[[OpView], Shape] | None = None
    """Shape of the first output, where onnx's inference does not know it. Raises UnknownFact."""
    more: tuple[Callable[[OpView], Shape], ...] = ()
    """Shapes of the outputs after the first. Raise UnknownFact."""
    typed_by: tuple[int, ...] = (0,)
    """Inputs, of which the first that is present has the outputs' element type."""
    needs_values: tuple[int, ...] = ()
    """Inputs whose values its formulas read, beside shapes."""
    sequence: Callable[[Sequences], None] | None = None
    """What happens to the sequences of tensors that it takes or produces."""
    conflict: Callable[[OpView], str | None] | None = None
    """Why inputs of these sizes cannot meet, with the two sizes, where onnx's inference does not look. None: they can.

    Raises UnknownFact.
    """
    value: Callable[[OpView], NDArray[np.generic]] | None = None
    """Its output, where that follows from its inputs' shapes. Raises UnknownFact."""
    view: View | None = None
    """How a constant passes through, if it keeps its elements and where its zeros are."""
    moves: bool = False
    """Whether its outputs are elements of its inputs, moved, left out or repeated."""
    index_at: int | None = None
    """The input whose values are positions along an axis of input 0."""
    compares: bool = False
    """Whether it tells which elements are equal to another input's."""


@dataclass(frozen=True, kw_only=True)
class FoldRules:
    """What an op may be folded into, or replaced by."""

    allowed: bool = True
    """Whether on constants alone it may be replaced by its result."""
    makes: Callable[[OpView, Sequence[NDArray[np.generic]]], int | None] | None = None
    """How many integers an op that is not `allowed` makes of constant inputs; what is computed from few may still be replaced."""
    passes: Callable[[OpView], bool] | None = None
    """Whether its first output is its first input, its other outputs unused."""
    affine: Affine | None = None
    """How it scales and shifts channels by constants."""
    absorb: Absorb | None = None
    """How it takes in a scale and shift of its output."""
    zeros: Callable[[OpView, Constant], Zeros | None] | None = None
    """How many zeros it puts around its input. None: it does something else."""
    take_zeros: Callable[[OpView, Zeros], Attributes | None] | None = None
    """Its attributes with such zeros in its own padding. None: it cannot take them."""


@dataclass(frozen=True, kw_only=True)
class CostRules:
    """How an op occupies a device, beside multiply-accumulates."""

    work: Work = Work.WINDOW
    in_place: Callable[[OpView], bool] | None = None
    """Whether its inputs, if nothing else uses them, can be produced where its output is to be."""
