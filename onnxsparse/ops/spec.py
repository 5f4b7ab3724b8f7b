"""What the toolkit knows of one op, and what a formula about it can see."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxsparse.ir.binding import Shape as Shape
from onnxsparse.ops.sizes import Size as Size
from onnxsparse.ops.sizes import UnknownFact as UnknownFact
from onnxsparse.ops.view import OpView

if TYPE_CHECKING:
    from onnxsparse.ops.coupling import Coupling
    from onnxsparse.ops.exact import Exact
    from onnxsparse.ops.forms import FloatForm
    from onnxsparse.ops.masking import Masking
    from onnxsparse.ops.padding import Attributes, Constant, Zeros
    from onnxsparse.ops.parts import Sequences
    from onnxsparse.ops.refit import Refit


@dataclass(frozen=True)
class WeightAxes:
    """Which axis of a weight counts outputs and which inputs, as the op sees the weight."""

    output: int
    input: int


@dataclass(frozen=True, kw_only=True)
class WeightSlot:
    """An input that takes a weight tensor when it is constant.

    `macs`: multiply-accumulates that use this input (default: all of the op's). `zero_point`, `scale`: inputs with the
    integer that stands for zero, and the size of one step. `stored`: elements of the weight as the op reads it, where
    that is not the constant's element count.
    """

    at: int
    axes: Callable[[OpView], WeightAxes]
    macs: Callable[[OpView], int] | None = None
    zero_point: int | None = None
    scale: int | None = None
    packed: Callable[[OpView], "Packing"] | None = None


@dataclass(frozen=True)
class Packing:
    """A weight of less than a byte per element: bits each, elements in all, blocks of them along the input axis."""

    bits: int
    outputs: int
    inputs: int
    block: int


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
class OpSpec:
    """All that is known of an op from version `since` of its domain on.

    `macs` None: the op multiplies and accumulates nothing (it costs 0 MACs).
    `work`: what it costs a device beside multiply-accumulates.
    `in_place`: its inputs, if nothing else reads them, can be made where its output is to be.
    `couple`: which axes of its inputs and outputs are cut together; None: none of them is. `refit`: what to fix on the node then.
    `masked`: how the reference of a cut computes it with channels left out, where that is more than zeros in a sum.
    `view`: a constant that goes through it keeps its elements and where its zeros are.
    `moves`: its outputs are elements of its inputs, moved, left out or repeated.
    `random`: its output is no constant even without inputs.
    `folds`: on constants alone it may be replaced by its result. `makes`: for one that may not, how many integers it makes of
    constant inputs; what is computed from few of them may be replaced still (None: may not).
    `passes`: whether its first output is its first input (the other outputs unused).
    `affine`: it scales and shifts channels by constants; `absorb`: it can take that in from behind.
    `zeros`: how many zeros it puts around its input; `take_zeros`: its attributes with those in its own padding, where it can.
    `value`: its output, where that follows from its inputs' shapes.
    `like`: the standard op that shape inference may take it for, where onnx does not define it.
    `shape`: the shape of its first output, likewise, or where onnx's inference does not know it. `more_shapes`: those of the
    outputs behind it. `typed_by`: the inputs, the first of which that is there has its outputs' element type.
    `needs_values`: the inputs whose values its formulas read, beside shapes.
    `sequence`: what becomes of the sequences of tensors that it takes or makes.
    `conflict`: why inputs of these sizes cannot meet, with the two sizes, where onnx's inference does not look; None where they
    can, or where that is unknown. Raises UnknownFact likewise.
    `outputs_decide`: which outputs are named says what it computes, whether anything reads them or not.
    `index_at`: the input whose values are positions along an axis of input 0.
    `compares`: it tells which elements are equal to another input's.
    `quant`: what it does where a target computes in integers.
    `divisor_at`: the input that it divides by, which no grid may round to zero.
    `homogeneous`: a positive factor on its input comes out on its output, channel by channel.
    `sign`: whether its result can be negative.
    `fill_at`: the input with the element that it adds around others, which is zero without it.
    `form`: the float op that it stands for on integers. `dynamic`: it computes with integers whose scale follows from the data.
    `exact`: float nodes that compute its sums of integer products, whose kernels saturate on some processors.
    `selects`: the inputs whose small changes may change which elements come out, so that outputs behind it do not compare.
    """

    op_type: str
    domain: str = ""
    since: int = 1
    macs: Callable[[OpView], int] | None = None
    work: Work = Work.WINDOW
    weights: tuple[WeightSlot, ...] = ()
    view: "View | None" = None
    body: "Body | None" = None
    random: bool = False
    outputs_decide: bool = False
    folds: bool = True
    makes: Callable[[OpView, Sequence[NDArray[np.generic]]], int | None] | None = None
    passes: Callable[[OpView], bool] | None = None
    affine: "Affine | None" = None
    absorb: "Absorb | None" = None
    zeros: "Callable[[OpView, Constant], Zeros | None] | None" = None
    take_zeros: "Callable[[OpView, Zeros], Attributes | None] | None" = None
    moves: bool = False
    like: str | None = None
    shape: Callable[[OpView], Shape] | None = None
    more_shapes: tuple[Callable[[OpView], Shape], ...] = ()
    typed_by: tuple[int, ...] = (0,)
    needs_values: tuple[int, ...] = ()
    sequence: "Callable[[Sequences], None] | None" = None
    conflict: Callable[[OpView], str | None] | None = None
    index_at: int | None = None
    selects: tuple[int, ...] = ()
    compares: bool = False
    value: Callable[[OpView], NDArray[np.generic]] | None = None
    depthwise: Callable[[OpView], bool] | None = None
    in_place: Callable[[OpView], bool] | None = None
    couple: "Callable[[Coupling], None] | None" = None
    refit: "Callable[[Refit], None] | None" = None
    masked: "Callable[[Masking], None] | None" = None
    quant: Quant = Quant.FLOAT
    divisor_at: int | None = None
    homogeneous: bool = False
    sign: Sign = Sign.ANY
    fill_at: int | None = None
    form: "FloatForm | None" = None
    dynamic: bool = False
    exact: "Callable[[Exact], None] | None" = None

    @property
    def computes_integers(self) -> bool:
        """Whether it multiplies integers."""
        return self.macs is not None and (self.dynamic or self.form is not None)

    @property
    def holds_integers(self) -> bool:
        """Whether onnxruntime may compute it, or what it fuses it with, in integers."""
        return self.quant is Quant.BOUNDARY or self.dynamic or self.form is not None or self.exact is not None

    @property
    def quantizes(self) -> bool:
        """Floats come in and integers out, by a scale that is given."""
        return self.quant is Quant.BOUNDARY and not self.dequantizes

    @property
    def dequantizes(self) -> bool:
        return self.quant is Quant.BOUNDARY and self.view is not None and self.view.scale is not None


def spare_outputs(node: onnx.NodeProto, version: int) -> Iterator[int]:
    """The outputs of a node, behind the first, that it may leave out; none of an op that onnx does not define."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "" if node.domain == "ai.onnx" else node.domain)
    except onnx.defs.SchemaError:
        return
    for at, output in list(enumerate(schema.outputs))[1 : len(node.output)]:
        if output.option == onnx.defs.OpSchema.FormalParameterOption.Optional:
            yield at


@dataclass(frozen=True, kw_only=True)
class View:
    """How a constant passes through: `axes(op, rank)` gives, per axis seen behind the op, the axis before it (None: lost)."""

    axes: Callable[[OpView, int], tuple[int, ...] | None] = field(default=lambda op, rank: tuple(range(rank)))
    zero_point: int | None = None
    scale: int | None = None


@dataclass(frozen=True, kw_only=True)
class Body:
    """How a control-flow op runs its bodies: `branches`, one of them only; else `trips` times each (None: unknown).

    `carried`: the inputs, of the node and of its body, that come back from the body for the next round.
    """

    branches: bool = False
    trips: Callable[[OpView, Callable[[int], int | None]], int | None] = field(default=lambda op, constant: 1)
    carried: Callable[[OpView], range] | None = None


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
