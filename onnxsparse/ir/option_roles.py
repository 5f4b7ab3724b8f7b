"""Options that are checked before anything runs, from their types alone.

The type of an option says what its value stands for: `Annotated[Path, Role(...)]`. From this, every command knows before a
model is loaded which files it will read and write, and whether it can.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from onnxsparse.errors import ModelError, ParamError
from onnxsparse.ir.files import STDOUT, check_folder, check_target, identity

Paths = Callable[[Any], Iterable[Path]]
"""Returns the files that an option's value names."""


def no_paths(_value: object) -> tuple[Path, ...]:
    """No files, whatever the value."""
    return ()


def one_path(value: Path) -> tuple[Path, ...]:
    """The file that the value is."""
    return (value,)


@dataclass(frozen=True)
class Role:
    """What the value of an option stands for.

    `check(value, option)`: raises ModelError or ParamError if the value cannot work; `option` is its name in messages.
    `reads`, `writes`: the files that the value names. `fills`: whether it is a folder for files whose names are unknown so far.
    """

    check: Callable[[Any, str], object]
    reads: Paths = no_paths
    writes: Paths = no_paths
    fills: bool = False


@dataclass(frozen=True)
class Given:
    """An option that has a role, with its value. `option`: its name in messages."""

    option: str
    value: object
    role: Role

    def check(self) -> None:
        """Raises ModelError or ParamError if the value cannot work."""
        self.role.check(self.value, self.option)

    @property
    def reads(self) -> tuple[Path, ...]:
        """The files that will be read."""
        return tuple(self.role.reads(self.value))

    @property
    def writes(self) -> tuple[Path, ...]:
        """The files that will be written."""
        return tuple(self.role.writes(self.value))


def check_input(path: Path, option: str) -> None:
    """Raises ModelError for a file or folder that does not exist or may not be read."""
    try:
        os.stat(path)  # noqa: PTH116 - unlike exists(), it raises for circular links and invalid names, as reading does
    except (OSError, ValueError) as error:
        raise ModelError(f"{option} {path}: {getattr(error, 'strerror', None) or error}") from None
    if not os.access(path, os.R_OK):
        raise ModelError(f"{option} {path}: Permission denied")


def check_output(path: Path, _option: str) -> None:
    """Raises ParamError or ModelError for a file that cannot be written. Standard output is always allowed."""
    if path != STDOUT:
        check_target(path)


def check_output_folder(path: Path, option: str) -> None:
    """Raises ParamError if `path` is not a folder, ModelError if it may not be written to."""
    if not path.is_dir():
        raise ParamError(f"{option} {path} is not a folder; create it first")
    check_folder(path, f"{option} {path}")


def reading(check: Callable[[Any], object]) -> Role:
    """The role of a file to read that `check` accepts. `check` raises ModelError or ParamError for any other."""
    return Role(lambda path, _option: check(path), reads=one_path)


def split_key(source: Path) -> tuple[Path, str | None]:
    """The file and the array's name of `F.npz:key`; the name is None for any other path."""
    # the first colon after .npz: names of tensors have colons too, as in d.npz:input:0
    found = re.fullmatch(r"(.*?\.npz):(.+)", str(source), re.IGNORECASE | re.DOTALL)
    if found is None or source.exists():
        return source, None
    return Path(found[1]), found[2]


def sample_files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files with these suffixes in the folder `path`, sorted; `path` itself if it is a file."""
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in suffixes)


OutputFile = Annotated[Path, Role(check_output, writes=one_path)]
"""A file to write; `-` is standard output."""

OutputFolder = Annotated[Path, Role(check_output_folder, fills=True)]
"""A folder to write files into."""


def given_options(options: object, command: str = "") -> list[Given]:
    """The options of a dataclass that have a role and a value; the elements of a tuple count one by one.

    `command`: prefix of option names in messages. Empty for anything but an instance of a dataclass.
    """
    if not is_dataclass(options) or isinstance(options, type):
        return []
    prefix = f"{command}: " if command else ""
    return [
        Given(f"{prefix}--{name.replace('_', '-')}", value, role)
        for name, role in roles(type(options))
        for value in each(getattr(options, name))
    ]


def each(value: object) -> tuple[object, ...]:
    """The elements of a tuple, or the value alone; empty for None."""
    if isinstance(value, tuple):
        return value
    return () if value is None else (value,)


def unnamed_paths(options: object) -> list[Path]:
    """The paths among a dataclass's options that have no role: whether they are read or written is unknown."""
    if not is_dataclass(options) or isinstance(options, type):
        return []
    known = {name for name, _ in roles(type(options))}
    values = [getattr(options, field.name) for field in fields(options) if field.name not in known]
    return [value for value in values if isinstance(value, Path)]


@cache
def roles(kind: type) -> tuple[tuple[str, Role], ...]:
    """(field, role) of every field of a dataclass that has a role."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple((field.name, role) for field in fields(kind) for role in roles_in(hints[field.name]))


def roles_in(hint: object) -> Iterator[Role]:
    """The roles anywhere in a type: `Annotated[…] | None`, `tuple[Annotated[…], …]`."""
    for part in get_args(hint):
        if isinstance(part, Role):
            yield part
        else:
            yield from roles_in(part)


def check_clashes(reads: Iterable[Path], writes: Iterable[Path]) -> None:
    """Raises ParamError for a file that is written twice, or both read and written. Links and spellings of one file count as one.

    If a folder is read, every file in it is.
    """
    own = "what is written needs a file of its own"
    taken = {identity(path): f"{path} is named twice, to read and to write; {own}" for path in reads}
    for path in writes:
        clash = taken.get(identity(path))
        if clash is None and path.exists():
            clash = taken.get(identity(path.parent))
        if clash is not None:
            raise ParamError(clash)
        taken[identity(path)] = f"{'standard output' if path == STDOUT else path} is named twice; {own}"
