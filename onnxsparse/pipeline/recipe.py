"""Recipes: a pipeline in a YAML file, validated whole before anything else is read.

input_shape: ["x:1,3,320,320"]     # optional, as --input-shape; dim likewise
passes:
  - fold
  - prune: {sparsity_op: 0.7, layer_sparsity: ["head.*=0.3"]}
  - annotate
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from onnxsparse.errors import ParamError
from onnxsparse.pipeline.base import Pass
from onnxsparse.pipeline.registry import did_you_mean, find_pass

KEYS = ("passes", "input_shape", "dim")
"""The keys of a recipe."""


@dataclass(frozen=True)
class Recipe:
    """Validated passes in order, and the input sizes to bind before they run, as --input-shape and --dim take them."""

    passes: tuple[Pass, ...]
    input_shape: tuple[str, ...] = ()
    dim: tuple[str, ...] = ()


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe. Raises ParamError that names the place in the file and what is expected there."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParamError(f"cannot read the recipe {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        return parse_recipe(read_yaml(text))
    except ParamError as error:
        raise ParamError(f"{path}: {error}") from None


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key occurs once per mapping, as its specification requires; PyYAML silently uses the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The mapping that starts here. Raises ParamError for a key that occurs twice."""
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in seen:
                raise ParamError(f"line {line}: '{key.value}' is in line {seen[name]} already; a mapping has each key once")
            seen[name] = line
        return node


def read_yaml(text: str) -> object:
    """The content of a YAML text. Raises ParamError for text that is not YAML, or a key that occurs twice in a mapping."""
    try:
        return yaml.load(text, UniqueKeys)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        at = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ParamError(f"{at}it is not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: an impossible date such as 2024-02-31; RecursionError: very deep nesting
        raise ParamError(f"it is not YAML: {error}") from None


def parse_recipe(content: object) -> Recipe:
    """A recipe from the content of its YAML. Raises ParamError for unknown keys, passes or options, and for wrong types."""
    wanted = "a recipe is a mapping with a list 'passes'"
    if not isinstance(content, Mapping):
        raise ParamError(wanted)
    for key in content:
        if key not in KEYS:
            raise ParamError(f"'{key}' is unknown; a recipe has {', '.join(KEYS)}{did_you_mean(key, KEYS)}")
    if not isinstance(content.get("passes"), list):
        raise ParamError(wanted)
    steps = tuple(parse_step(i, step) for i, step in enumerate(content["passes"]))
    return Recipe(steps, texts(content, "input_shape"), texts(content, "dim"))


def texts(content: Mapping[str, object], key: str) -> tuple[str, ...]:
    """The strings under `key`; none if it is missing or empty. Raises ParamError for anything but a string or a list of them."""
    value = content.get(key) or []
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(v, str) for v in found):
        raise ParamError(f"{key} is a list of texts, as on the command line")
    return tuple(found)


def first_fault(error: ValidationError, kind: type[Pass]) -> str:
    """The first error as `.option: what is wrong`, to be appended to the place of a pass of class `kind`."""
    found = error.errors()[0]
    where = "".join(f".{part}" for part in found["loc"])
    if found["type"] == "unexpected_keyword_argument":
        options = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # every pass is a dataclass
        return f"{where}: the pass has no such option{did_you_mean(found['loc'][0], options) or f'; it has {names(options)}'}"
    if found["type"] == "missing":
        return f"{where}: this option has to be given"
    return f"{where}: {found['msg']} (got {found['input']!r})"


def names(options: Sequence[str]) -> str:
    """Option names separated by commas; `none` for no options."""
    return ", ".join(options) or "none"


def parse_step(index: int, step: object) -> Pass:
    """The pass of entry `index` of `passes`: a name, or a mapping of one name to its options.

    Raises ParamError for an unknown pass, an unknown or missing option, or a value that the option does not accept.
    """
    if isinstance(step, str):
        name, options = step, dict[str, object]()
    elif isinstance(step, Mapping) and len(step) == 1:
        name, options = next(iter(step.items()))
        options = {} if options is None else options
    else:
        raise ParamError(f"passes[{index}] is a pass's name, or one name with a mapping of options")
    place = f"passes[{index}].{name}"
    if not isinstance(options, Mapping):
        raise ParamError(f"{place}: the options are a mapping")
    try:
        made: Pass = TypeAdapter(find_pass(str(name))).validate_python(dict(options))
    except ValidationError as error:
        raise ParamError(f"{place}{first_fault(error, find_pass(str(name)))}") from None
    except ParamError as error:
        raise ParamError(f"passes[{index}]: {error}") from None
    return made
