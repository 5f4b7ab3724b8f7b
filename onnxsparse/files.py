"""Which files may be read beside a model, and output files that appear whole or not at all."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from onnxsparse.errors import ModelError, ParamError

Writer = Callable[[IO[bytes]], object]


class Staging:
    """Files written beside their targets and renamed onto them together, when the `with` block ends well.

    Whatever ends the block otherwise, an interrupt included, removes the temporaries and leaves every target as it was.
    """

    def __init__(self) -> None:
        self._staged: list[tuple[Path, Path]] = []

    def __enter__(self) -> Self:
        return self

    def write(self, target: Path, writer: Writer) -> None:
        """Write a temporary beside `target` and sync it. Raises ParamError for a folder, ModelError if the disk refuses."""
        target = check_target(target)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        self._staged.append((temporary, target))
        try:
            # not tempfile: its files are private, and a target has the permissions any new file has
            with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666), "wb") as file:
                writer(file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ModelError(f"cannot write {target}: {error.strerror or error}") from None

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
                raise ModelError(f"cannot write {target}: {error.strerror or error}") from None


def check_target(target: Path) -> Path:
    """The file that writing to `target` replaces (links followed). Raises ParamError if no file can be there."""
    target = Path(os.path.realpath(target))
    if target.is_dir():
        raise ParamError(f"{target} is a folder; name the file to write")
    if not target.parent.is_dir():
        raise ParamError(f"cannot write {target}: the folder {target.parent} does not exist")
    return target


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
