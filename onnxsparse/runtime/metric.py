"""Metrics: how good a model is by the user's own measure, on test data. Higher is better (docs/metrics.md)."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxsparse.errors import ParamError
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import Role
from onnxsparse.ir.weights import Array
from onnxsparse.runtime.classes import FEWEST_CLASSES, Choices, batch_size
from onnxsparse.runtime.functions import UserFunction, load_function
from onnxsparse.runtime.labels import check_labels, read_labels
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import Feeds, as_array, runner

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

TOP1 = "top1"
"""The metric that needs no function."""

PARAMETERS = ("a session of onnxruntime", "the test data")
"""What a metric's function is called with."""


@dataclass(frozen=True)
class MetricResult:
    """A metric of a model before and after it was changed. `unit`: "points" for top1, otherwise empty."""

    name: str
    unit: str
    before: float
    after: float

    @property
    def drop(self) -> float:
        """How much worse the model became; negative if it became better."""
        return self.before - self.after

    def to_json(self) -> dict[str, object]:
        """The result as docs/json.md describes it."""
        return {"name": self.name, "unit": self.unit, "before": self.before, "after": self.after, "drop": self.drop}


@dataclass(frozen=True)
class TestData:
    """The data that a metric is measured on. Iteration gives feeds, input name → array, which are read one by one."""

    __test__: ClassVar[bool] = False  # pytest takes its name for that of a test

    samples: Samples
    labels_file: Path | None = None
    """The file of --labels; None without it. `F.npz:key` gives F.npz:key."""

    def __iter__(self) -> Iterator[Feeds]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def names(self) -> tuple[str, ...]:
        """For each sample, the name of its file; with an index in files of several samples."""
        return self.samples.names

    @cached_property
    def labels(self) -> Array | None:
        """One entry for each sample, or for each row of samples with several; None without --labels.

        Raises ParamError if the file holds no labels, or not for these samples.
        """
        return None if self.labels_file is None else read_labels(self.labels_file).of(self.samples)


@dataclass(frozen=True)
class Metric:
    """A measure of a model. `name`: as the user gave it. `unit`: "points" for top1, otherwise empty."""

    name: str
    unit: str
    function: Callable[..., object] = field(compare=False)
    """Called with an onnxruntime session and TestData."""
    labels: Path | None = None

    def measure(self, model: Model, samples: Samples, custom_ops: Sequence[Path] = ()) -> float:
        """The metric of a model on samples; integers are computed as the file says.

        Raises ParamError if the function raises, or returns anything but a finite number; BackendError if onnxruntime does not
        load the model; ModelError for a sample that cannot be read.
        """
        session = runner(model, custom_ops=custom_ops).session
        return number(self.function(session, TestData(samples, self.labels)), f"--metric {self.name}")


def number(value: Any, where: str) -> float:
    """A metric's value as a float. Raises ParamError for anything but one finite real number."""
    asked = "return one number, higher is better"
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.size != 1:
            raise ParamError(f"{where}: the function returned an array of {array.size} elements; {asked}")
        value = array.reshape(-1)[0].item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        what = "None" if value is None else f"a value of type {type(value).__name__}"
        raise ParamError(f"{where}: the function returned {what}; {asked}")
    try:
        found = float(value)
    except OverflowError:  # a very large int
        found = math.inf
    if not math.isfinite(found):
        raise ParamError(f"{where}: the function returned {found}, which cannot be compared; return a finite number")
    return found


def load_metric(text: str, labels: Path | None) -> Metric:
    """The metric `top1`, `module:function` or `file.py:function`, with labels in a file.

    Raises ParamError for a metric or labels that cannot be loaded, and for `top1` without labels.
    """
    if text != TOP1:
        if labels is not None:
            check_labels(labels, "--labels")
        return Metric(text, "", user_metric(text, f"--metric {text}"), labels)
    if labels is None:
        raise ParamError("--metric top1: it compares classes with labels; give --labels")
    place = read_labels(labels).by_place
    if place is not None and (place.ndim != 1 or place.dtype.kind not in "iu"):
        shape = "×".join(map(str, place.shape))
        raise ParamError(f"--labels {labels}: top1 takes one integer for each sample; the array is {place.dtype} {shape}")
    return Metric(text, "points", top1, labels)


