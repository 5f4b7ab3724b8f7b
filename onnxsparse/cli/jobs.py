"""The common part of all commands: shared options, checks of all files before a model is read, and running passes.

A command that runs passes works in these steps (`run_passes`):

1. Check options, patterns and paths (`check_job`), then load the model and check again with the files of its weights.
2. Run the passes and compare the outputs (`pipeline.run`).
3. Check the files that the passes produced, then write everything or nothing.
4. Print what was done.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from onnxsparse.calibration.data import DataFiles
from onnxsparse.calibration.preprocessing import PreprocessFile
from onnxsparse.cli.log import complain
from onnxsparse.cli.render import text
from onnxsparse.cli.render.live import live
from onnxsparse.cli.render.records import run_json
from onnxsparse.errors import ParamError
from onnxsparse.ir.files import STDOUT, Staging, check_target, identity
from onnxsparse.ir.model import Model, check_link, load
from onnxsparse.ir.option_roles import OutputFile, Role, check_clashes, given_options, one_path, unnamed_paths
from onnxsparse.pipeline.cache import Cache
from onnxsparse.pipeline.check import Step
from onnxsparse.pipeline.learning import Judging
from onnxsparse.pipeline.plan import plan
from onnxsparse.pipeline.run import Pipeline, check_on_model, check_passes, write
from onnxsparse.records import json_text, text_writer
from onnxsparse.runtime.labels import LabelsFile
from onnxsparse.runtime.metric import MetricName
from onnxsparse.runtime.session import check_library


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Input sizes, for models that leave some open."""

    input_shape: tuple[str, ...] = ()
    """Sizes of an input: name:1,3,224,224 or name=1x3x224x224; the sizes alone for a model with one input."""
    dim: tuple[str, ...] = ()
    """Size of a symbolic dimension: N=1."""

    def load(self, path: Path) -> Model:
        """The model with its sizes bound. Raises ModelError for an unreadable file, ParamError for sizes that do not fit."""
        return load(path).bind(self.input_shape, self.dim)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CustomOps:
    """What onnxruntime needs to run a model."""

    custom_ops: tuple[Annotated[Path, Role(check_library, reads=one_path)], ...] = ()
    """Shared library with custom ops for onnxruntime."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Running(CustomOps):
    """How to run models in onnxruntime, and on what."""

    data: DataFiles | None = None
    """Data to learn from; passes that learn nothing judge on it: npz (F.npz:key for one array), npy, an image, or a folder of
    arrays or of images (default: seeded random inputs)."""
    test: DataFiles | None = None
    """Data to judge on, in the same forms (default: a tenth of --data, or all of it if nothing is learned)."""
    preprocess: PreprocessFile | None = None
    """File that says how images become inputs (TOML); 'onnxsparse data check' writes one from options."""

    @property
    def judging(self) -> Judging:
        """What a pipeline is judged on."""
        return Judging(data=self.data, test=self.test, preprocess=self.preprocess, custom_ops=self.custom_ops)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What to judge by besides the difference of outputs."""

    metric: MetricName | None = None
    """Metric of your own, module:function or file.py:function, or top1 (docs/metrics.md)."""
    labels: LabelsFile | None = None
    """Labels of the samples that are judged on: npy, npz (F.npz:key), or text, one for each sample."""
    max_drop: float | None = None
    """Largest drop of the metric, in its own unit (else exit code 1); top1 is in points."""

    def check(self) -> None:
        """Raises ParamError for a limit that is no number, or without a metric."""
        if self.max_drop is not None and not math.isfinite(self.max_drop):
            raise ParamError("--max-drop is a finite number, in the metric's unit")
        if self.metric is None and (self.max_drop is not None or self.labels is not None):
            raise ParamError("--max-drop and --labels are for a metric; give --metric as well")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Saving:
    """What else to write, and whether to compare first."""

    record: OutputFile | None = None
    """File for what was done, why, and how long it took (JSON); - for standard output."""
    check: Annotated[bool, Parameter(name="--compare")] = True
    """Compare the outputs with the original's in onnxruntime."""
    force: Annotated[bool, Parameter(negative="")] = False
    """Allow writing onto the model that is read, or onto the file with its weights."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Json:
    """The same for machines."""

    json_file: Annotated[OutputFile | None, Parameter(name="--json")] = None
    """File for the same as JSON; - for standard output, in place of the table."""

    def check(self, *models: Path, also: Sequence[object] = ()) -> None:
        """Raises ParamError or ModelError if the file cannot be written or is also read. `also`: options that name read files."""
        check_outputs(models, self, *also)

    def show(self, document: object, print_table: Callable[[Console], None]) -> None:
        """Write `document` to the file, if one is given, and print the table, unless the JSON goes to standard output."""
        if self.json_file is not None:
            write_texts([(self.json_file, json_text(document))])
        if self.json_file != STDOUT:
            print_table(text.console())


def check_outputs(models: Iterable[Path], *options: object) -> None:
    """Check the `options` of a command that does not change `models`. Raises ParamError if it would write to a file it reads."""
    given = [one for part in options for one in given_options(part)]
    for one in given:
        one.check()
    writes = [path for one in given for path in one.writes]
    # a path that is not a model is reported when the model is loaded
    data = [path for model in models if writes and model.is_file() for path in load(model).weights.side_files()]
    check_clashes([*models, *data, *(path for one in given for path in one.reads)], writes)


def write_texts(files: Iterable[tuple[Path, str]]) -> None:
    """Write (path, text) pairs: all files or none."""
    with Staging() as staging:
        for path, content in files:
            staging.write(path, text_writer(content))


def models_in(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The models of several paths, folders in place of which the models in them stand.

    Raises ParamError for a folder without models.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
        if not inside:
            raise ParamError(f"{path}: the folder holds no .onnx files")
        found += inside
    return tuple(found)


@dataclass(frozen=True)
class Job:
    """What a command reads and writes, with its shared options.

    `target`: the model to write, None for none. `judging`: what the result is judged on. `recipe`: the file that the passes come
    from, None without one. `cache`: results of earlier runs, None without.
    """

    source: Path
    target: Path | None
    sizes: Sizes
    saving: Saving
    judging: Judging
    recipe: Path | None = None
    cache: Cache | None = None


@dataclass(frozen=True)
class Files:
    """The files that a job reads and writes, as far as they are known."""

    model: tuple[Path, ...]
    """The model's file, then the files with its weights."""
    reads: tuple[Path, ...]
    """All other files that are read."""
    target: Path | None
    """The model to write; None for none."""
    besides: tuple[Path, ...]
    """All other files that are written."""

    def check(self, *, force: bool) -> None:
        """Raises ParamError for a file that is read and written, or written twice.

        `force`: the target may replace the model that is read, or a file with its weights.
        """
        model = self.model
        if self.target is not None and identity(self.target) in map(identity, model):
            if not force:
                what = "the model that is read" if identity(self.target) == identity(model[0]) else f"read by {model[0]}"
                raise ParamError(f"{self.target} is {what}; name another file, or give --force to write onto it")
            model = tuple(path for path in model if identity(path) != identity(self.target))
        check_clashes((*model, *self.reads), (*filter(None, [self.target]), *self.besides))


