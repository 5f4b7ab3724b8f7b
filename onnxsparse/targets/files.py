"""Target files: found by name or path, parsed, and split into sections.

A file describes one device: `[cost]` says what work costs on it, `[quantization]` what it computes in integers. A section may be
missing. The rooms `cost` and `quantization` each validate their own section into typed objects.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from onnxsparse.errors import ParamError

Section = Literal["cost", "quantization"]

SECTIONS: tuple[Section, ...] = ("cost", "quantization")

SHARED_KEYS = ("format", "name")
"""Top-level keys of a file with sections; they hold for every section."""


@dataclass(frozen=True)
class TargetSection:
    """One section of a target file.

    `content`: its keys and the shared ones. `prefix`: the section's name and a dot, for messages; empty for a file without
    sections.
    """

    content: dict[str, object]
    prefix: str = ""

    def place(self, location: Sequence[int | str]) -> str:
        """The dotted path of a key in the file: `cost.numbers.overhead_us`."""
        prefix = "" if location and location[0] in SHARED_KEYS else self.prefix
        return prefix + ".".join(map(str, location))


def shipped_names() -> list[str]:
    """The targets that come with the package, whatever sections they have."""
    return sorted(p.name.removesuffix(".toml") for p in files("onnxsparse.targets").iterdir() if p.name.endswith(".toml"))


@cache
def names_with(section: Section) -> tuple[str, ...]:
    """The targets that come with the package and have a section."""
    return tuple(name for name in shipped_names() if section in split(parse(name, read(name)), name))


def read_section(target: str | Path, section: Section, *, needed_by: str, also: Sequence[str] = ()) -> TargetSection:
    """A section of a target, which is the name of a shipped one or the path of a TOML file.

    `needed_by`: the commands that need the section, and `also`: further names to offer, both for messages. Raises ParamError for
    a target that does not exist, is not TOML, or lacks the section.
    """
    known = (*names_with(section), *also)
    try:
        text = read(target)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ParamError(f"no target '{target}': it is none of {', '.join(known)}, nor a file ({reason})") from None
    found = split(parse(target, text), target)
    if section not in found:
        raise ParamError(f"target '{target}' has no [{section}] section, which {needed_by} need; {', '.join(known)} have one")
    return found[section]


def has_section(target: str | Path, section: Section) -> bool:
    """Whether a readable target has a section."""
    return section in split(parse(target, read(target)), target)


def other_sections(target: str | Path, section: Section) -> dict[str, object]:
    """The sections of a readable target besides `section`, by name, as they stand in its file."""
    content = parse(target, read(target))
    return {name: content[name] for name in SECTIONS if name != section and name in content}


def target_paths(target: str | Path, also: Sequence[str] = ()) -> tuple[Path, ...]:
    """The file that a target's path names; empty for the name of a shipped target or one of `also`."""
    return () if str(target) in (*shipped_names(), *also) else (Path(target),)


def read(target: str | Path) -> str:
    """The text of a target's file. Raises OSError, UnicodeDecodeError, or ValueError for a name that no file can have."""
    if str(target) in shipped_names():
        return files("onnxsparse.targets").joinpath(f"{target}.toml").read_text(encoding="utf-8")
    return Path(target).read_text(encoding="utf-8")


def parse(target: str | Path, text: str) -> dict[str, object]:
    """The content of a target's file. Raises ParamError for a text that is not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ParamError(f"{target} is not TOML: {error}") from None


def split(content: dict[str, object], target: str | Path) -> dict[Section, TargetSection]:
    """The sections of a file by name. Raises ParamError for a top-level key that a file with sections does not have.

    A file without section tables is one section itself: older versions had a file for each use.
    """
    if not any(isinstance(content.get(name), dict) for name in SECTIONS):
        integers = content.get("kind") == "quantization" or "integer_ops" in content
        return {"quantization" if integers else "cost": TargetSection(content)}
    shared = {key: content[key] for key in SHARED_KEYS if key in content}
    found: dict[Section, TargetSection] = {}
    for name in SECTIONS:
        table = content.get(name, {})
        if not isinstance(table, dict):
            raise ParamError(f"{target}: {name}: Input should be a table, [{name}]")
        if name in content:
            found[name] = TargetSection({**shared, **table}, f"{name}.")
    for key in content:
        if key not in (*SHARED_KEYS, *SECTIONS):
            raise ParamError(f"{target}: {key}: Unexpected keyword argument; a file has {', '.join((*SHARED_KEYS, *SECTIONS))}")
    return found
