"""The JSON schema of a recipe, for editors and for checks before a run."""

from dataclasses import MISSING, fields

from pydantic import TypeAdapter

from onnxsparse.pipeline.check import Save, Step
from onnxsparse.pipeline.recipe import DATA, SIZES, STEPS
from onnxsparse.pipeline.registry import find_pass, passes


def recipe_schema() -> dict[str, object]:
    """The JSON schema of a recipe, with every pass and its options."""
    kinds = {**{name: find_pass(name) for name in passes()}, **STEPS}
    definitions: dict[str, object] = {}
    entries: list[object] = [{"enum": [name for name, kind in kinds.items() if is_plain(kind)]}]
    for name, kind in kinds.items():
        options = TypeAdapter(kind).json_schema(ref_template=f"#/$defs/{name}/$defs/{{model}}")
        definitions[name] = options
        either: list[object] = [{"$ref": f"#/$defs/{name}"}, *([{"type": "string"}] if kind is Save else [])]
        either += [{"type": "null"}] if is_plain(kind) else []
        entries.append(
            {"type": "object", "properties": {name: {"anyOf": either}}, "required": [name], "additionalProperties": False}
        )
    several = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "onnxsparse recipe",
        "type": "object",
        "properties": {
            "passes": {"type": "array", "items": {"anyOf": entries}},
            **dict.fromkeys(SIZES, several),
            **{key: {"type": "string"} for key in DATA},
        },
        "required": ["passes"],
        "additionalProperties": False,
        "$defs": definitions,
    }


def is_plain(kind: type[Step]) -> bool:
    """Whether a step can be given by its name alone: no option is required."""
    return all(f.default is not MISSING or f.default_factory is not MISSING for f in fields(kind))  # type: ignore[arg-type]  # every step is a dataclass
