"""Samples in npy and npz files. Headers alone are read until a sample is asked for, and one file is open at a time."""

import math
import struct
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np

from onnxsparse.errors import ModelError
from onnxsparse.ir.binding import Shape, fed_inputs, format_shape
from onnxsparse.ir.mapped import let_go
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array, element_dtype
from onnxsparse.runtime.samples import Indexed
from onnxsparse.runtime.session import Feeds

READ_ERRORS = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error, SyntaxError, TokenError)
"""What numpy and zipfile raise for files that are missing or damaged. RuntimeError: encrypted, or compressed in another way."""

ARRAY_SUFFIXES = (".npy", ".npz")
"""Suffixes of files of arrays, in lower case."""

CHUNK = 2**20
"""Bytes that are read at a time where only the checksum matters."""

ZIP_LOCAL = "<26x2H"
"""Header before a member of a zip file; the lengths of name and extra field, which follow it. Source: APPNOTE.TXT, 4.3.7."""


@dataclass(frozen=True)
class Header:
    """Shape and type of a stored array."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran_order: bool = False


@dataclass(frozen=True)
class Taken:
    """A model input: its type, the wanted shape, and the model's name for messages."""

    name: str
    dtype: np.dtype[np.generic]
    wanted: Shape
    model: str

    def accepts(self, dtype: np.dtype[np.generic]) -> bool:
        """Whether values of a type can be given: integers and floats are converted to another width of the same kind."""
        return dtype == self.dtype or (dtype.kind == self.dtype.kind and dtype.kind in "fiu")

    def converted(self, where: str, values: Array) -> Array:
        """Values of an accepted type in the input's. Raises ModelError for integers that it cannot hold."""
        found = np.ascontiguousarray(values, self.dtype).reshape(values.shape)  # which makes an axis for a scalar
        if self.dtype.kind in "iu" and found.dtype != values.dtype and not np.array_equal(found, values):
            raise ModelError(
                f"{where}: input '{self.name}' of {self.model} takes {self.dtype}, which cannot hold the array's values"
            )
        return found

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape of one sample in an array of a shape; None if it does not fit.

        An array is one sample of the input's shape, with or without a batch axis of 1, or several of them along its first axis.
        """
        wanted = self.wanted
        if fits(shape, wanted):
            return shape
        if fits(shape[1:], wanted):
            return shape[1:]
        if wanted and wanted[0] in (None, 1) and fits(shape, wanted[1:]):
            return (1, *shape)
        batched = wanted and wanted[0] and fits(shape[1:], wanted[1:]) and shape[0] and shape[0] % wanted[0] == 0
        return (wanted[0], *shape[1:]) if batched and wanted[0] else None


@dataclass(frozen=True)
class Held:
    """What one file holds: input → (name of its array, shape of one sample), and the number of samples."""

    arrays: Mapping[str, tuple[str, tuple[int, ...]]]
    count: int


@dataclass
class ArrayFiles(Indexed):
    """The samples in files of arrays, file by file.

    `key`: the array in each file that is the input of a model with one input; None: found by name or shape. `option`: how the
    files were given, for messages. Raises ModelError for a file that cannot be read or does not fit the model.
    """

    files: tuple[Path, ...]
    model: Model
    key: str | None = None
    option: str = "--data"
    _open: tuple[int, dict[str, Array]] | None = field(default=None, init=False, repr=False)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int, /) -> Feeds:
        at = bisect_right(self._ends, index)
        within, held = index - (self._ends[at - 1] if at else 0), self._held[at]
        arrays = self._read(at)
        where = f"{self.option} {self.files[at]}"
        found = {
            name: self._inputs[name].converted(where, arrays[array].reshape(held.count, *shape)[within].copy())
            for name, (array, shape) in held.arrays.items()
        }
        for array in arrays.values():
            let_go(array)
        return found

    @property
    def names(self) -> list[str]:
        """The file of each sample, with its number if the file has several."""
        return [
            file.name if held.count == 1 else f"{file.name}[{number}]"
            for file, held in zip(self.files, self._held, strict=True)
            for number in range(held.count)
        ]

    @cached_property
    def _inputs(self) -> dict[str, Taken]:
        return taken(self.model)

    @cached_property
    def _held(self) -> list[Held]:
        return [look(f"{self.option} {file}", read_headers(file, self.option), self._inputs, self.key) for file in self.files]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(held.count for held in self._held))

    def _read(self, at: int) -> dict[str, Array]:
        """The arrays of file `at` that are inputs; they stay in memory until another file is read."""
        if self._open is None or self._open[0] != at:
            self._open = None
            wanted = {array for array, _ in self._held[at].arrays.values()}
            self._open = at, read_arrays(self.files[at], wanted, self.option)
        return self._open[1]


def taken(model: Model) -> dict[str, Taken]:
    """The inputs that a caller gives to a model, by name."""
    return {
        value.name: Taken(
            value.name,
            element_dtype(value.name, value.type.tensor_type.elem_type),
            model.binding.shapes.get(value.name, ()),
            model.name,
        )
        for value in fed_inputs(model.proto.graph)
    }


def look(where: str, headers: Mapping[str, Header], inputs: Mapping[str, Taken], key: str | None) -> Held:
    """Find each input among the arrays of a file, and count its samples. Raises ModelError if they do not fit."""
    arrays, counts = {}, {}
    for name, array in by_input(where, headers, inputs, key).items():
        value, header = inputs[name], headers[array]
        asked = f"{where}: input '{name}' of {value.model} takes"
        if not value.accepts(header.dtype):
            raise ModelError(f"{asked} {value.dtype}, the array has {header.dtype}")
        shape = value.sample_shape(header.shape)
        if shape is None:
            raise ModelError(f"{asked} {format_shape(value.wanted)}, the array is {format_shape(header.shape)}")
        arrays[name] = array, shape
        counts[name] = header.shape[0] if len(shape) < len(header.shape) else whole_batches(header.shape, shape)
    if len(set(counts.values())) > 1:
        raise ModelError(f"{where}: different numbers of samples ({', '.join(f'{n}: {c}' for n, c in counts.items())})")
    return Held(arrays, next(iter(counts.values()), 0))


def whole_batches(shape: tuple[int, ...], sample: tuple[int, ...]) -> int:
    """The samples in an array of as many axes as one sample, or fewer: the batches along its first axis."""
    return shape[0] // sample[0] if len(shape) == len(sample) and shape and sample[0] else 1


def by_input(where: str, headers: Mapping[str, Header], inputs: Mapping[str, Taken], key: str | None) -> dict[str, str]:
    """Input → its array: the one of its name. A single input takes `key`, else the only array, else the only one that fits.

    Raises ModelError for an array that is missing, or several that fit.
    """
    held = f"it has {', '.join(headers) or 'none'}"
    if len(inputs) == 1:
        value = next(iter(inputs.values()))
        if key is not None:
            if key not in headers:
                raise ModelError(f"{where}: no array '{key}'; {held}")
            return {value.name: key}
        fitting = [name for name, h in headers.items() if value.accepts(h.dtype) and value.sample_shape(h.shape) is not None]
        found = [value.name] if value.name in headers else list(headers) if len(headers) == 1 else fitting
        if len(found) == 1:
            return {value.name: found[0]}
        if found:
            several = f"{where}: {' and '.join(found)} fit input '{value.name}' of {value.model}"
            raise ModelError(f"{several}; name one after a colon, as in :{found[0]}")
    elif key is not None:
        raise ModelError(f"{where}: ':{key}' names one array, but the model takes {', '.join(inputs)}; leave it out")
    for name, value in inputs.items():
        if name not in headers:
            raise ModelError(f"{where}: no array for input '{name}' of {value.model}; {held}")
    return {name: name for name in inputs}


def read_headers(path: Path, option: str) -> dict[str, Header]:
    """Name → shape and type of each array of an npz file; of an npy file, its stem. Raises ModelError if it cannot be read."""
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                file.seek(0)
                return {path.stem: read_header(file)}
            with zipfile.ZipFile(file) as archive:
                members = [name for name in archive.namelist() if name.endswith(".npy")]
                return {name.removesuffix(".npy"): read_header(archive.open(name)) for name in members}
    except READ_ERRORS as error:
        raise unreadable(path, option, error, "it is no npy or npz file") from None


def read_header(file: IO[bytes]) -> Header:
    """The header of an npy stream. Raises ValueError if it is none."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    return Header(shape, dtype, fortran_order)


