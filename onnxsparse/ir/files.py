"""Output files that are written completely or not at all, and the files that may be read beside a model."""

import errno
import io
import os
import secrets
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from onnxsparse.errors import ModelError, ParamError
from onnxsparse.records import ArtifactWriter

STDOUT = Path("-")
"""The name that stands for standard output."""


class Staging:
    """Output files that all appear together, when the `with` block ends without an error.

    1. `write` writes each file as a temporary beside its target, and syncs it.
    2. At the end of the block, all temporaries are renamed onto their targets; then standard output is printed.
    3. If the block ends with an error, an interrupt included, the temporaries are deleted, and every target stays unchanged.
    """

    def __init__(self) -> None:
        self._staged: list[tuple[Path, Path]] = []
        self._printed: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    @property
    def targets(self) -> list[Path]:
        """The files that will be replaced, with links resolved."""
        return [target for _, target in self._staged]

    def write(self, target: Path, writer: ArtifactWriter) -> None:
        """Write a temporary beside `target` and sync it. For `-`, keep the content to print it at the end.

        Raises ParamError if `target` cannot be a file, ModelError if the system refuses to write.
        """
        if target == STDOUT:
            held = io.BytesIO()
            writer(held)
            self._printed.append(held.getvalue())
            return
        target = check_target(target)
        # not derived from the target's name, which may be as long as names can be
        temporary = target.with_name(f".onnxsparse-{secrets.token_hex(8)}.tmp")
        try:
            # not tempfile: its files are readable by their owner alone, and a target needs the permissions of any new file
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
            self._staged.append((temporary, target))
            with os.fdopen(descriptor, "wb") as file:
                writer(file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(target, error) from None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            for temporary, _ in self._staged:
                temporary.unlink(missing_ok=True)

    def _commit(self) -> None:
        for temporary, target in self._staged:
            try:
                os.replace(temporary, target)
            except OSError as error:
                raise cannot_write(target, error) from None
        for content in self._printed:
            print_bytes(content)


def print_bytes(content: bytes) -> None:
    """Print bytes to standard output; as text if it takes text alone, as in a notebook. Raises OSError if it is closed."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    sys.stdout.flush()
    if hasattr(sys.stdout, "buffer"):
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(content.decode())


def check_target(target: Path) -> Path:
    """The file that writing to `target` replaces, with links resolved.

    Raises ParamError if it cannot be a file: a folder, a device or a pipe, an invalid name, or no folder around it. Raises
    ModelError if the system refuses: a read-only file system, missing permissions.
    """
    try:
        mode: int | None = os.stat(target).st_mode  # noqa: PTH116 - os, as in the lines around it
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except ValueError:
        raise ParamError(f"cannot write {str(target)!r}: no file can have this name") from None
    except OSError as error:
        raise cannot_write(target, error) from None
    target = Path(os.path.realpath(target))
    if mode is not None and stat.S_ISDIR(mode):
        raise ParamError(f"{target} is a folder; name the file to write")
    if mode is not None and not stat.S_ISREG(mode):
        raise ParamError(f"cannot write {target}: it is a device or a pipe, which cannot be replaced; name a file")
    check_folder(target.parent, f"cannot write {target}")
    return target


def check_folder(folder: Path, what: str) -> None:
    """Raises ParamError if `folder` is not a folder, ModelError if it may not be written to. `what`: the start of the message."""
    if not os.path.isdir(folder):  # noqa: PTH112 - pathlib's version raises if a parent folder is unreadable
        why = f"{folder} is not a folder" if os.path.lexists(folder) else f"the folder {folder} does not exist"
        raise ParamError(f"{what}: {why}")
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        raise ModelError(f"{what}: {os.strerror(errno.EROFS if read_only else errno.EACCES)}")


def cannot_write(target: Path, error: OSError) -> ModelError:
    """The ModelError for a system error while `target` was written."""
    return ModelError(f"cannot write {target}: {error.strerror or error}")


def remove(paths: Iterable[Path]) -> None:
    """Delete files that became unused after everything was written. Raises ModelError for one that cannot be deleted."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ModelError(f"all is written, but the old {path} cannot be removed: {error.strerror or error}") from None


def identity(path: Path) -> tuple[object, ...]:
    """A key that is equal for two paths of one file, through links, hard links or other spellings. The file need not exist."""
    if path == STDOUT:
        return (STDOUT,)
    try:
        found = os.stat(path)  # noqa: PTH116 - os, as in the lines around it
    except OSError:
        return (os.path.realpath(path),)
    return (found.st_dev, found.st_ino)


def side_file(location: str, model: Path) -> Path:
    """The real path of the external data `location` of the model at `model`. It is relative to the folder of the model's name.

    Raises ValueError, whose text is the end of a sentence, for a location that onnxruntime refuses too: an absolute path, and a
    real path that is inside neither the folder of the model's name nor that of the file behind a link. In a Hugging Face cache
    the latter is `blobs`. Source: onnxruntime 1.32, tensorprotoutils.cc, ValidateExternalDataPath.
    """
    if not location or "\0" in location:
        raise ValueError("is not inside the model's folder: it is not a file name")
    if Path(location).is_absolute():
        raise ValueError(f"is not inside the model's folder {model.parent}: it is an absolute path")
    path = Path(os.path.realpath(model.parent / location))
    folders = dict.fromkeys(Path(os.path.realpath(folder)) for folder in (model.parent, Path(os.path.realpath(model)).parent))
    if not any(path.is_relative_to(folder) for folder in folders):
        raise ValueError(f"is not inside the model's folder {' or '.join(map(str, folders))}")
    return path
