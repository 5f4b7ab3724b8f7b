"""Targets as files: every number with its range, its status and its source, read into typed objects."""

import tomllib
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from onnxsparse.errors import ParamError

STRICT = ConfigDict(extra="forbid")
FORMAT = 1


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Number:
    """One parameter of a target. `low` and `high` bound what it may be; `status` says how it is known."""

    value: float
    low: float
    high: float
    status: Literal["calibrated", "assumed", "datasheet"]
    source: str

    @model_validator(mode="after")
    def in_order(self) -> "Number":
        if not self.low <= self.value <= self.high:
            raise ValueError(f"low {self.low:g}, value {self.value:g} and high {self.high:g} are not in order")
        if self.low < 0:
            raise ValueError("numbers of a target are not negative")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Numbers:
    """The parameters of the layer model in docs/backends.md, with units in their names."""

    rate_gmac_per_s: Number
    """Multiply-accumulates per second, skipped ones not counted."""
    bandwidth_gb_per_s: Number
    """Bytes to and from DRAM per second."""
    overhead_us: Number
    """Per layer, added to the larger of compute and I/O."""
    output_group_channels: Number
    """Output channels made in one pass over an input that does not fit on chip; 0: the input is read once."""
    on_chip_mb: Number
    """An input up to this size is read once."""
    skip_limit: Number
    """How many zero weights for one other are skipped at no cost; 0: any number."""
    bytes_per_nonzero: Number
    """Of an encoded coefficient that is not zero."""
    bits_per_weight: Number
    """Of the encoding, for every coefficient, zero or not."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Hardware:
    """A target. `fidelity` is what every report says first; `variants` are other files that explain the same measurements."""

    format: Literal[1]
    name: str
    description: str
    fidelity: tuple[str, ...]
    numbers: Numbers
    variants: tuple[str, ...] = ()


def names() -> list[str]:
    """The targets that come with the package."""
    return sorted(p.name.removesuffix(".toml") for p in files("onnxsparse.backends").iterdir() if p.name.endswith(".toml"))


def load_hardware(target: str | Path) -> Hardware:
    """A shipped target by name, or a TOML file. Raises ParamError that names the place in the file."""
    shipped = str(target) in names()
    try:
        if shipped:
            text = files("onnxsparse.backends").joinpath(f"{target}.toml").read_text(encoding="utf-8")
        else:
            text = Path(target).read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ParamError(f"no target '{target}': it is none of {', '.join(names())}, nor a file ({reason})") from None
    except tomllib.TOMLDecodeError as error:
        raise ParamError(f"{target} is not TOML: {error}") from None
    try:
        found: Hardware = TypeAdapter(Hardware).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ParamError(f"{target}: {place}: {first['msg'].removeprefix('Value error, ')}") from None
    return found


def number_names() -> list[str]:
    return [field.name for field in fields(Numbers)]
