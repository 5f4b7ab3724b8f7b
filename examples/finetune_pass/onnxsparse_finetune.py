"""The pass `finetune`: training by a function of your own, as a step of a recipe (docs/finetune.md)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from onnxsparse import Model, ParamError, layers
from onnxsparse.ir.option_roles import Role
from onnxsparse.pipeline.base import OPTIONS, StepReport
from onnxsparse.records import Change
from onnxsparse.runtime.functions import UserFunction, load_function
from onnxsparse.runtime.session import runner

Arrays = dict[str, NDArray[Any]]

PARAMETERS = ("a session of onnxruntime", "the weights", "the masks")
"""What the function is called with."""


def user_function(text: str, option: str) -> UserFunction:
    """The user's function. Raises ParamError if it cannot be loaded."""
    return load_function(text, f"{option} {text}", PARAMETERS)


def files(text: str) -> tuple[Path, ...]:
    """The file of the function; none for a module."""
    file = text.rpartition(":")[0]
    return (Path(file),) if file.endswith(".py") else ()


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Finetune:
    """Train the model with a function of your own; zeros stay."""

    name: ClassVar[str] = "finetune"
    changes_outputs: ClassVar[bool] = True

    function: Annotated[str, Role(user_function, reads=files)]
    """Function of a session, weights and masks that returns trained weights: module:function or file.py:function."""

    def run(self, model: Model) -> StepReport:
        """Call the function and take over what it returns. Raises ParamError for arrays that do not fit."""
        where = "finetune: --function"
        facts = layers(model)
        weights = dict(floats(model))
        uses = {use.tensor: (use, layer.node) for layer in facts for use in layer.weights if use.tensor in weights}
        masks: Arrays = {name: weights[name] != 0 for name in uses}
        given = {name: array.copy() for name, array in weights.items()}  # a function may train in place
        trained = user_function(self.function, where)(runner(model).session, given, dict(masks))
        changes = []
        for name, array in fitting(trained, weights, f"{where} {self.function}").items():
            new = np.where(masks.get(name, True), array, 0).astype(model.weights[name].dtype)
            if np.array_equal(new, model.weights[name]):
                continue
            model.weights[name] = new
            if name in uses:
                use, node = uses[name]
                changes.append(Change(name, (node,), use.elements, use.zeros or 0, int((new == 0).sum())))
        notes = [] if changes else ["nothing changed: the function returned the weights that it was given"]
        return StepReport(self.name, changes=changes, notes=notes, before=facts.totals, after=layers(model).totals)


def floats(model: Model) -> Iterator[tuple[str, NDArray[Any]]]:
    """Name and values of every constant tensor of floats; bfloat16 and float8 as float32."""
    for name in model.weights:
        array = model.weights[name]
        if array.dtype.kind in "fV":  # numpy's kind of bfloat16 and float8 is V
            yield name, array.astype(np.float32) if array.dtype.kind == "V" else array


def fitting(trained: object, weights: Mapping[str, NDArray[Any]], where: str) -> Arrays:
    """The returned arrays. Raises ParamError for anything but finite arrays of known names and shapes."""
    if not isinstance(trained, Mapping):
        raise ParamError(f"{where}: the function returned a value of type {type(trained).__name__}; return name → array")
    found = {name: np.asarray(array) for name, array in trained.items()}
    for name, array in found.items():
        if name not in weights:
            raise ParamError(f"{where}: the function returned '{name}', which is no tensor of floats in the model")
        if array.shape != weights[name].shape:
            raise ParamError(f"{where}: '{name}' is {list(array.shape)}, and in the model {list(weights[name].shape)}")
        if array.dtype.kind not in "fV" or not np.isfinite(array.astype(np.float64)).all():
            raise ParamError(f"{where}: '{name}' has values that are no finite floats; did the training diverge?")
    return found
