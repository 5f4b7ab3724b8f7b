"""The `[quantization]` section of a target file: what a target computes in integers, as typed objects."""

from dataclasses import replace
from typing import Annotated, Literal

import onnx.defs
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from onnxsparse.errors import ParamError
from onnxsparse.ir.option_roles import Role
from onnxsparse.quantization.write.grid import Grid
from onnxsparse.targets.files import names_with, read_section, target_paths

STRICT = ConfigDict(extra="forbid")

COMMANDS = "quantize and compare"
"""What reads the `[quantization]` section of a target."""


def known_op(name: str) -> str:
    """`name` itself. Raises PydanticCustomError for an op that ONNX does not define, which would silently stay float."""
    if not onnx.defs.has(name):
        raise PydanticCustomError("op", "'{name}' is not an op of ONNX", {"name": name})
    return name


OpType = Annotated[str, AfterValidator(known_op)]

PowersOfTwo = Literal["none", "activations", "weights", "all"]
"""The tensors whose scales are powers of two."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Activations:
    """The integers of activations; an activation has one scale."""

    bits: Literal[8, 16] = 8
    signed: bool = True
    symmetric: bool = True
    """Zero point 0."""
    power_of_two: bool = False
    """Scales are 2^−exponent."""

    def __post_init__(self) -> None:
        if self.symmetric and not self.signed:
            raise PydanticCustomError("grid", "unsigned integers need a zero point: give symmetric = false")

    @property
    def grid(self) -> Grid:
        """The grid of an activation."""
        return Grid(self.bits, self.signed, self.symmetric, power_of_two=self.power_of_two)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Coefficients:
    """The integers of weights: symmetric, with as many integers below zero as above."""

    bits: Literal[4, 7, 8, 16] = 8
    """Width in bits; 7 bits are stored in 8 and use half of their range."""
    wide_bits: Literal[7, 8, 16] = 16
    """Width in bits of a weight for which `bits` are too few."""
    per_channel: bool = True
    """One scale per output channel instead of one per tensor."""
    block: Annotated[int, Field(ge=2)] | None = None
    """Number of input channels with a scale of their own for each output channel, in weights of 4 bits; None: all of them."""
    power_of_two: bool = False
    """Scales are 2^−exponent."""

    @property
    def grid(self) -> Grid:
        """The grid of a weight."""
        return Grid(self.bits, signed=True, symmetric=True, narrow=True, power_of_two=self.power_of_two)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Target:
    """A target's quantization section. Op types are those of the standard domain."""

    format: Literal[1]
    kind: Literal["quantization"] = "quantization"
    name: str
    description: str = ""
    public: tuple[str, ...] = ()
    """What is publicly known about the target, with the source."""
    inferred: tuple[str, ...] = ()
    """What is not known and was assumed."""
    integer_ops: Annotated[tuple[OpType, ...], Field(min_length=1)]
    """Ops that read and produce integers; ops that only move elements always do."""
    absorbs: tuple[OpType, ...] = ()
    """Ops that are fused into the producer of their input, without a quantizer between."""
    one_scale: tuple[OpType, ...] = ()
    """Ops whose inputs and output share one scale."""
    bits: Annotated[tuple[Literal[4, 7, 8, 16], ...], Field(min_length=1)] = (8, 16)
    """Widths in bits of the integers with which the target computes."""
    wide: Literal["int16", "float"] = "float"
    """The format of layers for which 8 bits are too few."""
    runs_here: bool = False
    """Whether the target is onnxruntime on this kind of processor, so that the model can be measured as it runs."""
    activations: Activations = Activations()
    weights: Coefficients = Coefficients()

    @property
    def widens_tensors(self) -> bool:
        """Whether tensors become wide one by one: in 16 bits, or weights in place of 4 bits; else whole ops become float."""
        return self.wide == "int16" or self.weights.bits == 4

    @property
    def wide_weight_bits(self) -> tuple[int, ...]:
        """The widths in bits, from the smallest, of weights for which those of others are too few."""
        first = self.weights.wide_bits
        return (first, 16) if self.weights.bits == 4 and first < 16 and self.wide == "int16" and 16 in self.bits else (first,)

    def changed(
        self,
        *,
        activation_bits: Literal[8, 16] | None = None,
        weight_bits: Literal[4, 7, 8, 16] | None = None,
        per_channel: bool | None = None,
        block: int | None = None,
        power_of_two: PowersOfTwo | None = None,
    ) -> "Target":
        """The target with the given values changed; None keeps the file's.

        Raises ParamError for a width that the target does not compute with, blocks in weights that have not 4 bits, or powers of
        two for activations with zero points.
        """
        activations, weights = self.activations, self.weights
        if activation_bits is not None:
            activations = replace(activations, bits=activation_bits)
        if weight_bits is not None:
            wide_bits = weights.bits if weight_bits == 4 != weights.bits else weights.wide_bits
            weights = replace(weights, bits=weight_bits, wide_bits=wide_bits)
        if per_channel is not None:
            weights = replace(weights, per_channel=per_channel)
        if block is not None:
            weights = replace(weights, block=block)
        if power_of_two is not None:
            activations = replace(activations, power_of_two=power_of_two in ("activations", "all"))
            weights = replace(weights, power_of_two=power_of_two in ("weights", "all"))
        if weights.block is not None and (weights.bits != 4 or not weights.per_channel):
            raise ParamError("quantize: --weight-block is for weights of 4 bits: give --weight-bits 4, without --per-tensor")
        if not {activations.bits, weights.bits} <= set(self.bits):
            raise ParamError(f"quantize: {self.name} computes with integers of {' or '.join(map(str, self.bits))} bits")
        if activations.power_of_two and not activations.symmetric:
            raise ParamError(
                f"quantize: {self.name} has activations with zero points, and scales that are powers of two allow none"
            )
        return replace(self, activations=activations, weights=weights)


def names() -> list[str]:
    """The targets with integers that come with the package."""
    return list(names_with("quantization"))


def load_target(target: str, command: str = "quantize") -> Target:
    """The `[quantization]` section of a target, which is the name of a shipped one or a TOML file.

    Raises ParamError that begins with `command` and names the key at fault, or the section that is missing.
    """
    try:
        section = read_section(target, "quantization", needed_by=COMMANDS)
    except ParamError as error:
        raise ParamError(f"{command}: {error}") from None
    try:
        return TypeAdapter(Target).validate_python(section.content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ParamError(f"{command}: {target}: {section.place(first['loc'])}: {first['msg']}") from None


QuantizationTarget = Annotated[str, Role(lambda target, _option: load_target(target), reads=target_paths)]
"""A target with a `[quantization]` section: the name of a shipped one, or a TOML file."""
