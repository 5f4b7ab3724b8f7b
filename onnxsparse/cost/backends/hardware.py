"""The `[cost]` section of a target file: every number with its range, status and source, as typed objects."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from onnxsparse.errors import ParamError
from onnxsparse.targets.files import TargetSection, names_with, read_section

STRICT = ConfigDict(extra="forbid")

COMMANDS = "report, annotate, view, prune-channels and calibrate-backend"
"""What reads the `[cost]` section of a target."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Number:
    """One parameter of a target, in the unit of its name."""

    value: float
    low: float
    """The smallest value that is plausible."""
    high: float
    """The largest value that is plausible."""
    status: Literal["calibrated", "assumed", "datasheet"]
    """How the value is known."""
    source: str
    """Where the value comes from, in words."""

    @model_validator(mode="after")
    def in_order(self) -> "Number":
        """The number itself. Raises ValueError unless 0 ≤ low ≤ value ≤ high."""
        if not self.low <= self.value <= self.high:
            raise ValueError(f"low {self.low:g}, value {self.value:g} and high {self.high:g} are not in order")
        if self.low < 0:
            raise ValueError("numbers of a target are not negative")
        return self


def from_plain(given: object) -> object:
    """A bare number as the keys of a Number without a range; anything else unchanged."""
    plain = isinstance(given, int | float) and not isinstance(given, bool)
    return {"value": given, "low": given, "high": given, "status": "datasheet", "source": "given as it is"} if plain else given


def above_zero(number: Number) -> Number:
    """The number itself, by which work can be divided. Raises ValueError if its range includes 0."""
    if number.low <= 0:
        raise ValueError("must be above 0, at the low end too")
    return number


Figure = Annotated[Number, BeforeValidator(from_plain)]
Rate = Annotated[Figure, AfterValidator(above_zero)]


def exactly(value: float) -> Number:
    """A default without a range."""
    return Number(value=value, low=value, high=value, status="assumed", source="not given")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Numbers:
    """The parameters of the layer model in docs/backends.md, with units in their names."""

    rate_gmac_per_s: Rate
    """Multiply-accumulates per second, skipped ones not counted."""
    bandwidth_gb_per_s: Rate
    """Bytes to and from DRAM per second."""
    overhead_us: Figure
    """Time per layer, added to the larger of compute and I/O."""
    output_group_channels: Figure
    """Output channels computed in one pass over an input that does not fit on chip; 0: the input is read once."""
    on_chip_mb: Figure
    """An input up to this size is read once."""
    skip_limit: Figure
    """Largest factor by which skipping zeros shortens the compute time; 0: no limit."""
    bytes_per_nonzero: Figure
    """Encoded size of a nonzero coefficient, for coefficients of 8 bits."""
    bits_per_weight: Figure
    """Encoded size of the zero pattern, per coefficient, zero or not."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RooflineNumbers:
    """The parameters of the roofline, with units in their names."""

    peak_gmac_per_s: Rate
    """Multiply-accumulates per second of the whole array."""
    bandwidth_gb_per_s: Rate
    """Bytes to and from DRAM per second."""
    on_chip_mb: Figure = exactly(0)
    """Inputs and outputs of a layer up to this size never leave the chip."""
    channel_alignment: Figure = exactly(1)
    """Output channels are computed in groups of this many, the last one filled up."""
    skip_limit: Figure = exactly(1)
    """Largest factor by which skipping zeros shortens the compute time; 1: none is skipped, 0: no limit."""
    overhead_us: Figure = exactly(0)
    """Time per layer, added to the larger of compute and I/O."""
    structured_sparsity: Rate = exactly(1)
    """Factor by which 2:4 weights (at most two nonzeros in every four inputs) shorten the compute time; 1: none."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Hardware:
    """A target's cost section."""

    format: Literal[1]
    kind: Literal["layer-model", "roofline"] = "layer-model"
    """The formula that the numbers are for."""
    name: str
    description: str = ""
    fidelity: tuple[str, ...] = ()
    """Sentences with which every report begins: how far the numbers can be trusted."""
    numbers: Numbers
    variants: tuple[str, ...] = ()
    """Names of other targets that explain the same measurements."""
    supported_ops: tuple[str, ...] = ()
    """Op types that the target runs; empty: all that the toolkit knows."""
    fps_budget: Annotated[float, Field(gt=0)] | None = None
    """Frames per second that the user's product needs; None if not given."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RooflineHardware(Hardware):
    """A target of which only peak rate and bandwidth are known."""

    fidelity: tuple[str, ...] = ("a roofline is a bound: no layer is faster, most are slower",)
    numbers: RooflineNumbers  # type: ignore[assignment]  # a file's kind says which numbers it has


def names() -> list[str]:
    """The targets with a cost that come with the package."""
    return list(names_with("cost"))


def load_hardware(target: str | Path, also: tuple[str, ...] = ()) -> Hardware:
    """The `[cost]` section of a target, which is the name of a shipped one or a TOML file. `also`: other names to offer.

    Raises ParamError that names the key at fault, or the section that is missing.
    """
    section = read_section(target, "cost", needed_by=COMMANDS, also=also)
    try:
        kind = RooflineHardware if section.content.get("kind") == "roofline" else Hardware
        found: Hardware = TypeAdapter(kind).validate_python(section.content)
    except ValidationError as error:
        raise ParamError(f"{target}: {first_fault(error, section)}") from None
    return found


def first_fault(error: ValidationError, section: TargetSection) -> str:
    """The fault that others may follow from: a wrong kind, which decides what keys exist; then unknown keys; then the rest."""
    faults = sorted(error.errors(), key=lambda f: (f["loc"] != ("kind",), f["type"] != "unexpected_keyword_argument"))
    return f"{section.place(faults[0]['loc'])}: {faults[0]['msg'].removeprefix('Value error, ')}"


def alignment_of(target: str | Path, otherwise: int) -> int:
    """Number of output channels that a target computes at a time; `otherwise` if its file does not say."""
    numbers = load_hardware(target).numbers
    return round(numbers.channel_alignment.value) if isinstance(numbers, RooflineNumbers) else otherwise


def numbers_of(hardware: Hardware) -> dict[str, Number]:
    """Every number of a target by name."""
    return {field.name: getattr(hardware.numbers, field.name) for field in fields(hardware.numbers)}


def with_value(hardware: Hardware, name: str, value: float) -> Hardware:
    """The same target, one number different; its range is widened where it has to be."""
    number = getattr(hardware.numbers, name)
    changed = replace(number, value=value, low=min(value, number.low), high=max(value, number.high))
    return replace(hardware, numbers=replace(hardware.numbers, **{name: changed}))
