"""Calibration data, read sample by sample and as often as needed; it is never held as a whole."""

import pickle
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import onnx

from onnxsparse.calibration.images import IMAGE_SUFFIXES, ImageFormat, image_feeds
from onnxsparse.errors import ModelError, ParamError
from onnxsparse.ir.binding import Shape, fed_inputs, format_shape
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import sample_files
from onnxsparse.ir.weights import Array, element_dtype
from onnxsparse.runtime.inputs import ARRAY_SUFFIXES, file_samples, fits
from onnxsparse.runtime.session import Feeds


@dataclass(frozen=True)
class CalibrationData:
    """Samples of a model's inputs, which can be iterated several times. `source`: their name in messages.

    Iteration raises ModelError for a sample that cannot be read or does not fit the model.
    """

    samples: Iterable[Feeds]
    source: str

    def __iter__(self) -> Iterator[Feeds]:
        return iter(self.samples)

    def count(self) -> int:
        """The number of samples, found by reading all of them."""
        return sum(1 for _ in self)

    def every(self, step: int) -> "CalibrationData":
        """Every `step`-th sample, starting with the first."""
        if isinstance(self.samples, ImageFiles):  # the images in between need not be decoded
            return CalibrationData(replace(self.samples, files=self.samples.files[::step]), self.source)
        return CalibrationData(Thinned(self.samples, step), self.source)


def open_data(source: "Path | Iterable[Feeds]", model: Model, images: ImageFormat) -> CalibrationData:
    """Data from an npy or npz file, a folder of them, an image, a folder of images, or any iterable of feeds.

    Raises ModelError for a folder without arrays and images, or with both; ParamError for image options with arrays. Iterating
    the result raises ModelError for a sample that does not fit the model.
    """
    if not isinstance(source, Path):
        samples = source if not isinstance(source, Iterator) else Spooled(source)
        return CalibrationData(Checked(samples, model), "the given samples")
    if not source.is_dir():
        if source.suffix.lower() in IMAGE_SUFFIXES:
            return CalibrationData(ImageFiles((source,), model, images), str(source))
        return array_data((source,), source, model, images)
    arrays, pictures = (tuple(sample_files(source, suffixes)) for suffixes in (ARRAY_SUFFIXES, IMAGE_SUFFIXES))
    if bool(arrays) == bool(pictures):
        what = "both arrays and images; separate them" if arrays else "no .npy, .npz or image files"
        raise ModelError(f"--data {source}: the folder holds {what}")
    if arrays:
        return array_data(arrays, source, model, images)
    return CalibrationData(ImageFiles(pictures, model, images), str(source))


def array_data(files: tuple[Path, ...], source: Path, model: Model, images: ImageFormat) -> CalibrationData:
    """Data from files of arrays, which are fed unchanged. Raises ParamError for options that concern images."""
    if images != ImageFormat():
        raise ParamError(
            f"--data {source}: arrays are fed as they are; --mean, --std, --layout, --resize and --bgr are for images"
        )
    return CalibrationData(ArrayFiles(files, model), str(source))


@dataclass(frozen=True)
class Thinned:
    """Every `step`-th sample. Files are often sorted by content, so the first samples alone would not be representative."""

    samples: Iterable[Feeds]
    step: int

    def __iter__(self) -> Iterator[Feeds]:
        return islice(self.samples, 0, None, self.step)


@dataclass(frozen=True)
class ArrayFiles:
    """The samples in files of arrays, with one file in memory at a time."""

    files: tuple[Path, ...]
    model: Model

    def __iter__(self) -> Iterator[Feeds]:
        for file in self.files:
            yield from file_samples(file, self.model)


@dataclass(frozen=True)
class ImageFiles:
    """One sample for each image."""

    files: tuple[Path, ...]
    model: Model
    images: ImageFormat

    def __iter__(self) -> Iterator[Feeds]:
        return image_feeds(self.files, self.model, self.images)


@dataclass(frozen=True)
class Checked:
    """The caller's feeds, each checked against the model's inputs before onnxruntime gets it."""

    samples: Iterable[Feeds]
    model: Model

    def __iter__(self) -> Iterator[Feeds]:
        for number, feeds in enumerate(self.samples):
            yield {value.name: self._checked(number, feeds, value.name) for value in fed_inputs(self.model.proto.graph)}

    def _checked(self, number: int, feeds: Feeds, name: str) -> Array:
        """The array for one input. Raises ModelError if it is missing, or does not fit in type or shape."""
        if not isinstance(feeds, Mapping):
            raise ModelError(f"sample {number} is a {type(feeds).__name__}, not a mapping from input names to arrays")
        if name not in feeds:
            raise ModelError(f"sample {number}: no array for input '{name}' of {self.model.name}; it has {', '.join(feeds)}")
        array = np.asarray(feeds[name])
        value = next(v for v in self.model.proto.graph.input if v.name == name)
        dtype = element_dtype(name, value.type.tensor_type.elem_type)
        wanted = self.model.binding.shapes.get(name)
        if array.dtype != dtype:
            raise ModelError(f"sample {number}: input '{name}' of {self.model.name} takes {dtype}, the array has {array.dtype}")
        if wanted is not None and not (fits(array.shape, wanted) or (takes_any_batch(value) and is_batch(array.shape, wanted))):
            raise ModelError(
                f"sample {number}: input '{name}' of {self.model.name} takes {format_shape(wanted)}, "
                f"the array is {format_shape(array.shape)}"
            )
        return array


def takes_any_batch(value: onnx.ValueInfoProto) -> bool:
    """Whether the file leaves the first axis of an input open, even if a size is assumed for it."""
    sizes = value.type.tensor_type.shape.dim
    return len(sizes) > 0 and sizes[0].dim_value <= 0


def is_batch(shape: Sequence[int], wanted: Shape) -> bool:
    """Whether a shape fits in all axes but the first, which may be any size above 0."""
    return len(shape) == len(wanted) and shape[0] > 0 and fits(shape[1:], wanted[1:])


class Spooled:
    """The samples of an iterator, stored in a temporary file as they come, so that they can be iterated again."""

    def __init__(self, samples: Iterator[Feeds]) -> None:
        self._rest = samples
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the samples are wanted
        self._ends = [0]

    def __iter__(self) -> Iterator[Feeds]:
        number = 0
        while number + 1 < len(self._ends) or self._read_on():
            self._file.seek(self._ends[number])
            yield pickle.load(self._file)
            number += 1

    def _read_on(self) -> bool:
        """Store the next sample of the iterator. Returns whether there was one."""
        try:
            feeds = next(self._rest)
        except StopIteration:
            return False
        self._file.seek(self._ends[-1])
        pickle.dump(feeds, self._file, protocol=5)
        self._ends.append(self._file.tell())
        return True