def files_of(job: Job, steps: Sequence[Step], model: Model | None = None, made: Sequence[Path] | None = None) -> Files:
    """The files of a job. `model`: None before it is loaded. `made`: paths of the passes' artifacts, None before they ran."""
    ours = [one for part in (job.saving, job.judging) for one in given_options(part)]
    theirs = [one for step in steps for one in given_options(step)]
    reads = [path for one in (*ours, *theirs) for path in one.reads] + [path for path in (job.recipe,) if path is not None]
    besides = [path for one in (*ours, *theirs) for path in one.writes]
    if made is not None:
        # another package's pass may not declare the roles of its paths: those that it did not write, it reads
        reads += without([path for step in steps for path in unnamed_paths(step)], made)
        # files that no option names, such as those in a folder
        besides += without(made, [path for one in theirs for path in one.writes])
    weights = () if model is None else tuple(sorted(model.weights.side_files()))
    return Files((job.source, *weights), tuple(reads), job.target, tuple(besides))


def without(paths: Sequence[Path], others: Sequence[Path]) -> list[Path]:
    """`paths` without one occurrence for each of `others`; paths are compared by the file they lead to."""
    left = Counter(map(identity, paths)) - Counter(map(identity, others))
    return [path for path in paths if identity(path) in left]


def check_job(command: str, job: Job, steps: Sequence[Step]) -> None:
    """Check all that does not depend on the model's content. Raises ParamError or ModelError."""
    for part in (job.saving, job.judging):
        for one in given_options(part):
            one.check()
    check_passes(steps)
    if job.target == STDOUT:
        raise ParamError(f"{command}: a model does not go to standard output; name the file to write")
    if job.target is not None:
        check_target(job.target)
    if job.target is None and not any(map(makes_files, steps)):
        raise nothing_to_write(command, job)
    files_of(job, steps).check(force=job.saving.force)