def read_arrays(path: Path, wanted: set[str], option: str = "--data") -> dict[str, Array]:
    """Name → array, for the `wanted` arrays of a file; what is not compressed is mapped. Raises ModelError for damaged files."""
    try:
        if not zipfile.is_zipfile(path):
            return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}
        with zipfile.ZipFile(path) as archive:
            return {name: read_member(path, archive, f"{name}.npy") for name in wanted}
    except READ_ERRORS as error:
        raise unreadable(path, option, error, "the file is damaged: its header is whole, its content is not") from None


def read_member(path: Path, archive: zipfile.ZipFile, member: str) -> Array:
    """An array of an npz file at `path`, mapped if it is stored as it is. Raises READ_ERRORS."""
    info = archive.getinfo(member)
    with archive.open(info) as file:
        header = read_header(file)
        start, size = file.tell(), math.prod(header.shape) * header.dtype.itemsize
        if info.compress_type != zipfile.ZIP_STORED or header.dtype.hasobject or not size:
            file.seek(0)
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        while file.read(CHUNK):  # at the end, zipfile compares the checksum
            pass
    if start + size > info.file_size:
        raise EOFError
    with path.open("rb") as raw:
        raw.seek(info.header_offset)
        name, extra = struct.unpack(ZIP_LOCAL, raw.read(struct.calcsize(ZIP_LOCAL)))
    at = info.header_offset + struct.calcsize(ZIP_LOCAL) + name + extra + start
    return np.memmap(path, header.dtype, "r", at, header.shape, "F" if header.fortran_order else "C")


def unreadable(path: Path, option: str, error: Exception, otherwise: str) -> ModelError:
    """The error for a file that is missing or may not be read; `otherwise`: what else can be the reason."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else otherwise
    return ModelError(f"{option} {path}: {reason}")


def fits(shape: Sequence[int], wanted: Shape) -> bool:
    """Whether a shape has the wanted rank and sizes; a wanted None fits every size."""
    return len(shape) == len(wanted) and all(w is None or s == w for s, w in zip(shape, wanted, strict=True))
