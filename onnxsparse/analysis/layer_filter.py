"""Naming layers on the command line: glob, `re:…`, `op:Conv`, module prefix, `@file`."""

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from onnxsparse.errors import ParamError
from onnxsparse.ir.option_roles import Role


class Nameable(Protocol):
    """What a pattern may match: a node, its op type, and the names of its weight tensors."""

    @property
    def node(self) -> str: ...
    @property
    def op_type(self) -> str: ...
    @property
    def tensors(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class NamedNode:
    """A node that has no weights of its own."""

    node: str
    op_type: str
    tensors: tuple[str, ...] = ()


Match = Callable[[Nameable], bool]


def choose(layers: Sequence[Nameable], patterns: Sequence[str], option: str, model: str) -> set[str]:
    """The nodes of the layers that any pattern matches. Raises ParamError for a pattern that matches none."""
    chosen: set[str] = set()
    for pattern in expand(patterns, option):
        matches = compile_pattern(pattern, option)
        found = {layer.node for layer in layers if matches(layer)}
        if not found:
            example = f" (names look like '{layers[0].node}')" if layers else ""
            raise ParamError(f"{option} '{pattern}' matches no layer of {model}{example}; see 'onnxsparse inspect {model}'")
        chosen |= found
    return chosen


def expand(patterns: Sequence[str], option: str) -> list[str]:
    """`@file` replaced by the file's lines; blank lines and those that start with # are left out."""
    found: list[str] = []
    for pattern in patterns:
        if not pattern.startswith("@"):
            found.append(pattern)
            continue
        try:
            lines = Path(pattern[1:]).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ParamError(f"{option} {pattern}: cannot read the file: {reason}") from None
        found += [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return found


def check_pattern(pattern: str, option: str) -> None:
    """Raises ParamError for a file that cannot be read, or an expression that is none."""
    for line in expand([pattern], option):
        compile_pattern(line, option)


def pattern_files(pattern: str) -> tuple[Path, ...]:
    return (Path(pattern[1:]),) if pattern.startswith("@") else ()


LayerPattern = Annotated[str, Role(check_pattern, reads=pattern_files)]
"""Names layers."""


def compile_pattern(pattern: str, option: str) -> Match:
    """A test for one pattern, over the layer's node name and the names of its weight tensors."""
    if pattern.startswith("op:"):
        return lambda layer: layer.op_type == pattern[3:]
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern[3:])
        except re.error as error:
            raise ParamError(f"{option} '{pattern}' is no regular expression: {error}") from None
        return lambda layer: any(expression.search(name) for name in names(layer))
    if any(c in pattern for c in "*?["):
        return lambda layer: any(fnmatch.fnmatchcase(name, pattern) for name in names(layer))
    # a module prefix ends where a name part ends; exporters write '/model/conv1' for the module 'model.conv1'
    module = re.compile(re.escape(dotted(pattern)) + r"(\.|$)")
    return lambda layer: pattern in names(layer) or any(module.match(dotted(name)) for name in names(layer))


def names(layer: Nameable) -> list[str]:
    return [layer.node, *layer.tensors]


def dotted(name: str) -> str:
    return name.strip("/").replace("/", ".")