def makes_files(step: Step) -> bool:
    """Whether a pass is useful without a model to write: it writes other files, or may, or only inspects the model."""
    given = given_options(step)
    return any(one.writes or one.role.fills for one in given) or bool(unnamed_paths(step)) or getattr(step, "dry", False)


def nothing_to_write(command: str, job: Job) -> ParamError:
    """The error for a command without any file to write."""
    return ParamError(f"{command}: name the file to write, as in 'onnxsparse {command} {job.source} out.onnx'")


def run_passes(command: str, steps: Sequence[Step], job: Job) -> int:
    """Run the steps at the head of this file. Returns the exit code: 1 after a failed check, of which no model is written.

    Raises ParamError, ModelError or PassError; nothing is written then.
    """
    job = replace(job, judging=replace(job.judging, compare=job.saving.check))
    steps = job.judging.fill(steps)
    check_job(command, job, steps)
    model = job.sizes.load(job.source)
    files_of(job, steps, model).check(force=job.saving.force)
    if job.target is not None and model.weights.side_files():
        check_link(job.target, check_target(job.target))
    with live(command):
        report = Pipeline(steps).run(model, job.judging, job.cache)
    made = [path for step in report.steps for path in step.artifacts]
    saved = [path for step in report.steps for path in step.saves]
    dry = any(step.dry for step in report.steps)
    if job.target is None and not made and not saved and not dry:
        raise nothing_to_write(command, job)
    files_of(job, steps, model, made).check(force=job.saving.force)
    records = []
    if job.saving.record is not None:
        records.append((job.saving.record, json_text(run_json(report, steps, model.name))))
    target = None if dry or report.failures else job.target
    write(model, target, report, records)
    written = [path for path in (*made, job.saving.record, *([] if report.failures else saved), target) if path is not None]
    out = text.console(stderr=STDOUT in written)
    text.print_run(out, report, model.binding)
    if not any(step.shrank for step in report.steps):
        for advice in dict.fromkeys(step.advice for step in report.steps if step.advice is not None):
            text.note(out, advice)
    text.print_written(out, [path for path in written if path != STDOUT])
    if report.failures:
        return complain(f"{command}: no model was written: {'; '.join(report.failures)}", 1)
    if report.warning is not None:
        text.note(out, report.warning)
    return 0


def show_plan(steps: Sequence[Step], job: Job) -> int:
    """Show what `steps` would do to the model, without data and without writing anything but the record. Returns 0.

    Raises ParamError or ModelError for options that a run would refuse too.
    """
    steps = job.judging.fill(steps)
    check_passes(steps)
    files_of(job, steps).check(force=job.saving.force)
    model = job.sizes.load(job.source)
    check_on_model(steps, model)
    with live("run"):
        found = plan(steps, model)
    if job.saving.record is not None:
        document = {"schema": 1, "model": model.name, "target": found.target, "steps": [row.to_json() for row in found.rows]}
        write_texts([(job.saving.record, json_text(document))])
    out = text.console(stderr=job.saving.record == STDOUT)
    text.print_assumed(out, model.binding)
    text.print_plan(out, found)
    return 0
