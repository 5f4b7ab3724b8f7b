"""Options checked before anything runs, by what their types say of them.

An option's type says what it stands for in the world: `Annotated[Path, Role(...)]`. From this, every command knows which files
it will read and write, and whether it can, before a model is loaded.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from onnxsparse.errors import ModelError, ParamError
from onnxsparse.ir.files import STDOUT, check_folder, check_target, identity

Paths = Callable[[Any], Iterable[Path]]
"""The files that an option's value names."""


def no_paths(_value: object) -> tuple[Path, ...]:
    return ()


def one_path(value: Path) -> tuple[Path, ...]:
    return (value,)


@dataclass(frozen=True)
class Role:
    """What an option's value is for. `check(value, option)` raises where no work can come of it; `option`: what messages call it.

    `fills`: whether files are written into the folder that it names, under names that are not known before.
    """

    check: Callable[[Any, str], object]
    reads: Paths = no_paths
    writes: Paths = no_paths
    fills: bool = False


@dataclass(frozen=True)
class Given:
    """An option that has a role, with its value."""

    option: str
    value: object
    role: Role

    def check(self) -> None:
        self.role.check(self.value, self.option)

    @property
    def reads(self) -> tuple[Path, ...]:
        return tuple(self.role.reads(self.value))

    @property
    def writes(self) -> tuple[Path, ...]:
        return tuple(self.role.writes(self.value))


def check_input(path: Path, option: str) -> None:
    """Raises ModelError for a file or folder that is not there or must not be read."""
    try:
        os.stat(path)  # noqa: PTH116 - raises for links in a circle and names that no file can have, as reading does
    except (OSError, ValueError) as error:
        raise ModelError(f"{option} {path}: {getattr(error, 'strerror', None) or error}") from None
    if not os.access(path, os.R_OK):
        raise ModelError(f"{option} {path}: Permission denied")


def check_output(path: Path, _option: str) -> None:
    """Raises ParamError or ModelError for a file that cannot be written; standard output always can."""
    if path != STDOUT:
        check_target(path)


def check_output_folder(path: Path, option: str) -> None:
    """Raises ParamError for no folder, ModelError for one that must not be written to."""
    if not path.is_dir():
        raise ParamError(f"{option} {path} is not a folder; make it first")
    check_folder(path, f"{option} {path}")


def reading(check: Callable[[Any], object]) -> Role:
    """The role of a file that `check` can read."""
    return Role(lambda path, _option: check(path), reads=one_path)


def sample_files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """A file of samples, or those in a folder."""
    return sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes) if path.is_dir() else [path]


def samples_with(*suffixes: str) -> Role:
    """The role of a file, or a folder of files with these suffixes, to read."""
    return Role(check_input, reads=lambda path: sample_files(path, suffixes))


OutputFile = Annotated[Path, Role(check_output, writes=one_path)]
"""A file to write; `-` is standard output."""

OutputFolder = Annotated[Path, Role(check_output_folder, fills=True)]
"""A folder to write files into."""


def given_options(options: object, command: str = "") -> list[Given]:
    """The options of a dataclass that have a role and a value, a tuple's elements one by one. `command`: for messages."""
    if not is_dataclass(options) or isinstance(options, type):
        return []
    prefix = f"{command}: " if command else ""
    return [
        Given(f"{prefix}--{name.replace('_', '-')}", value, role)
        for name, role in roles(type(options))
        for value in each(getattr(options, name))
    ]


def each(value: object) -> tuple[object, ...]:
    """The elements of a tuple; None is no value."""
    if isinstance(value, tuple):
        return value
    return () if value is None else (value,)


def unnamed_paths(options: object) -> list[Path]:
    """The paths of a dataclass that has not said whether it reads or writes them."""
    if not is_dataclass(options) or isinstance(options, type):
        return []
    known = {name for name, _ in roles(type(options))}
    values = [getattr(options, field.name) for field in fields(options) if field.name not in known]
    return [value for value in values if isinstance(value, Path)]


@cache
def roles(kind: type) -> tuple[tuple[str, Role], ...]:
    """(field, role) of every field of a dataclass that has one."""
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
    """Raises ParamError for a file that two things are written to, or that is read as well, under whatever name.

    Of a folder that is read, every file is.
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
