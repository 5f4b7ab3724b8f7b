"""Which files may be read beside a model, and output files that appear whole or not at all."""

import errno
import io
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from onnxsparse.errors import ModelError, ParamError

Writer = Callable[[IO[bytes]], object]

STDOUT = Path("-")
"""Stands for standard output where a file is to be written."""


class Staging:
    """Files written beside their targets and renamed onto them together, when the `with` block ends well.

    Whatever ends the block otherwise, an interrupt included, removes the temporaries and leaves every target as it was. What goes
    to standard output is printed last, once the files are there.
    """

    def __init__(self) -> None:
        self._staged: list[tuple[Path, Path]] = []
        self._printed: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    @property
    def targets(self) -> list[Path]:
        """The files that will be replaced, links followed."""
        return [target for _, target in self._staged]

    def write(self, target: Path, writer: Writer) -> None:
        """Write a temporary beside `target` and sync it; `-` is standard output.

        Raises ParamError where no file can be, ModelError if the disk refuses.
        """
        if target == STDOUT:
            held = io.BytesIO()
            writer(held)
            self._printed.append(held.getvalue())
            return
        target = check_target(target)
        temporary = target.with_name(f".onnxsparse-{secrets.token_hex(8)}.tmp")  # never longer than names may be
        try:
            # not tempfile: its files are private, and a target has the permissions any new file has
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
    """To standard output as they are; as text where that is not a file, as in a notebook. Raises OSError."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    sys.stdout.flush()
    if hasattr(sys.stdout, "buffer"):
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(content.decode())


def check_target(target: Path) -> Path:
    """The file that writing to `target` replaces (links followed).

    Raises ParamError if no file can be there: a folder, a device or a pipe, a name in no folder. Raises ModelError if the system
    refuses: a file system that is read only, a folder that is not ours.
    """
    try:
        mode: int | None = os.stat(target).st_mode  # noqa: PTH116 - of the same module as what surrounds it
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
    """Raises ParamError for no folder, ModelError for one that must not be written to; `what` could not be done."""
    if not os.path.isdir(folder):  # noqa: PTH112 - pathlib's raises where a folder above must not be read
        why = f"{folder} is not a folder" if os.path.lexists(folder) else f"the folder {folder} does not exist"
        raise ParamError(f"{what}: {why}")
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        raise ModelError(f"{what}: {os.strerror(errno.EROFS if read_only else errno.EACCES)}")


def cannot_write(target: Path, error: OSError) -> ModelError:
    return ModelError(f"cannot write {target}: {error.strerror or error}")


def remove(paths: Iterable[Path]) -> None:
    """Delete files that are of no use any more. Raises ModelError for one that cannot be deleted."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ModelError(f"all is written, but the old {path} cannot be removed: {error.strerror or error}") from None


def identity(path: Path) -> tuple[object, ...]:
    """Equal for two paths that lead to one file, through links, hard links or another spelling, whether it exists or not."""
    if path == STDOUT:
        return (STDOUT,)
    try:
        found = os.stat(path)  # noqa: PTH116 - of the same module as what surrounds it
    except OSError:
        return (os.path.realpath(path),)
    return (found.st_dev, found.st_ino)


def side_file(location: str, model: Path) -> Path:
    """The real path of the external data at `location` of the model at `model`, beside whose name it is looked for.

    Raises ValueError for what onnxruntime refuses too: an absolute location, and a real path that is neither inside the folder
    of the model's name nor inside that of the file it leads to; in a Hugging Face cache the latter is `blobs`. Source:
    onnxruntime 1.32, tensorprotoutils.cc, ValidateExternalDataPath.
    """
    if not location or "\0" in location:
        raise ValueError("is not inside the model's folder: it is no file name")
    if Path(location).is_absolute():
        raise ValueError(f"is not inside the model's folder {model.parent}: it is an absolute path")
    path = Path(os.path.realpath(model.parent / location))
    folders = dict.fromkeys(Path(os.path.realpath(folder)) for folder in (model.parent, Path(os.path.realpath(model)).parent))
    if not any(path.is_relative_to(folder) for folder in folders):
        raise ValueError(f"is not inside the model's folder {' or '.join(map(str, folders))}")
    return path
