"""Recipes: a pipeline in a YAML file, validated whole before anything else is read.

input_shape: ["x:1,3,320,320"]     # optional, as --input-shape; dim likewise
data: calib/                       # optional, as --data; test, preprocess and labels likewise
passes:
  - fold
  - prune: {sparsity_op: 0.7, layer_sparsity: ["head.*=0.3"]}
  - check: {min_sqnr: 20, metric: "eval.py:top1", max_drop: 0.5}
  - save: pruned.onnx
  - annotate
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from onnxsparse.errors import ParamError
from onnxsparse.pipeline.check import Check, Save, Step
from onnxsparse.pipeline.recipe_settings import Setting, with_settings
from onnxsparse.pipeline.registry import did_you_mean, find_pass

SIZES = ("input_shape", "dim")
"""Keys with sizes of inputs."""

DATA = ("data", "test", "preprocess", "labels")
"""Keys with files for the whole pipeline."""

KEYS = ("passes", *SIZES, *DATA)
"""The keys of a recipe."""

STEPS: dict[str, type[Step]] = {"check": Check, "save": Save}
"""Steps of a recipe that are no passes."""


@dataclass(frozen=True)
class Recipe:
    """Validated steps in order, the input sizes to bind before they run, and the data of the whole pipeline.

    Sizes and files are as the options of the same names take them.
    """

    passes: tuple[Step, ...]
    input_shape: tuple[str, ...] = ()
    dim: tuple[str, ...] = ()
    data: Path | None = None
    test: Path | None = None
    preprocess: Path | None = None
    labels: Path | None = None


def load_recipe(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe, with `settings` of --set in place of what the file says.

    Raises ParamError that names the place in the file and what is expected there.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParamError(f"cannot read the recipe {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        content = with_settings(read_yaml(text), [read_setting(setting) for setting in settings])
        return parse_recipe(content)
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
    files = {key: path_of(content, key) for key in DATA}
    return Recipe(steps, texts(content, "input_shape"), texts(content, "dim"), **files)


def path_of(content: Mapping[str, object], key: str) -> Path | None:
    """The path under `key`; None if it is missing. Raises ParamError for anything but a text."""
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise ParamError(f"{key} is a path, as on the command line")
    return None if value is None else Path(value)


def texts(content: Mapping[str, object], key: str) -> tuple[str, ...]:
    """The strings under `key`; none if it is missing or empty. Raises ParamError for anything but a string or a list of them."""
    value = content.get(key) or []
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(v, str) for v in found):
        raise ParamError(f"{key} is a list of texts, as on the command line")
    return tuple(found)


def first_fault(error: ValidationError, kind: type[Step]) -> str:
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


def parse_step(index: int, step: object) -> Step:
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
    if name == Save.name and isinstance(options, str):
        options = {"file": options}
    if not isinstance(options, Mapping):
        raise ParamError(f"{place}: the options are a mapping")
    try:
        made: Step = TypeAdapter(find_step(str(name))).validate_python(dict(options))
    except ValidationError as error:
        raise ParamError(f"{place}{first_fault(error, find_step(str(name)))}") from None
    except ParamError as error:
        raise ParamError(f"passes[{index}]: {error}") from None
    return made


def find_step(name: str) -> type[Step]:
    """The class of a step. Raises ParamError for an unknown name, as `find_pass` does."""
    return STEPS[name] if name in STEPS else find_pass(name, also=tuple(STEPS))


def read_setting(text: str) -> Setting:
    """A setting of --set, PASS.OPTION=VALUE or KEY=VALUE, the value in YAML. Raises ParamError for another form."""
    place, equals, value = text.partition("=")
    step, dot, option = place.strip().partition(".")
    if not equals or not step or (dot and not option):
        raise ParamError(f"--set {text}: write it as PASS.OPTION=VALUE, for example prune.sparsity_op=0.8")
    return Setting(text, step, option, read_yaml(value))
