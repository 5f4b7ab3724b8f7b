"""Passes that learn from data, and what a pipeline is judged on."""

from collections.abc import Iterable, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from onnxsparse.calibration.data import DataFiles, check_first, for_source, open_data
from onnxsparse.calibration.preprocessing import PreprocessFile, Preprocessing, read_preprocessing
from onnxsparse.ir.model import Model
from onnxsparse.ir.option_roles import Role, one_path
from onnxsparse.pipeline.base import OPTIONS, described
from onnxsparse.pipeline.check import Step
from onnxsparse.pipeline.limits import Limits
from onnxsparse.runtime.judge import Judge
from onnxsparse.runtime.labels import LabelsFile
from onnxsparse.runtime.metric import Metric, MetricName, load_metric
from onnxsparse.runtime.samples import Samples, hold_out
from onnxsparse.runtime.session import Feeds, check_library

DATA_FORMS = "npz (F.npz:key for one array), npy, an image, or a folder of arrays or of images"
"""The forms of data, for help."""

SAMPLES_HELP = "Number of samples of --data to learn from, evenly spread (default: all that are not judged on)."

TEST_HELP = "Data to judge on, in the same forms (default: a tenth of --data, which is then not learned from)."

PREPROCESS_HELP = "File that says how images become inputs (TOML); 'onnxsparse data check' writes one from options."


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Learns:
    """Options of a pass that learns from data. The pass's class inherits them."""

    # the help is metadata, because pydantic finds docstrings of fields in the class itself alone
    data: DataFiles | None = field(default=None, metadata=described(f"Data to learn from: {DATA_FORMS}."))
    test: DataFiles | None = field(default=None, metadata=described(TEST_HELP))
    preprocess: PreprocessFile | None = field(default=None, metadata=described(PREPROCESS_HELP))
    samples: Annotated[int | None, Field(ge=1)] = field(default=None, metadata=described(SAMPLES_HELP))

    def preprocessing(self) -> Preprocessing:
        """How images become inputs. Raises ParamError for an invalid file."""
        return Preprocessing() if self.preprocess is None else read_preprocessing(self.preprocess)

    def check_model(self, model: Model) -> None:
        """Raises ModelError if there are no samples, or the first does not fit the model's inputs."""
        for samples in self.split(model):
            if samples is not None:
                check_first(samples)

    def split(self, model: Model) -> tuple[Samples | None, Samples | None]:
        """The samples to learn from and those to judge on; None where there are none.

        Raises ParamError and ModelError as `open_data` does.
        """
        images = self.preprocessing()
        learned = None if self.data is None else open_data(self.data, model, for_source(images, self.data, self.test))
        if self.test is not None:
            return self._few(learned), open_test(self.test, model, for_source(images, self.test, self.data))
        if learned is None:
            return None, None
        learned, judged = hold_out(learned)
        return self._few(learned), judged if len(judged) else None

    def _few(self, learned: Samples | None) -> Samples | None:
        """At most `samples` of the samples, evenly spread."""
        if learned is None or self.samples is None or self.samples >= len(learned):
            return learned
        return learned.pick([at * len(learned) // self.samples for at in range(self.samples)])


def open_test(source: DataFiles, model: Model, images: Preprocessing) -> Samples:
    """The samples of --test. Raises ParamError and ModelError as `open_data` does."""
    return to_judge(open_data(source, model, images, option="--test"))


def to_judge(found: Samples) -> Samples:
    """The samples, with the note that all of them are judged on."""
    count = f"{len(found)} sample{'' if len(found) == 1 else 's'}"
    return replace(found, notes=(f"judged on {count} of {found.source}",))


def given_samples(samples: Iterable[Feeds], model: Model) -> Samples:
    """A caller's feeds as samples, checked against the model when they are read."""
    return samples if isinstance(samples, Samples) else open_data(samples, model)


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Judging:
    """What a pipeline is judged on and by: data, and a metric. Passes that learn use the data too, if they have none."""

    data: DataFiles | None = None
    test: DataFiles | None = None
    preprocess: PreprocessFile | None = None
    metric: MetricName | None = None
    labels: LabelsFile | None = None
    custom_ops: tuple[Annotated[Path, Role(check_library, reads=one_path)], ...] = ()
    """Libraries with custom ops for onnxruntime."""
    compare: bool = True
    """Compare the outputs with the original's at the end."""

    def fill(self, steps: Sequence[Step]) -> tuple[Step, ...]:
        """The steps, with this data where a step that learns has none, and these labels where a check has none."""
        return tuple(self._filled(step) for step in steps)

    def _filled(self, step: Step) -> Step:
        names: tuple[str, ...] = ("data", "test", "preprocess") if isinstance(step, Learns) else ()
        if isinstance(step, Limits) and step.metric is not None:
            names += ("labels",)
        given = {name: getattr(self, name) for name in names if getattr(step, name) is None}
        return replace(step, **given) if given else step  # type: ignore[type-var]  # every pass is a dataclass

    def loaded_metric(self) -> Metric | None:
        """The metric's function; None without one. Raises ParamError if it cannot be loaded."""
        return None if self.metric is None else load_metric(self.metric, self.labels)

    def judge(self, steps: Sequence[Step], original: Model) -> Judge:
        """The judge of the pipeline `steps`, filled, on `original`.

        Raises ParamError and ModelError for data that does not fit the model.
        """
        samples, lacking = self.samples(steps, original)
        if samples is not None:
            check_first(samples)
        return Judge(original, samples, self.custom_ops, lacking)

    def samples(self, steps: Sequence[Step], model: Model) -> tuple[Samples | None, str | None]:
        """What the pipeline `steps`, filled, is judged on. Otherwise the reason why there is none, if data was given.

        The test data, else what the first learning pass holds out, else the data, if nothing learns from it. Raises ParamError
        and ModelError as `open_data` does.
        """
        if self.test is not None:
            return open_test(self.test, model, for_source(self._images(), self.test, self.data)), None
        for step in steps:
            learned, judged = step.split(model) if isinstance(step, Learns) else (None, None)
            if judged is not None:
                return judged, None
            if learned is not None:
                return None, f"{learned.source} holds one sample, which was learned from; give --test"
            if getattr(step, "changes_inputs", False):
                break  # the data of later passes is for other inputs
        if self.data is None:
            return None, None
        return to_judge(open_data(self.data, model, self._images())), None

    def _images(self) -> Preprocessing:
        return Preprocessing() if self.preprocess is None else read_preprocessing(self.preprocess)
