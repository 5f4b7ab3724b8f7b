"""How an image becomes a model's input: size, values, layout. One file (TOML) for all commands and recipes.

resize = "letterbox"      # crop, stretch, letterbox
fill = 114                # of a letterbox's borders, 0 to 255
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
channels = "rgb"
"""

import tomllib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from onnxsparse.errors import ParamError
from onnxsparse.ir.option_roles import reading

LARGEST_OF_SHARES = 3.0
"""Largest mean or std of pixels from 0 to 1; larger ones are meant for pixels from 0 to 255."""

PIXEL_SCALE = 1 / 255
"""Factor that makes pixels from 0 to 255 shares from 0 to 1."""

HEADING = "# How images become inputs of a model (docs/data.md); a key that is left out has its default.\n"

Layout = Literal["nchw", "nhwc"]

Fit = Literal["crop", "stretch", "letterbox"]


def as_fit(given: object) -> object:
    """`letterbox` for `pad`, its former name."""
    return "letterbox" if given == "pad" else given


Resize = Annotated[Fit, BeforeValidator(as_fit)]


def as_numbers(given: object) -> object:
    """The parts of a text with commas, of which a command line gives one or a tuple; anything else unchanged."""
    parts = given if isinstance(given, list | tuple) else [given]
    if not any(isinstance(part, str) and "," in part for part in parts):
        return given
    return [number for part in parts for number in str(part).split(",")]


Split = BeforeValidator(as_numbers)

Level = Annotated[int, Field(ge=0, le=255)]

Numbers = Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Split]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))
class Preprocessing:
    """How pixels become numbers: (pixel · scale − mean) / std for each channel. Integer inputs get the pixels, 0 to 255,
    unchanged.

    Raises ParamError for a size that is not two numbers, a std that is not positive, and for numbers that seem to be meant for
    another scale.
    """

    # a tuple of any length, of which a command line accepts 320,320 as one text
    size: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Split] | None = None
    """Height and width in pixels (default: the input's size, else the image's)."""
    resize: Resize = "crop"
    """Fit to the size: the middle cropped, stretched, or shrunk into borders (letterbox)."""
    crop_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the shorter side that a crop keeps; 0.875 resizes to 256 and crops 224."""
    fill: Annotated[Level | tuple[Level, Level, Level], Split] = 0
    """Grey level of a letterbox's borders, or red, green and blue, 0 to 255."""
    anchor: Literal["center", "top-left"] = "center"
    """Place of the image within a letterbox."""
    mean: Numbers = ()
    """Subtracted after scaling: one number, or one for each channel (default: 0)."""
    std: Numbers = ()
    """Divisor after that: one number, or one for each channel (default: 1)."""
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Factor of the pixels, which are 0 to 255 (default: 1/255)."""
    layout: Layout | None = None
    """Axis order of the input (default: nchw if axis 1 has 1 or 3 channels, else nhwc)."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels."""

    def __post_init__(self) -> None:
        if self.size is not None and len(self.size) != 2:
            raise ParamError("--size takes height and width, as 320,320")
        if any(s <= 0 for s in self.std):
            raise ParamError("--std must be larger than 0")
        if self.scale is None and any(abs(v) > LARGEST_OF_SHARES for v in (*self.mean, *self.std)):
            raise ParamError("--mean and --std are for pixels from 0 to 1; divide those for 0 to 255 by 255, or set scale = 1")

    @property
    def pixel_scale(self) -> float:
        """The factor of the pixels."""
        return PIXEL_SCALE if self.scale is None else self.scale


KEYS = tuple(part.name for part in fields(Preprocessing))
"""The keys of a preprocessing file."""


def read_preprocessing(path: Path, option: str = "--preprocess") -> Preprocessing:
    """The content of a preprocessing file. Raises ParamError that names the file and the key that is wrong."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(Preprocessing).validate_python(content)
    except (OSError, UnicodeDecodeError) as error:
        raise ParamError(f"{option} {path}: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    except tomllib.TOMLDecodeError as error:
        raise ParamError(f"{option} {path}: it is not TOML: {error}") from None
    except ValidationError as error:
        found = error.errors()[0]
        key = str(found["loc"][0]) if found["loc"] else ""
        if key not in KEYS:
            raise ParamError(f"{option} {path}: there is no key '{key}'; the keys are {', '.join(KEYS)}") from None
        raise ParamError(f"{option} {path}: {key}: {found['msg']} (got {found['input']!r})") from None
    except ParamError as error:
        raise ParamError(f"{option} {path}: {error}") from None


def preprocessing_toml(found: Preprocessing) -> str:
    """The text of a preprocessing file; what is not set is left out."""
    default = asdict(Preprocessing())
    return HEADING + tomli_w.dumps({key: value for key, value in asdict(found).items() if value != default[key]})


PreprocessFile = Annotated[Path, reading(read_preprocessing)]
"""An option for a preprocessing file."""
