"""Images as inputs of a model: read, resized and normalised one at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from onnxsparse.errors import ModelError, ParamError
from onnxsparse.ir.binding import Shape, fed_inputs, format_shape
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array, element_dtype
from onnxsparse.runtime.session import Feeds

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")

CHANNEL_COUNTS = (1, 3)
"""Channels of an input that takes images: grey, or red, green and blue."""

LARGEST_OF_SHARES = 3.0
"""Largest mean or std of pixels from 0 to 1; larger ones are meant for pixels from 0 to 255."""

Resize = Literal["crop", "stretch", "pad"]

Layout = Literal["nchw", "nhwc"]

CHANNEL_AXES: dict[Layout, int] = {"nchw": 1, "nhwc": 3}
"""Layout → channel axis. The first that fits is taken if the caller names none."""


@dataclass(frozen=True)
class ImageFormat:
    """How pixels become numbers: (pixel / 255 − mean) / std for each channel. Integer inputs get the pixels, 0 to 255, unchanged.

    `mean`, `std`: one number, or one for each channel; empty: 0 and 1. `layout` None: nchw if axis 1 of the input has 1 or 3
    channels, else nhwc. `resize`: crop the middle, stretch, or pad with black to the input's size. `bgr`: channels in reverse
    order.

    Raises ParamError for a std that is not positive, and for numbers that seem to be meant for pixels from 0 to 255.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Layout | None = None
    resize: Resize = "crop"
    bgr: bool = False

    def __post_init__(self) -> None:
        if any(s <= 0 for s in self.std):
            raise ParamError("quantize: --std must be larger than 0")
        if any(abs(v) > LARGEST_OF_SHARES for v in (*self.mean, *self.std)):
            raise ParamError("quantize: --mean and --std are for pixels from 0 to 1; divide those for 0 to 255 by 255")


def image_feeds(files: tuple[Path, ...], model: Model, images: ImageFormat) -> Iterator[Feeds]:
    """One feed for each image, read when it is needed.

    Raises ModelError for a model with several inputs, an input that takes no image, or a file that cannot be read; ParamError if
    `mean` or `std` do not fit the channels.
    """
    inputs = fed_inputs(model.proto.graph)
    if len(inputs) != 1:
        raise ModelError(f"--data: images are for models with one input; {model.name} has {len(inputs)}: give arrays (npz)")
    name = inputs[0].name
    shape = model.binding.shapes.get(name, ())
    dtype = element_dtype(name, inputs[0].type.tensor_type.elem_type)
    layout = layout_of(shape, name, model, images.layout)
    for file in files:
        yield {name: image_array(file, shape, dtype, layout, images)}


def layout_of(shape: Shape, name: str, model: Model, asked: Layout | None) -> Layout:
    """The layout of an input: the one asked for, or the one that its shape suggests.

    Raises ModelError if it takes no single image.
    """
    found = f"--data: input '{name}' of {model.name} is {format_shape(shape)}"
    for layout, axis in CHANNEL_AXES.items():
        if len(shape) == 4 and asked in (None, layout) and shape[axis] in (*CHANNEL_COUNTS, *([None] if asked else [])):
            if shape[0] not in (None, 1):
                raise ModelError(f"{found}, which is {shape[0]} images at once; give arrays (npz)")
            return layout
    raise ModelError(f"{found}, not an image of 1 or 3 channels{'' if asked else '; give --layout'}")


def image_array(file: Path, shape: Shape, dtype: np.dtype[np.generic], layout: Layout, images: ImageFormat) -> Array:
    """One image as an array of batch 1, in the input's shape, type and layout.

    Raises ModelError for a file that cannot be read as an image, ParamError if `mean` or `std` do not fit the channels.
    """
    from PIL import Image, UnidentifiedImageError

    channels, height, width = shape[1:] if layout == "nchw" else (shape[3], *shape[1:3])
    try:
        with Image.open(file) as opened:
            pixels = np.asarray(fitted(opened.convert("L" if channels == 1 else "RGB"), height, width, images.resize))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ModelError(f"--data {file}: it cannot be read as an image ({error})") from None
    values = pixels.reshape(*pixels.shape[:2], -1)[:, :, :: -1 if images.bgr else 1]
    if dtype.kind == "f":
        mean, std = (np.asarray(v or d, np.float32) for v, d in ((images.mean, (0.0,)), (images.std, (1.0,))))
        if any(v.size not in (1, values.shape[2]) for v in (mean, std)):
            raise ParamError(f"quantize: --mean and --std take one number, or one for each of {values.shape[2]} channels")
        values = (values / np.float32(255) - mean) / std
    moved = values.transpose(2, 0, 1) if layout == "nchw" else values
    return np.ascontiguousarray(moved[None], dtype)


def fitted(image: "Image", height: int | None, width: int | None, resize: Resize) -> "Image":
    """The image in the wanted size in pixels; unchanged if a size is None, which means that the model accepts any."""
    from PIL import Image, ImageOps

    if height is None or width is None or image.size == (width, height):
        return image
    bilinear = Image.Resampling.BILINEAR
    if resize == "stretch":
        return image.resize((width, height), bilinear)
    if resize == "pad":
        return ImageOps.pad(image, (width, height), bilinear, color=0)
    return ImageOps.fit(image, (width, height), bilinear)
