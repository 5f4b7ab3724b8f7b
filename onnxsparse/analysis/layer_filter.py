"""Patterns that select layers: glob, `re:<expression>`, `op:<type>`, module prefix, `@<file of patterns>`."""

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from onnxsparse.errors import ParamError
from onnxsparse.ir.option_roles import Role


class Nameable(Protocol):
    """What a pattern can match: node name, op type, and names of weight tensors."""

    @property
    def node(self) -> str:
        """The node's name, as in `Graph.names`."""

    @property
    def op_type(self) -> str:
        """The op type, without its domain."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of its weight tensors."""


@dataclass(frozen=True)
class NamedNode:
    """A node to match that has no weights of its own."""

    node: str
    op_type: str
    tensors: tuple[str, ...] = ()


Match = Callable[[Nameable], bool]


def choose(layers: Sequence[Nameable], patterns: Sequence[str], option: str, model: str) -> set[str]:
    """The nodes of all layers that any of the patterns matches. `option`, `model`: their names in messages.

    Raises ParamError for a pattern that matches no layer, and as `expand` and `compile_pattern` do.
    """
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
    """The patterns with each `@file` replaced by the lines of the file. Blank lines and lines that start with # are left out.

    Raises ParamError for a file that cannot be read.
    """
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
    """Raises ParamError for a file that cannot be read, and for an invalid regular expression."""
    for line in expand([pattern], option):
        compile_pattern(line, option)


def pattern_files(pattern: str) -> tuple[Path, ...]:
    """The file that a pattern `@file` reads; empty for other patterns."""
    return (Path(pattern[1:]),) if pattern.startswith("@") else ()


LayerPattern = Annotated[str, Role(check_pattern, reads=pattern_files)]
"""A pattern that selects layers."""


def compile_pattern(pattern: str, option: str) -> Match:
    """The test for one pattern, over the node's name and the names of its weight tensors.

    `op:<type>`: equal op type. `re:<expression>`: found anywhere in a name. A pattern with `*`, `?` or `[`: a glob over a whole
    name, in which `*` matches `/` too. Anything else: a whole name or a module prefix.

    Raises ParamError for an invalid regular expression.
    """
    if pattern.startswith("op:"):
        return lambda layer: layer.op_type == pattern[3:]
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern[3:])
        except re.error as error:
            raise ParamError(f"{option} '{pattern}' is not a regular expression: {error}") from None
        return lambda layer: any(expression.search(name) for name in names(layer))
    if any(c in pattern for c in "*?["):
        return lambda layer: any(fnmatch.fnmatchcase(name, pattern) for name in names(layer))
    # a module prefix ends at the end of a name part; exporters write '/model/conv1' for the module 'model.conv1'
    module = re.compile(re.escape(dotted(pattern)) + r"(\.|$)")
    return lambda layer: pattern in names(layer) or any(module.match(dotted(name)) for name in names(layer))


def names(layer: Nameable) -> list[str]:
    """The names that a pattern is compared with."""
    return [layer.node, *layer.tensors]


def dotted(name: str) -> str:
    """A node name in the form of a module path: `/model/conv1` as `model.conv1`."""
    return name.strip("/").replace("/", ".")
