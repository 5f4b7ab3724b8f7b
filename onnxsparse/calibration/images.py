"""Images as inputs of a model: read, resized and normalised one at a time."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxsparse.calibration.arrays import fits
from onnxsparse.calibration.preprocessing import Layout, Preprocessing
from onnxsparse.errors import ModelError, ParamError
from onnxsparse.ir.binding import Shape, fed_inputs, format_shape
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array, element_dtype
from onnxsparse.runtime.samples import Indexed
from onnxsparse.runtime.session import Feeds

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")

DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's names of pixels of more than 8 bits, which it would cut off at 255."""

CHANNEL_COUNTS = (1, 3)
"""Channels of an input that takes images: grey, or red, green and blue."""

CHANNEL_AXES: dict[Layout, int] = {"nchw": 1, "nhwc": 3}
"""Layout → channel axis. The first that fits is taken if the caller names none."""


@dataclass(frozen=True)
class ImageFiles(Indexed):
    """One sample for each image, read when it is asked for. `option`: how the files were given, for messages.

    Raises ModelError for a model with several inputs, an input that takes no image, or a file that cannot be read; ParamError if
    the preprocessing does not fit the input.
    """

    files: tuple[Path, ...]
    model: Model
    images: Preprocessing
    option: str = "--data"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Feeds:
        name, taken = self._taken
        return {name: image_array(self.files[index], taken, self.images, self.option)}

    @property
    def names(self) -> list[str]:
        """The name of each file."""
        return [file.name for file in self.files]

    @property
    def layout(self) -> Layout:
        """Axis order of the input."""
        return self._taken[1].layout

    @cached_property
    def _taken(self) -> tuple[str, "ImageInput"]:
        """The name of the input and what it takes."""
        inputs = fed_inputs(self.model.proto.graph)
        if len(inputs) != 1:
            raise ModelError(
                f"{self.option}: images are for models with one input; {self.model.name} has {len(inputs)}: give arrays (npz)"
            )
        name = inputs[0].name
        shape = self.model.binding.shapes.get(name, ())
        found = f"{self.option}: input '{name}' of {self.model.name} is {format_shape(shape)}"
        layout = layout_of(shape, found, self.images.layout)
        taken = ImageInput(shape, element_dtype(name, inputs[0].type.tensor_type.elem_type), layout)
        if taken.dtype.kind not in "fiu" or taken.dtype == np.int8:
            raise ModelError(f"{found} of {taken.dtype}, which pixels are not converted to; give arrays (npz)")
        wanted = self.images.size
        if wanted is not None and any(s not in (None, w) for s, w in zip(taken.size, wanted, strict=True)):
            raise ParamError(f"{found}, but the preprocessing's size is {format_shape(wanted)}")
        return name, taken


@dataclass(frozen=True)
class ImageInput:
    """An input that takes one image: its shape, type and layout."""

    shape: Shape
    dtype: np.dtype[np.generic]
    layout: Layout

    @property
    def channels(self) -> int | None:
        """Number of channels; None: any."""
        return self.shape[CHANNEL_AXES[self.layout]]

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Height and width in pixels; None: any."""
        height, width = self.shape[2:] if self.layout == "nchw" else self.shape[1:3]
        return height, width


def layout_of(shape: Shape, found: str, asked: Layout | None) -> Layout:
    """The layout of an input: the one asked for, or the one that its shape suggests. `found`: the start of a message.

    Raises ModelError if it takes no single image.
    """
    for layout, axis in CHANNEL_AXES.items():
        if len(shape) == 4 and asked in (None, layout) and shape[axis] in (*CHANNEL_COUNTS, *([None] if asked else [])):
            if shape[0] not in (None, 1):
                raise ModelError(f"{found}, which is {shape[0]} images at once; give arrays (npz)")
            return layout
    raise ModelError(f"{found}, not an image of 1 or 3 channels{'' if asked else '; give --layout'}")


def image_array(file: Path, taken: ImageInput, images: Preprocessing, option: str) -> Array:
    """One image as an array of batch 1, in the input's shape, type and layout.

    Raises ModelError for a file that cannot be read as an image of 8 bits, or has another size than the input; ParamError if
    `mean` or `std` do not fit the channels.
    """
    from PIL import Image, UnidentifiedImageError

    height, width = taken.size if images.size is None else images.size
    try:
        with Image.open(file) as opened:
            if opened.mode in DEEP_MODES:
                raise ModelError(f"{option} {file}: it has more than 8 bits per pixel; convert it, or give arrays")
            pixels = np.asarray(fitted(opened.convert("L" if taken.channels == 1 else "RGB"), height, width, images))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ModelError(f"{option} {file}: it cannot be read as an image ({error})") from None
    values = pixels.reshape(*pixels.shape[:2], -1)[:, :, :: -1 if images.channels == "bgr" else 1]
    if taken.dtype.kind == "f":
        mean, std = (np.asarray(v or d, np.float32) for v, d in ((images.mean, (0.0,)), (images.std, (1.0,))))
        if any(v.size not in (1, values.shape[2]) for v in (mean, std)):
            raise ParamError(f"{option}: --mean and --std take one number, or one for each of {values.shape[2]} channels")
        scaled = values / np.float32(1 / images.pixel_scale)  # a division by 255 rounds as training code does
        values = (scaled - mean) / std
    moved = (values.transpose(2, 0, 1) if taken.layout == "nchw" else values)[None]
    if not fits(moved.shape, taken.shape):
        raise ModelError(
            f"{option} {file}: the image becomes {format_shape(moved.shape)}, the input takes {format_shape(taken.shape)}; "
            "give both sizes (--input-shape, or size in the preprocessing)"
        )
    return np.ascontiguousarray(moved, taken.dtype)


def as_pixels(values: Array, images: Preprocessing) -> Array:
    """The pixels (…×channels, red first, 0 to 255) that values of an input (…×channels) were made of: `image_array` undone."""
    if values.dtype.kind == "f":
        mean, std = (np.asarray(v or d, np.float64) for v, d in ((images.mean, (0.0,)), (images.std, (1.0,))))
        values = (values.astype(np.float64) * std + mean) / images.pixel_scale
    pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels[..., :: -1 if images.channels == "bgr" else 1]


def fitted(image: "Image", height: int | None, width: int | None, images: Preprocessing) -> "Image":
    """The image in the wanted size in pixels; unchanged if a size is None, which means that the model accepts any."""
    from PIL import Image, ImageOps

    if height is None or width is None:
        return image
    bilinear = Image.Resampling.BILINEAR
    cut = images.resize == "crop" and images.crop_fraction < 1
    if image.size == (width, height) and not cut:
        return image
    if images.resize == "stretch":
        return image.resize((width, height), bilinear)
    if images.resize == "letterbox":
        fill = images.fill if image.mode == "RGB" or isinstance(images.fill, int) else round(sum(images.fill) / 3)
        color = (fill,) * 3 if image.mode == "RGB" and isinstance(fill, int) else fill
        centering = (0.5, 0.5) if images.anchor == "center" else (0.0, 0.0)
        return ImageOps.pad(image, (width, height), bilinear, color=color, centering=centering)
    # `bleed` is left out at each side, so that the crop keeps that fraction of the shorter side
    return ImageOps.fit(image, (width, height), bilinear, bleed=(1 - images.crop_fraction) / 2)
