"""OpSpec: all knowledge of one op. Identity, weights and multiply-accumulates here; one facet per use in `facets`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import onnx

from onnxsparse.ir.protos import STANDARD_DOMAINS
from onnxsparse.ops.facets import ChannelRules, CostRules, FoldRules, Quant, QuantRules, ShapeRules
from onnxsparse.ops.linear_forms import Form
from onnxsparse.ops.sizes import UnknownFact
from onnxsparse.ops.view import OpView


@dataclass(frozen=True)
class WeightAxes:
    """Which axis of a weight counts outputs and which inputs, as the op reads the weight (before any unpacking)."""

    output: int
    """Axis with one index per output channel."""
    input: int
    """Axis that the op sums over."""


@dataclass(frozen=True, kw_only=True)
class WeightSlot:
    """An input position that holds a weight tensor whenever the input is constant."""

    at: int
    """The input's position."""
    axes: Callable[[OpView], WeightAxes]
    """Which axes count outputs and inputs. Raises UnknownFact."""
    macs: Callable[[OpView], int] | None = None
    """Multiply-accumulates that use this input. None: all of the op's."""
    zero_point: int | None = None
    """Input with the integer that stands for zero. None: zero is 0."""
    scale: int | None = None
    """Input with the size of one quantization step. None: the weight is not quantized."""
    packed: Callable[[OpView], "Packing"] | None = None
    """How elements of less than a byte are packed. None: the constant's elements are the weight's."""
    form: Form | None = None
    """How the op is a matrix product of this weight. None: unknown. Raises UnknownFact."""


@dataclass(frozen=True)
class Packing:
    """A weight packed with less than a byte per element."""

    bits: int
    """Bits per element."""
    outputs: int
    """Output channels."""
    inputs: int
    """Elements per output channel."""
    block: int
    """Elements along the input axis that share one scale."""
    zeros: tuple[int, ...] = ()
    """Codes of zero in a flattened weight, high bits first. Empty: zero is the zero point, and low bits are first."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """How a control-flow op runs its bodies."""

    if_true: str = ""
    """Attribute with the body that runs, once, if input 0 is true. Empty: it runs each body `trips` times."""
    if_false: str = ""
    """Attribute with the body that runs, once, if input 0 is false."""
    trips: Callable[[OpView, Callable[[int], int | None]], int | None] = field(default=lambda op, constant: 1)
    """Number of trips, given the op and the value of a constant scalar input by position (None: not constant). None: unknown.

    Raises UnknownFact; `rounds` does not.
    """
    carried: Callable[[OpView], range] | None = None
    """Inputs, of the node and at the same positions of its body, that the body returns for the next trip. None: no state is
    carried.
    """

    @property
    def branches(self) -> bool:
        """Whether only one of its bodies runs."""
        return bool(self.if_true)

    def rounds(self, op: OpView, constant: Callable[[int], int | None]) -> int | None:
        """The number that `trips` gives. None if it is unknown or the rule lacks a fact."""
        try:
            return self.trips(op, constant)
        except UnknownFact:
            return None


@dataclass(frozen=True, kw_only=True)
class OpSpec:
    """What is known of an op from version `since` of its domain on. Callables that take an OpView raise UnknownFact when a fact
    is missing.
    """

    op_type: str
    """The op's name in its domain."""
    domain: str = ""
    """The operator set's domain; empty for ONNX's own."""
    since: int = 1
    """First opset version that this entry describes; a later entry of the same op replaces it."""
    macs: Callable[[OpView], int] | None = None
    """Multiply-accumulates, from shapes and attributes. Raises UnknownFact. None: the op has none."""
    weights: tuple[WeightSlot, ...] = ()
    """Inputs that hold weights when they are constant."""
    depthwise: Callable[[OpView], bool] | None = None
    """Whether each channel has a filter of its own. Raises UnknownFact. None: never."""
    groups: Callable[[OpView], int] | None = None
    """In how many groups its channels meet only each other; None: all meet all. Raises UnknownFact."""
    body: Body | None = None
    """How it runs the graphs in its attributes. None: it has none."""
    random: bool = False
    """Whether its output is random, thus never a constant, even without inputs."""
    outputs_decide: bool = False
    """Whether naming an output, used or not, changes what the op computes (BatchNormalization before version 14)."""
    channels: ChannelRules = field(default_factory=ChannelRules)
    """How removed channels pass through it."""
    quant: QuantRules = field(default_factory=QuantRules)
    """What it does on a target that computes in integers."""
    shape: ShapeRules = field(default_factory=ShapeRules)
    """Shapes, types and values of its outputs."""
    fold: FoldRules = field(default_factory=FoldRules)
    """What it can be folded into or replaced by."""
    cost: CostRules = field(default_factory=CostRules)
    """How it occupies a device."""

    @property
    def computes_integers(self) -> bool:
        """Whether it multiplies integers."""
        return self.macs is not None and (self.quant.dynamic or self.quant.form is not None)

    @property
    def holds_integers(self) -> bool:
        """Whether onnxruntime may compute it, or the op it fuses it with, in integers."""
        rules = self.quant
        return rules.role is Quant.BOUNDARY or rules.dynamic or rules.form is not None or rules.exact is not None

    @property
    def quantizes(self) -> bool:
        """Whether it turns floats into integers by a given scale."""
        return self.quant.scaling is not None and self.quant.scaling.to_integers

    @property
    def dequantizes(self) -> bool:
        """Whether it turns integers into floats by a given scale."""
        return self.quant.scaling is not None and not self.quant.scaling.to_integers

    def group_count(self, op: OpView) -> int:
        """In how many groups its channels meet only each other. Raises UnknownFact."""
        return 1 if self.groups is None else self.groups(op)


def spare_outputs(node: onnx.NodeProto, version: int) -> Iterator[int]:
    """Positions of the node's outputs after the first that may be left out. Empty for an op that onnx does not define."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "" if node.domain in STANDARD_DOMAINS else node.domain)
    except onnx.defs.SchemaError:
        return
    for at, output in list(enumerate(schema.outputs))[1 : len(node.output)]:
        if output.option == onnx.defs.OpSchema.FormalParameterOption.Optional:
            yield at
