"""Sparsities that the caller sets for single layers, as PATTERN=VALUE."""

import re
from collections.abc import Iterable
from typing import Annotated

from onnxsparse.analysis.layer import Layers
from onnxsparse.analysis.layer_filter import check_pattern, choose, pattern_files
from onnxsparse.errors import ParamError
from onnxsparse.ir.option_roles import Role


def pattern_and_sparsity(text: str) -> tuple[str, float]:
    """Both parts of PATTERN=VALUE. Raises ParamError if VALUE is missing or not a number from 0 to 1."""
    name, _, value = text.rpartition("=")
    if not name or not re.fullmatch(r"0?\.\d+|0|1|1\.0+", value):
        raise ParamError(f"prune: --layer-sparsity {text}: write it as PATTERN=VALUE with a value from 0 to 1")
    return name, float(value)


LayerSparsity = Annotated[
    str,
    Role(
        lambda text, option: check_pattern(pattern_and_sparsity(text)[0], option),
        reads=lambda text: pattern_files(pattern_and_sparsity(text)[0]),
    ),
]
"""A pattern of layers and their sparsity, 0 to 1, as PATTERN=VALUE."""


def set_sparsities(texts: Iterable[str], facts: Layers, model: str) -> dict[str, float]:
    """Node → the sparsity that is set for it, 0 to 1; a later pattern overrules an earlier one.

    Raises ParamError for a pattern that matches no layer of the model called `model`.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, value = pattern_and_sparsity(text)
        found |= dict.fromkeys(choose(facts, [name], "prune: --layer-sparsity", model), value)
    return found
