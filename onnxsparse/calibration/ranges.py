"""Ranges of activations in a JSON file, to be reused and edited by hand."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from onnxsparse.calibration.methods import DIGITS, Range
from onnxsparse.errors import ModelError

SCHEMA = 1
"""Version of the file's format."""


def ranges_json(ranges: Mapping[str, Range], method: str, samples: int) -> str:
    """The content of a file of ranges, with one line for each activation, so that people find it."""
    head = f'{{\n "schema": {SCHEMA},\n "method": {json.dumps(method)},\n "samples": {samples},\n "ranges": {{\n'
    lines = (f"  {json.dumps(name)}: [{found.low:.{DIGITS}g}, {found.high:.{DIGITS}g}]" for name, found in ranges.items())
    return head + ",\n".join(lines) + "\n }\n}\n"


def read_ranges(path: Path) -> dict[str, Range]:
    """Activation → range from a file. Raises ModelError for a file that cannot be read or does not hold ranges."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"--ranges {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ModelError(f"--ranges {path}: it is not JSON ({error})") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not isinstance(content.get("ranges"), dict):
        raise ModelError(f"--ranges {path}: it is not a file of ranges of schema {SCHEMA}, as --save-ranges writes")
    return {name: read_range(path, name, given) for name, given in content["ranges"].items()}


def read_range(path: Path, name: str, given: object) -> Range:
    """The range of activation `name` in a file. Raises ModelError unless `given` is [low, high] with finite numbers in order."""
    numbers = given if isinstance(given, list) else []
    if len(numbers) != 2 or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers) or numbers[0] > numbers[1]:
        raise ModelError(f"--ranges {path}: '{name}' is {given}, not [low, high]")
    return Range(float(numbers[0]), float(numbers[1]))
