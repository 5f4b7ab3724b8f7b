"""Data for a model's inputs, in every form: arrays, images, folders of them, or feeds from Python.

`--data` is what a command learns from, `--test` what it judges on. Without `--test`, a tenth of the data is held out
(`runtime.samples`).
"""

import pickle
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated

import numpy as np
import onnx

from onnxsparse.calibration.arrays import ARRAY_SUFFIXES, ArrayFiles, fits, read_headers
from onnxsparse.calibration.images import IMAGE_SUFFIXES, ImageFiles
from onnxsparse.calibration.preprocessing import Preprocessing
from onnxsparse.errors import ModelError, ParamError
from onnxsparse.ir.binding import Shape, fed_inputs, format_shape
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import Role, check_input, sample_files, split_key
from onnxsparse.ir.weights import Array, element_dtype
from onnxsparse.runtime.samples import Indexed, Samples, SampleSource
from onnxsparse.runtime.session import Feeds


def data_files(source: Path) -> list[Path]:
    """The files that an option for data names: one file, or those in a folder that are arrays or images."""
    return sample_files(split_key(source)[0], (*ARRAY_SUFFIXES, *IMAGE_SUFFIXES))


def check_data(source: Path, option: str) -> None:
    """Raises ModelError for a file or folder that is missing, holds no data, or lacks the array of `F.npz:key`."""
    file, key = split_key(source)
    check_input(file, option)
    if key is not None and key not in (headers := read_headers(file, option)):
        raise ModelError(f"{option} {file}: no array '{key}'; it has {', '.join(headers) or 'none'}")
    if file.is_dir():
        files_in(file, option)


def files_in(folder: Path, option: str) -> tuple[Sequence[Path], Sequence[Path]]:
    """The files of arrays and of images in a folder; one of both is empty. Raises ModelError if both or none are there."""
    arrays, pictures = (sample_files(folder, suffixes) for suffixes in (ARRAY_SUFFIXES, IMAGE_SUFFIXES))
    if bool(arrays) == bool(pictures):
        what = "both arrays and images; separate them" if arrays else "no .npy, .npz or image files"
        raise ModelError(f"{option} {folder}: the folder holds {what}")
    return arrays, pictures


DataFiles = Annotated[Path, Role(check_data, reads=data_files)]
"""An option for data: npz (`F.npz:key` for one array), npy, an image, or a folder of arrays or of images."""


def open_data(
    source: Path | Iterable[Feeds], model: Model, images: Preprocessing | None = None, *, option: str = "--data"
) -> Samples:
    """Samples from an npz or npy file, an image, a folder of arrays or of images, or any iterable of feeds.

    `images`: None for the default preprocessing. `option`: how the source was given, for messages.

    Raises ModelError for a folder without data or with both kinds, ParamError for preprocessing of arrays. Reading the result
    raises ModelError for a sample that does not fit the model.
    """
    if not isinstance(source, Path):
        return Samples(Checked(source if isinstance(source, list | tuple) else Spooled(iter(source)), model))
    return Samples(files_of(source, model, images or Preprocessing(), option), (f"samples from {source}",), str(source))


def files_of(source: Path, model: Model, images: Preprocessing, option: str) -> SampleSource:
    """The samples that a path stands for. Raises ModelError and ParamError as `open_data` does."""
    file, key = split_key(source)
    if not file.is_dir():
        arrays, pictures = ([], [file]) if file.suffix.lower() in IMAGE_SUFFIXES else ([file], [])
    else:
        arrays, pictures = map(list, files_in(file, option))
    if pictures:
        return ImageFiles(tuple(pictures), model, images, option)
    if images != Preprocessing():
        raise ParamError(f"{option} {source}: arrays are fed as they are; preprocessing (--preprocess, --mean…) is for images")
    return ArrayFiles(tuple(arrays), model, key, option)


def holds_images(source: Path) -> bool:
    """Whether a path stands for an image or a folder of images."""
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in data_files(source))


def for_source(images: Preprocessing, source: Path, other: Path | None) -> Preprocessing:
    """The preprocessing of a source beside another: none of arrays, if the preprocessing is for the images of the other."""
    meant_for_other = other is not None and holds_images(other) and not holds_images(source)
    return Preprocessing() if meant_for_other else images


def load_samples(path: str | Path, model: Model) -> Samples:
    """Samples for `compare` from an npz or npy file, an image, or a folder of arrays or images. Raises as `open_data` does."""
    found = open_data(Path(path), model)
    return Samples(found.feeds, (f"{len(found)} samples from {path}",), found.source)


def check_first(samples: Samples) -> None:
    """Read the first sample. Raises ModelError if there is none, or it does not fit the model."""
    if not len(samples):
        raise ModelError(f"{samples.source}: there are no samples")
    samples.feeds[0]


@dataclass(frozen=True)
class Checked(Indexed):
    """The caller's feeds, each checked against the model's inputs before onnxruntime gets it."""

    samples: SampleSource
    model: Model

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int, /) -> Feeds:
        return self._fitting(index, self.samples[index])

    def __iter__(self) -> Iterator[Feeds]:
        return (self._fitting(number, feeds) for number, feeds in enumerate(self.samples))

    def _fitting(self, number: int, feeds: Feeds) -> Feeds:
        return {value.name: self._checked(number, feeds, value.name) for value in fed_inputs(self.model.proto.graph)}

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


@dataclass
class Spooled(Indexed):
    """The samples of an iterator, stored in a temporary file as they come, so that they can be read again."""

    rest: Iterator[Feeds]
    _file: IO[bytes] = field(default_factory=tempfile.TemporaryFile, init=False)
    _ends: list[int] = field(default_factory=lambda: [0], init=False)

    def __len__(self) -> int:
        while self._read_on():
            pass
        return len(self._ends) - 1

    def __getitem__(self, index: int, /) -> Feeds:
        while index + 1 >= len(self._ends):
            if not self._read_on():
                raise IndexError(index)
        self._file.seek(self._ends[index])
        found: Feeds = pickle.load(self._file)
        return found

    def __iter__(self) -> Iterator[Feeds]:
        number = 0
        while number + 1 < len(self._ends) or self._read_on():
            yield self[number]
            number += 1

    def _read_on(self) -> bool:
        """Store the next sample of the iterator. Returns whether there was one."""
        try:
            feeds = next(self.rest)
        except StopIteration:
            return False
        self._file.seek(self._ends[-1])
        pickle.dump(feeds, self._file, protocol=5)
        self._ends.append(self._file.tell())
        return True
