"""One pass on every model of a folder.

Every file that is written needs a name for each model: `{model}` in a path stands for the name of the model's file without its
suffix. A model that fails does not keep the others from being done.
"""

import io
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from onnxsparse.cli import log
from onnxsparse.cli.jobs import Job, check_job, files_of, models_in, run_passes
from onnxsparse.cli.log import INTERRUPTED, complain
from onnxsparse.cli.render.live import live
from onnxsparse.errors import OnnxSparseError, ParamError
from onnxsparse.ir.files import STDOUT
from onnxsparse.ir.option_roles import check_clashes, roles
from onnxsparse.parallel.executor import Executor, GivenUp, local
from onnxsparse.pipeline.base import Pass
from onnxsparse.progress import tell

PLACE = "{model}"
"""What stands for the name of a model in the path of a file to write."""

Options = TypeVar("Options")


@dataclass(frozen=True)
class Alone:
    """A pass on one model of a folder. `as_json`: whether stderr gets JSON."""

    command: str
    step: Pass
    job: Job
    as_json: bool


@dataclass(frozen=True)
class Said:
    """What a command returned and printed."""

    exit_code: int
    out: str
    errors: str


def run_on_folder(command: str, step: Pass, job: Job, jobs: int) -> int:
    """Run a pass on every model of the folder `job.source`, `jobs` at the same time. Returns the largest exit code.

    Raises ParamError and ModelError for options or files at fault, before anything is run.
    """
    models = models_in([job.source])
    works = [Alone(command, for_model(step, path), job_for(job, path), log.is_json()) for path in models]
    for work in works:
        check_job(command, work.job, work.job.judging.fill([work.step]))
    check_clashes(() if job.saving.force else models, [path for work in works for path in written_by(work)])
    return shown(works, local(min(jobs, len(works))))


def for_model(options: Options, model: Path) -> Options:
    """Options of a dataclass whose files to write are those of one model.

    Raises ParamError for a file to write that would be that of every model.
    """
    changes: dict[str, Any] = {}
    kind: type = type(options)
    for name, role in roles(kind):
        value = getattr(options, name)
        if isinstance(value, Path) and (role.fills or any(role.writes(value))):
            changes[name] = path_for(value, f"--{name.replace('_', '-')}", model)
    return replace(options, **changes) if changes else options  # type: ignore[type-var]  # options are dataclasses


def job_for(job: Job, model: Path) -> Job:
    """The job on one model. Raises ParamError as `for_model` does."""
    target = None if job.target is None else path_for(job.target, "OUTPUT", model)
    return replace(job, source=model, target=target, saving=for_model(job.saving, model))


def path_for(path: Path, option: str, model: Path) -> Path:
    """The path of a file to write for one model. Raises ParamError if it is the same for every model."""
    if PLACE not in str(path):
        folder = Path() if path == STDOUT else path
        example = path.with_name(f"{path.stem}-{PLACE}{path.suffix}") if path.suffix else folder / f"{PLACE}.onnx"
        raise ParamError(f"{option} {path}: every model of the folder needs a file of its own; write {PLACE}, as in {example}")
    return Path(str(path).replace(PLACE, model.stem))


def written_by(work: Alone) -> list[Path]:
    """All files that are known to be written for one model."""
    files = files_of(work.job, [work.step])
    return [path for path in (files.target, *files.besides) if path is not None]


def shown(works: Sequence[Alone], executor: Executor) -> int:
    """Do the works, and print what each says, in their order. Returns the exit code; Ctrl-C keeps the models that are done."""
    command, found = works[0].command, dict[int, Said]()
    try:
        with live(command), executor:
            tell("models", 0, len(works))
            for number, result in executor.run(ran, works):
                assert not isinstance(result, GivenUp)  # only clusters give up
                found[number] = result
                tell("models", len(found), len(works))
    except KeyboardInterrupt:
        print_said(works, found)
        return complain(f"{command}: interrupted; {len(found)} of {len(works)} models are done", INTERRUPTED)
    print_said(works, found)
    failed = [works[number].job.source.name for number in sorted(found) if found[number].exit_code]
    if not failed:
        return 0
    exit_code = max(said.exit_code for said in found.values())
    return complain(f"{command}: {len(failed)} of {len(works)} models failed: {', '.join(failed)}", exit_code)


def print_said(works: Sequence[Alone], found: Mapping[int, Said]) -> None:
    """Print what was said about each model, in the order of the models."""
    for number in sorted(found):
        print(f"{works[number].job.source}:")
        print(found[number].out, end="", flush=True)
        print(found[number].errors, end="", file=sys.stderr, flush=True)


def ran(work: Alone, _failures: int) -> Said:
    """Run a pass on one model. An error is what it says."""
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors), log.as_json(work.as_json):
        try:
            exit_code = run_passes(work.command, [work.step], work.job)
        except OnnxSparseError as error:
            exit_code = complain(str(error), error.exit_code)
    return Said(exit_code, out.getvalue(), errors.getvalue())
