"""Settings of --set: values in place of those that a recipe has."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

from onnxsparse.errors import ParamError
from onnxsparse.pipeline.check import Save
from onnxsparse.pipeline.registry import did_you_mean


@dataclass(frozen=True)
class Setting:
    """A value for one place of a recipe.

    `text`: as it was given, for messages. `step`: a step's name, or a key of the recipe if there is no `option`.
    """

    text: str
    step: str
    option: str
    value: object


def with_settings(content: object, settings: Sequence[Setting]) -> object:
    """The content of a recipe with values replaced. `PASS[1]` is the second step of that name; a name alone is the only one.

    Content that is no recipe stays as it is. Raises ParamError for a setting that names no step, or several.
    """
    if not isinstance(content, dict) or not isinstance(content.get("passes"), list):
        return content  # what is wrong with it is said when it is parsed
    found = deepcopy(content)
    for setting in settings:
        if setting.option:
            set_option(found["passes"], setting)
        else:
            found[setting.step] = setting.value
    return found


def set_option(steps: list[object], setting: Setting) -> None:
    """Set an option of one of the `steps`. Raises ParamError if the setting names none of them, or several."""
    match = re.fullmatch(r"([\w-]+)(?:\[(\d+)\])?", setting.step)
    name, number = (match[1], match[2]) if match else (setting.step, None)
    names = [str(next(iter(entry), None)) if isinstance(entry, Mapping) else str(entry) for entry in steps]
    places = [at for at, found in enumerate(names) if found == name]
    if number is not None:
        places = places[int(number) : int(number) + 1]
    if not places:
        known = f"it has {', '.join(dict.fromkeys(names))}{did_you_mean(name, names)}"
        raise ParamError(f"--set {setting.text}: the recipe has no step '{setting.step}'; {known}")
    if len(places) > 1:
        raise ParamError(
            f"--set {setting.text}: the recipe has {len(places)} steps '{name}'; name one of them, as {name}[0].{setting.option}"
        )
    entry = steps[places[0]]
    options = entry[name] if isinstance(entry, Mapping) else None
    if name == Save.name and isinstance(options, str):
        options = {"file": options}
    steps[places[0]] = {name: {**(options if isinstance(options, Mapping) else {}), setting.option: setting.value}}
