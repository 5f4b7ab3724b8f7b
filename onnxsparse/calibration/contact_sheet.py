"""A contact sheet: samples as a model gets them, turned back into pictures, in one PNG.

1. Choose at most SHOWN samples, evenly spread, because files are often sorted by content.
2. Turn the values of each input that is an image back into pixels. Of images, the preprocessing is undone; of arrays, the
   smallest value shown is black and the largest white.
3. Draw the pixels as tiles in a grid for each input, with the names of the samples under them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np

from onnxsparse.calibration.data import check_first
from onnxsparse.calibration.images import CHANNEL_COUNTS, ImageFiles, as_pixels
from onnxsparse.calibration.inspection import channel_axis
from onnxsparse.errors import ParamError
from onnxsparse.ir.binding import format_shape
from onnxsparse.ir.weights import Array
from onnxsparse.runtime.samples import Samples

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

SHOWN = 16
"""Largest number of samples on a sheet."""

COLUMNS = 4
TILE = 192
"""Width and height of a tile in pixels; smaller pictures are enlarged by a whole factor."""
LINE = 18
"""Height of a line of text in pixels."""
GAP = 8
TEXT_SIZE = 12

PAPER, INK = (255, 255, 255), (40, 40, 40)


@dataclass(frozen=True)
class Sheet:
    """A sheet, the number of samples on it, and the inputs that are no images and so not on it, each as `name (1x5)`."""

    image: "Image"
    samples: int
    left_out: tuple[str, ...]

    def save(self, file: IO[bytes]) -> None:
        """Write the sheet as PNG."""
        self.image.save(file, "PNG")


def contact_sheet(samples: Samples) -> Sheet:
    """The sheet of some samples. Raises ParamError if no input is an image, ModelError for samples that cannot be read."""
    check_first(samples)
    count = min(SHOWN, len(samples))
    chosen = samples.pick([at * len(samples) // count for at in range(count)])
    feeds = list(chosen)
    grids, left_out = [], []
    for name, first in feeds[0].items():
        axis = channel_axis(samples, first.shape)
        if axis is None or not is_picture(first.shape, axis):
            left_out.append(f"{name} ({format_shape(first.shape) or 'a scalar'})")
            continue
        pictures = as_pictures([np.moveaxis(feed[name][0], axis - 1, -1) for feed in feeds], samples)
        grids.append(grid(f"{name}: {count} of {len(samples)} samples", pictures, chosen.names))
    if not grids:
        raise ParamError(f"--sheet: no input is an image of 1 or 3 channels: {', '.join(left_out)}; leave --sheet out")
    return Sheet(stacked(grids), count, tuple(left_out))


def is_picture(shape: Sequence[int], axis: int) -> bool:
    """Whether an array of four axes can be drawn: 1 or 3 channels, and more than a row or a column of pixels."""
    positions = [size for at, size in enumerate(shape) if at not in (0, axis)]
    return shape[0] > 0 and shape[axis] in CHANNEL_COUNTS and min(positions) > 1


def as_pictures(arrays: Sequence[Array], samples: Samples) -> list[Array]:
    """Height × width × channels arrays as pixels from 0 to 255, red first."""
    if isinstance(samples.whole, ImageFiles):
        return [as_pixels(array, samples.whole.images) for array in arrays]
    values = [array.astype(np.float64) for array in arrays]
    finite = [value[np.isfinite(value)] for value in values]
    low = min((float(value.min()) for value in finite if value.size), default=0.0)
    high = max((float(value.max()) for value in finite if value.size), default=0.0)
    width = high - low or 1.0
    return [np.rint(np.clip(np.nan_to_num((value - low) / width), 0, 1) * 255).astype(np.uint8) for value in values]


def grid(heading: str, pictures: Sequence[Array], names: Sequence[str]) -> "Image":
    """Tiles with their names below, under a heading."""
    from PIL import Image, ImageDraw

    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    step = TILE + LINE + GAP
    sheet = Image.new("RGB", (COLUMNS * (TILE + GAP) + GAP, LINE + GAP + rows * step), PAPER)
    draw = ImageDraw.Draw(sheet)
    write(draw, (GAP, GAP // 2), heading, sheet.width - 2 * GAP)
    for at, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        left, top = GAP + at % columns * (TILE + GAP), LINE + GAP + at // columns * step
        tile = sized(picture)
        sheet.paste(tile, (left + (TILE - tile.width) // 2, top + (TILE - tile.height) // 2))
        write(draw, (left, top + TILE + 2), name, TILE)
    return sheet


def sized(picture: Array) -> "Image":
    """A picture shrunk to the size of a tile, or enlarged by a whole factor, so that pixels stay squares."""
    from PIL import Image

    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    factor = TILE // max(image.size)
    if factor:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((TILE, TILE))
    return image


def write(draw: "ImageDraw", at: tuple[int, int], text: str, width: int) -> None:
    """Write a line of at most `width` pixels; the middle of a longer text is left out."""
    from PIL import ImageFont

    font = ImageFont.load_default(TEXT_SIZE)
    shown, kept = text, len(text)
    while kept > 2 and draw.textlength(shown, font) > width:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
    draw.text(at, shown, INK, font)


def stacked(grids: Sequence["Image"]) -> "Image":
    """Images of one width below each other."""
    from PIL import Image

    sheet = Image.new("RGB", (grids[0].width, sum(one.height for one in grids)), PAPER)
    top = 0
    for one in grids:
        sheet.paste(one, (0, top))
        top += one.height
    return sheet
