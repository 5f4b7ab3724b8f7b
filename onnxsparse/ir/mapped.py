"""Bytes of tensors: in a mapped file, or in memory."""

import errno
import mmap
import os
import stat
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from onnxsparse.errors import ModelError
from onnxsparse.ir.files import side_file
from onnxsparse.ir.wire import RAW_DATA


class MappedFile:
    """A file read through a memory map. Pages that were read stay resident until `release`. The object owns the descriptor."""

    def __init__(self, descriptor: int, path: Path) -> None:
        """`descriptor`: an open file, owned by this object from now on. `path` is for messages."""
        self.descriptor = descriptor
        self.path = path
        self.size = os.lseek(descriptor, 0, os.SEEK_END)
        self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) if self.size else None

    @classmethod
    def open(cls, path: Path | str) -> "MappedFile":
        """Open `path` for reading. Raises OSError for anything but a regular file: a pipe would block, a device has no end."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file")
        return cls(descriptor, Path(path))

    def view(self) -> memoryview:
        """The whole file, without a copy."""
        return memoryview(self._map) if self._map is not None else memoryview(b"")

    def release(self) -> None:
        """Release the resident pages of the whole file; they are read again when needed."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@dataclass(frozen=True)
class Payload:
    """The bytes of one tensor, and their TensorProto field.

    They are `data`, or the bytes [offset, offset + length) of `file`. `field`: one of wire.FLAT_FIELDS.
    """

    data: memoryview | None
    file: MappedFile | None = None
    offset: int = 0
    length: int = 0
    field: int = RAW_DATA

    @classmethod
    def of(cls, data: memoryview, field: int = RAW_DATA) -> "Payload":
        """The payload of bytes in memory."""
        return cls(data, length=len(data), field=field)

    def view(self) -> memoryview:
        """The bytes, without a copy."""
        if self.data is not None:
            return self.data
        assert self.file is not None
        return self.file.view()[self.offset : self.offset + self.length]

    def write_to(self, file: IO[bytes]) -> None:
        """Append the bytes to `file`. On Linux the kernel copies them from file to file, so that they do not pass through memory.

        Raises ModelError if the source file got shorter, OSError if the disk refuses.
        """
        if self.file is None or sys.platform != "linux":
            file.write(self.view())
            return
        file.flush()
        done = 0
        while done < self.length:
            sent = os.sendfile(file.fileno(), self.file.descriptor, self.offset + done, self.length - done)
            if not sent:
                raise ModelError(f"{self.file.path} got shorter while it was read")
            done += sent
        file.seek(0, os.SEEK_END)

    def release(self) -> None:
        """Release the resident pages of the file; without effect on bytes in memory."""
        if self.file is not None:
            self.file.release()


def byte_view(array: NDArray[np.generic]) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def let_go(array: NDArray[np.generic]) -> None:
    """Take the pages of a mapped array out of memory; they are read again when they are needed."""
    # not every system has this advice
    if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


def spilled(parts: Iterable[NDArray[np.generic]]) -> Payload:
    """Write consecutive arrays to an unnamed temporary file, which is deleted with its last reader.

    Raises ModelError if the disk is full.
    """
    try:
        with tempfile.TemporaryFile() as file:
            for part in parts:
                file.write(byte_view(part))
            file.flush()
            mapped = MappedFile(os.dup(file.fileno()), Path("(temporary file)"))
    except OSError as error:
        raise ModelError(f"cannot keep weights in a temporary file: {error.strerror or error}; see TMPDIR") from None
    return Payload(None, mapped, 0, mapped.size)


def open_side_file(name: str, location: str, model: Path | None) -> MappedFile:
    """The external data file of tensor `name` of the model at `model`.

    Only files beside the model are opened, so that a downloaded model cannot read other files of the user. Raises ModelError for
    a location that `side_file` refuses, a file that cannot be read, and a model made in memory (`model` None).
    """
    if model is None:
        raise ModelError(f"tensor '{name}' keeps its data in '{location}', and the model was not loaded from a file")
    try:
        side_file(location, model)
        return MappedFile.open(os.path.join(model.parent, location))  # noqa: PTH118 - pathlib drops a slash at the end
    except ValueError as error:
        raise ModelError(f"tensor '{name}': external data '{location}' {error}") from None
    except OSError as error:
        raise ModelError(f"tensor '{name}': external data file {model.parent / location}: {error.strerror or error}") from None
