"""The file of a database of sensitivities (JSON): written by `sensitivity`, read by `prune --database` (docs/json.md)."""

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from onnxsparse.errors import ModelError
from onnxsparse.recovery.database import DENSITIES, Database

SCHEMA = 1
"""Version of the file's format."""


def database_json(found: Database) -> str:
    """The content of the file."""
    return f"{json.dumps({'schema': SCHEMA, **TypeAdapter(Database).dump_python(found, mode='json')}, indent=1)}\n"


def read_database(path: Path) -> Database:
    """The database in a file. Raises ModelError for a file that cannot be read or holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"--database {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ModelError(f"--database {path}: it is not JSON ({error})") from None
    if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
        raise ModelError(f"--database {path}: it is no database of schema {SCHEMA}, as 'onnxsparse sensitivity' writes")
    try:
        found = TypeAdapter(Database).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ModelError(f"--database {path}: {place}: {first['msg']}") from None
    if found.densities != DENSITIES:
        raise ModelError(f"--database {path}: it holds other densities than this version measures; make it again")
    return found
