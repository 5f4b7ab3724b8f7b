"""What the toolkit knows of one op: its identity, its weights and multiply-accumulates, and a facet for each use."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import onnx

from onnxsparse.ops.facets import ChannelRules, CostRules, FoldRules, Quant, QuantRules, ShapeRules
from onnxsparse.ops.view import OpView


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


@dataclass(frozen=True, kw_only=True)
class Body:
    """How a control-flow op runs its bodies: `branches`, one of them only; else `trips` times each (None: unknown).

    `carried`: the inputs, of the node and of its body, that come back from the body for the next round.
    """

    branches: bool = False
    trips: Callable[[OpView, Callable[[int], int | None]], int | None] = field(default=lambda op, constant: 1)
    carried: Callable[[OpView], range] | None = None


@dataclass(frozen=True, kw_only=True)
class OpSpec:
    """All that is known of an op from version `since` of its domain on."""

    op_type: str
    domain: str = ""
    since: int = 1
    macs: Callable[[OpView], int] | None = None
    """Multiply-accumulates, from shapes and attributes. Raises UnknownFact. None: it multiplies and accumulates nothing."""
    weights: tuple[WeightSlot, ...] = ()
    depthwise: Callable[[OpView], bool] | None = None
    """Whether each of its channels has a filter of its own. Raises UnknownFact."""
    body: Body | None = None
    random: bool = False
    """Whether its output is no constant even without inputs."""
    outputs_decide: bool = False
    """Whether it depends on which outputs are named what it computes, used or not."""
    channels: ChannelRules = field(default_factory=ChannelRules)
    quant: QuantRules = field(default_factory=QuantRules)
    shape: ShapeRules = field(default_factory=ShapeRules)
    fold: FoldRules = field(default_factory=FoldRules)
    cost: CostRules = field(default_factory=CostRules)

    @property
    def computes_integers(self) -> bool:
        """Whether it multiplies integers."""
        return self.macs is not None and (self.quant.dynamic or self.quant.form is not None)

    @property
    def holds_integers(self) -> bool:
        """Whether onnxruntime may compute it, or what it fuses it with, in integers."""
        rules = self.quant
        return rules.role is Quant.BOUNDARY or rules.dynamic or rules.form is not None or rules.exact is not None

    @property
    def quantizes(self) -> bool:
        """Floats come in and integers out, by a scale that is given."""
        return self.quant.role is Quant.BOUNDARY and not self.dequantizes

    @property
    def dequantizes(self) -> bool:
        """Integers come in and floats out, by a scale that is given."""
        return self.quant.role is Quant.BOUNDARY and self.shape.view is not None and self.shape.view.scale is not None


def spare_outputs(node: onnx.NodeProto, version: int) -> Iterator[int]:
    """The outputs of a node, behind the first, that it may leave out; none of an op that onnx does not define."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "" if node.domain == "ai.onnx" else node.domain)
    except onnx.defs.SchemaError:
        return
    for at, output in list(enumerate(schema.outputs))[1 : len(node.output)]:
        if output.option == onnx.defs.OpSchema.FormalParameterOption.Optional:
            yield at
