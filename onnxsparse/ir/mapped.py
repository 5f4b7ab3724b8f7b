"""Bytes of tensors where they are: in a file that is mapped, or in memory."""

import errno
import mmap
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from onnxsparse.errors import ModelError
from onnxsparse.ir.wire import RAW_DATA


class MappedFile:
    """A file read through a memory map, and released when told: mapped pages count as resident until then."""

    def __init__(self, descriptor: int, path: Path) -> None:
        """Takes the descriptor over; `path` is for messages."""
        self.descriptor = descriptor
        self.path = path
        self.size = os.lseek(descriptor, 0, os.SEEK_END)
        self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) if self.size else None

    @classmethod
    def open(cls, path: Path | str) -> "MappedFile":
        """Raises OSError for a path that leads to no regular file: a pipe would block, a device has no end."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file")
        return cls(descriptor, Path(path))

    def view(self) -> memoryview:
        return memoryview(self._map) if self._map is not None else memoryview(b"")

    def release(self) -> None:
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@dataclass(frozen=True)
class Payload:
    """The bytes of one tensor, in memory or at [offset, offset + length) of a file, and their TensorProto field."""

    data: memoryview | None
    file: MappedFile | None = None
    offset: int = 0
    length: int = 0
    field: int = RAW_DATA

    @classmethod
    def of(cls, data: memoryview, field: int = RAW_DATA) -> "Payload":
        return cls(data, length=len(data), field=field)

    def view(self) -> memoryview:
        if self.data is not None:
            return self.data
        assert self.file is not None
        return self.file.view()[self.offset : self.offset + self.length]

    def write_to(self, file: IO[bytes]) -> None:
        """Append to `file`, inside the kernel where the bytes are in a file and the system can."""
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
        if self.file is not None:
            self.file.release()