def user_metric(text: str, where: str) -> UserFunction:
    """The user's function. Raises ParamError, with `where` as its head, as `load_function` does."""
    if ":" not in text:
        guess = "; did you mean top1?" if get_close_matches(text.lower(), [TOP1], n=1) else ""
        raise ParamError(f"{where}: no such metric; give top1, module:function or file.py:function{guess}")
    return load_function(text, where, PARAMETERS)


def check_metric(text: str, option: str) -> None:
    """Raises ParamError if the metric's function cannot be loaded. Whether top1 has labels, `load_metric` knows."""
    if text != TOP1:
        user_metric(text, f"{option} {text}")


def metric_files(text: str) -> tuple[Path, ...]:
    """The file of a metric; none for a module or top1."""
    file = text.rpartition(":")[0]
    return (Path(file),) if file.lower().endswith(".py") else ()


MetricName = Annotated[str, Role(check_metric, reads=metric_files)]
"""A metric: `top1`, `module:function` or `file.py:function`."""


def top1(session: "InferenceSession", data: TestData) -> float:
    """Share of the samples whose largest element of the classifier's output is at the label, in points, 0 to 100.

    Raises ParamError if the model has no output of a classifier, or several; for labels of another number than the samples, or
    that are no classes; and if there are no samples.
    """
    where = f"--labels {data.labels_file}"
    labels = np.asarray(data.labels)  # integers, `load_metric` has seen to it
    names = [output.name for output in session.get_outputs()]
    output, chosen = "", []
    for feeds in data:
        values = dict(zip(names, map(as_array, session.run(names, feeds)), strict=True))
        if not output:
            output = classifier(values, batch_size(feeds))
            check_classes(labels, values[output].shape[1], where, output)
        chosen.append(choices(values[output]))
        if len(chosen[-1]) != batch_size(feeds):
            raise ParamError(f"--metric top1: output '{output}' has {len(chosen[-1])} rows for {batch_size(feeds)} of the inputs")
    rows = sum(map(len, chosen))
    if not rows:
        raise ParamError("--metric top1: there are no samples")
    if rows != len(labels):
        raise ParamError(f"{where}: {len(labels)} labels for {rows} rows of {len(data)} samples")
    return 100 * float((np.concatenate(chosen) == labels).mean())


def choices(value: Array) -> Array:
    """For each row of a classifier's output the index of its largest element; -1 for a row with NaN, which has none."""
    rows = value.reshape(len(value), -1)
    return np.where(np.isnan(rows).any(1), -1, rows.argmax(1))


def check_classes(labels: NDArray[np.integer[Any]], classes: int, where: str, output: str) -> None:
    """Raises ParamError for a label that is no class of the output."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise ParamError(f"{where}: label {wrong[0]} is no class of output '{output}', which has 0 to {classes - 1}")


def classifier(values: dict[str, Array], batch: int | None) -> str:
    """The name of the one output that is a classifier's. Raises ParamError for none or several."""
    seen = {name: Choices() for name in values}
    for name, value in values.items():
        seen[name].add(value, value, batch)
    others = {name: [one.shape for other, one in seen.items() if other != name] for name in seen}
    found = [name for name, one in seen.items() if one.share(others[name]) is not None]
    if len(found) == 1:
        return found[0]
    if found:
        raise ParamError(f"--metric top1: {' and '.join(found)} may be a classifier's outputs; write a metric that names one")
    known = ", ".join(f"{name} ({'×'.join(map(str, value.shape)) or 'no axes'})" for name, value in values.items())
    asked = f"a row of {FEWEST_CLASSES} floats or more for each row of the inputs"
    raise ParamError(f"--metric top1: no output is a classifier's, {asked}; the outputs are {known}; write a metric of your own")
