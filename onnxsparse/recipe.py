"""Recipes: a pipeline in a YAML file, validated whole before anything else is read.

input_shape: ["x:1,3,320,320"]     # optional, as --input-shape; dim likewise
passes:
  - fold
  - prune: {sparsity_op: 0.7, layer_sparsity: ["head.*=0.3"]}
  - annotate
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from onnxsparse.errors import ParamError
from onnxsparse.passbase import Pass
from onnxsparse.registry import find_pass

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
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ParamError(f"cannot read the recipe {path}: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise ParamError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    try:
        return parse_recipe(content)
    except ParamError as error:
        raise ParamError(f"{path}: {error}") from None


def parse_recipe(content: object) -> Recipe:
    """A recipe from what its YAML holds."""
    if not isinstance(content, Mapping) or not isinstance(content.get("passes"), list):
        raise ParamError("a recipe is a mapping with a list 'passes'")
    for key in content:
        if key not in KEYS:
            raise ParamError(f"'{key}' is unknown; a recipe has {', '.join(KEYS)}")
    steps = tuple(parse_step(i, step) for i, step in enumerate(content["passes"]))
    return Recipe(steps, texts(content, "input_shape"), texts(content, "dim"))


def texts(content: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = content.get(key) or []
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(v, str) for v in found):
        raise ParamError(f"{key} is a list of texts, as on the command line")
    return tuple(found)


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
        found = error.errors()[0]
        where = ".".join([place, *map(str, found["loc"])])
        raise ParamError(f"{where}: {found['msg']} (got {found['input']!r})") from None
    except ParamError as error:
        raise ParamError(f"passes[{index}]: {error}") from None
    return made
