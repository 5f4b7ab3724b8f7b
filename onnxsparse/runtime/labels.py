"""Labels of samples, from a file of arrays or of text. They are given for a whole source of samples."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePath
from typing import IO, Annotated, Any

import numpy as np

from onnxsparse.errors import ParamError
from onnxsparse.ir.option_roles import Role, split_key
from onnxsparse.ir.weights import Array
from onnxsparse.runtime.classes import batch_size
from onnxsparse.runtime.samples import Samples

TEXT_SUFFIXES = (".txt", ".csv")
"""Suffixes of label files in text, in lower case."""

FORMS = "npy, npz (F.npz:key), txt or csv"
"""The forms of labels that this file reads, for messages."""

UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
"""What numpy raises for a file that is missing, damaged or of another kind."""


@dataclass(frozen=True)
class Labels:
    """The labels in a file: one for each place in a source of samples, or one for each name of a sample."""

    source: Path
    """As given, with the key of an array."""
    by_place: Array | None = None
    by_name: Mapping[str, int] | None = None

    def of(self, samples: Samples) -> Array:
        """One entry for each sample, or for each row if the file has one for each row of the source's samples.

        Raises ParamError if their number fits neither, or for a sample without a label; ModelError for a sample that cannot be
        read.
        """
        if self.by_name is not None:
            return np.array([self._named(name) for name in samples.names], np.int64)
        assert self.by_place is not None  # one of both is there
        found, count = self.by_place, len(samples.whole)
        if len(found) == count:
            return found[list(samples.places)]
        # samples need not have equal numbers of rows
        rows = [batch_size(feeds) or 1 for feeds in samples.whole] if len(found) > count else []
        ends = list(accumulate(rows, initial=0))
        if not rows or ends[-1] != len(found):
            held = f", which have {ends[-1]} rows" if ends[-1] > count else ""
            raise ParamError(f"--labels {self.source}: {len(found)} labels for {count} samples of {samples.source}{held}")
        return np.concatenate([found[:0], *(found[ends[place] : ends[place + 1]] for place in samples.places)])

    def _named(self, name: str) -> int:
        """The label of the sample `name`. Raises ParamError if there is none."""
        assert self.by_name is not None
        # data.npz[3] is one of several samples of a file, whose stem names them all
        for known in [name] if name.endswith("]") else [name, PurePath(name).stem]:
            if known in self.by_name:
                return self.by_name[known]
        example = next(iter(self.by_name), "none")
        raise ParamError(f"--labels {self.source}: no label for sample '{name}' (names in the file look like '{example}')")


def read_labels(source: Path) -> Labels:
    """The labels in an npy, npz, txt or csv file.

    Raises ParamError for a file that is missing, damaged or of another form, and for an array that is missing or not unique.
    """
    check_labels(source, "--labels")
    file, key = split_key(source)
    where = f"--labels {source}"
    if file.suffix.lower() in TEXT_SUFFIXES:
        return read_text(source, where)
    if file.suffix.lower() not in (".npy", ".npz"):
        raise ParamError(f"{where}: labels are read from {FORMS}; other files are for metrics that read data.labels_file")
    found = read_array(file, key, where)
    if not found.ndim:
        raise ParamError(f"{where}: labels have one entry for each sample; the array is a single number")
    return Labels(source, by_place=found)


def read_array(file: Path, key: str | None, where: str) -> Array:
    """The array of an npy file, or one of an npz file: `key`, else the only one of labels. Raises ParamError if there is none."""
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            name = only_labels(loaded, where) if key is None else key
            if name not in loaded.files:
                raise ParamError(f"{where}: no array '{name}'; it has {', '.join(loaded.files) or 'none'}")
            found: Array = loaded[name]
            return found
    except UNREADABLE:
        raise ParamError(f"{where}: it is no npy or npz file, or has arrays of objects") from None


def only_labels(archive: Any, where: str) -> str:
    """The one array of an npz file that has one axis of integers; else the only array. Raises ParamError if there is none."""
    names = [name.removesuffix(".npy") for name in archive.zip.namelist() if name.endswith(".npy")]
    found = [name for name in names if is_flat_integers(archive.zip.open(f"{name}.npy"))]
    if len(found) == 1 or len(names) == 1:
        return str((found or names)[0])
    what = "several arrays of integers with one axis" if found else "no array of integers with one axis"
    raise ParamError(f"{where}: {what}; name one after a colon, of {', '.join(names) or 'none'}")


def is_flat_integers(stream: IO[bytes]) -> bool:
    """Whether the header of an npy stream says one axis of integers. Raises ValueError if it is no npy stream."""
    with stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    return len(shape) == 1 and dtype.kind in "iu"


def read_text(source: Path, where: str) -> Labels:
    """Labels from lines of text: integers alone, or a name and an integer each. Raises ParamError for anything else.

    Empty lines are ignored, and so is a first line with titles of columns.
    """
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ParamError(f"{where}: {getattr(error, 'strerror', None) or 'it is no text in UTF-8'}") from None
    entries = list(parsed(text, where))
    if len({name is None for _, name, _ in entries}) > 1:
        raise ParamError(f"{where}: some lines have a name and others none")
    if not entries or entries[0][1] is None:
        return Labels(source, by_place=np.array([label for _, _, label in entries], np.int64))
    named: dict[str, int] = {}
    for number, name, label in entries:
        if name is not None and named.setdefault(name, label) != label:
            raise ParamError(f"{where}: line {number}: '{name}' has label {named[name]} in an earlier line")
    return Labels(source, by_name=named)


def parsed(text: str, where: str) -> Iterator[tuple[int, str | None, int]]:
    """(line, name or None, label) of each line. Raises ParamError for a line without a label, except the first."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for at, (number, line) in enumerate(lines):
        parts: Sequence[str] = line.rsplit(",", 1) if "," in line else line.rsplit(None, 1)
        try:
            label = int(np.int64(int(parts[-1].strip(' "'))))
        except (ValueError, OverflowError):
            if at == 0 and len(lines) > 1:  # a title; a wrong label is missed when labels are counted or found by name
                continue
            raise ParamError(f"{where}: line {number}: '{line}' is no integer, and no name with an integer") from None
        yield number, PurePath(parts[0].strip(' "')).name if len(parts) > 1 else None, label


def check_labels(source: Path, option: str) -> None:
    """Raises ParamError for a file that is missing or may not be read, or lacks the array of `F.npz:key`."""
    file, key = split_key(source)
    try:
        with file.open("rb"):
            pass
        if key is None:
            return
        with np.load(file, allow_pickle=False) as archive:
            names = archive.files
    except UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no npz file"
        raise ParamError(f"{option} {source}: {reason}") from None
    if key not in names:
        raise ParamError(f"{option} {source}: no array '{key}'; it has {', '.join(names) or 'none'}")


LabelsFile = Annotated[Path, Role(check_labels, reads=lambda source: (split_key(source)[0],))]
"""Labels of the samples that are judged on: npy, npz (`F.npz:key` for one array), text, or a file that the metric reads."""
