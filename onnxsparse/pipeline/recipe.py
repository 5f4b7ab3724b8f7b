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


@dataclass(frozen=True)
class Recipe:
    """Passes ready to run, and the input sizes to run them for."""

    passes: tuple[Pass, ...]
    input_shape: tuple[str, ...] = ()
    dim: tuple[str, ...] = ()


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises ParamError that names the place in the file and what to put there."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParamError(f"cannot read the recipe {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        return parse_recipe(read_yaml(text))
    except ParamError as error:
        raise ParamError(f"{path}: {error}") from None


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a mapping names each key once, as its specification asks; PyYAML takes the last one without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
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
    """What a YAML text holds. Raises ParamError for a text that is none, or a key that is there twice."""
    try:
        return yaml.load(text, UniqueKeys)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        at = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ParamError(f"{at}it is not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: a date that there is not; RecursionError: a thousand brackets
        raise ParamError(f"it is not YAML: {error}") from None


def parse_recipe(content: object) -> Recipe:
    """A recipe from what its YAML holds."""
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
    value = content.get(key) or []
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(v, str) for v in found):
        raise ParamError(f"{key} is a list of texts, as on the command line")
    return tuple(found)


def first_fault(error: ValidationError, kind: type[Pass]) -> str:
    """`.option: what is wrong with it`, behind the place of a pass."""
    found = error.errors()[0]
    where = "".join(f".{part}" for part in found["loc"])
    if found["type"] == "unexpected_keyword_argument":
        options = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # every pass is a dataclass
        return f"{where}: the pass has no such option{did_you_mean(found['loc'][0], options) or f'; it has {names(options)}'}"
    if found["type"] == "missing":
        return f"{where}: this option has to be given"
    return f"{where}: {found['msg']} (got {found['input']!r})"


def names(options: Sequence[str]) -> str:
    return ", ".join(options) or "none"


def parse_step(index: int, step: object) -> Pass:
    """One entry of `passes`: a name, or a name with its options."""
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
