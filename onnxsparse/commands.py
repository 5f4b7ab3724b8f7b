"""What each command does: parse sizes, call the library, print. Pass commands are made from the pass classes."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from onnxsparse.as_run import run_here
from onnxsparse.comparison import compare as compare_models
from onnxsparse.divergence import MIN_SQNR_DB
from onnxsparse.divergence import bisect as bisect_models
from onnxsparse.errors import ParamError
from onnxsparse.facts import layers
from onnxsparse.files import Staging, check_target
from onnxsparse.inputs import load_samples
from onnxsparse.metadata import is_stale
from onnxsparse.model import Model, load
from onnxsparse.passbase import Pass, text_writer
from onnxsparse.pipeline import Comparing, Pipeline, write
from onnxsparse.recipe import load_recipe
from onnxsparse.registry import find_pass, passes
from onnxsparse.report import text
from onnxsparse.report.divergence_text import print_divergence
from onnxsparse.report.live import live
from onnxsparse.report.records import layers_json, passes_json, run_json

PRUNE_ADVICE = (
    "the file is as large as before and no faster on a CPU: zeros pay off on hardware that skips them (as the CV22) and under "
    "compression. Raise --sparsity-op as long as the outputs stay close enough, or fine-tune and prune further"
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Input sizes, for models that leave some open."""

    input_shape: tuple[str, ...] = ()
    """Sizes of an input: name:1,3,224,224 or name=1x3x224x224, the sizes alone for a model with one input."""
    dim: tuple[str, ...] = ()
    """Size of a symbolic dimension: N=1."""

    def load(self, path: Path) -> Model:
        return load(path).bind(self.input_shape, self.dim)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CustomOps:
    """What onnxruntime needs to run a model."""

    custom_ops: tuple[Path, ...] = ()
    """Shared library with custom ops for onnxruntime."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Running(CustomOps):
    """How to run models in onnxruntime."""

    data: Path | None = None
    """Inputs to compare outputs on: npz, or a folder of npy and npz (default: seeded random inputs)."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Saving:
    """What else to write, and whether to compare first."""

    record: Path | None = None
    """Write what was done, why, and how long it took to this file (JSON)."""
    check: Annotated[bool, Parameter(name="--compare")] = True
    """Compare the outputs with the original's in onnxruntime."""


def inspect(
    model: Path,
    /,
    *,
    top: int | None = None,
    sort: Literal["graph", "macs", "weights", "sparsity", "sparsity_op"] = "graph",
    json_file: Annotated[str | None, Parameter(name="--json")] = None,
    sizes: Sizes = Sizes(),
) -> None:
    """Show what each layer of a model costs and how sparse it is.

    Parameters
    ----------
    model
        The ONNX model.
    top
        Show this many layers only.
    sort
        Order of the layers.
    json_file
        Write the facts as JSON to this file; - for standard output, without the table.
    """
    if top is not None and top < 0:
        raise ParamError("--top is a number of layers, 0 or more")
    loaded = sizes.load(model)
    facts = layers(loaded)

    def print_facts(out: Console) -> None:
        text.print_layers(out, facts, loaded.name, top=top, sort=sort)
        if is_stale(loaded.proto):
            text.note(out, "the annotations in this file are older than its graph; annotate it again")

    show(layers_json(facts, loaded.name), json_file, print_facts)


def compare(
    first: Path,
    second: Path,
    /,
    *,
    bisect: Annotated[bool, Parameter(negative="")] = False,
    min_sqnr: float | None = None,
    seed: int = 0,
    json_file: Annotated[str | None, Parameter(name="--json")] = None,
    running: Running = Running(),
    sizes: Sizes = Sizes(),
) -> int:
    """Run two models on the same inputs and show how far they are apart.

    Parameters
    ----------
    first
        The reference model.
    second
        The model to compare with it.
    bisect
        Compare the tensors inside, by name, and show the first ones below --min-sqnr (default: 30) and where most is lost.
    min_sqnr
        Fail (exit code 1) unless every output has this SQNR in dB and depends on the input; with --bisect, every tensor has it.
    seed
        Of the random inputs.
    json_file
        Write the figures as JSON to this file; - for standard output, without the table.
    """
    a, b = sizes.load(first), sizes.load(second)
    title = f"{b.name} against {a.name}"
    samples = None if running.data is None else load_samples(running.data, a)
    if bisect:
        least = MIN_SQNR_DB if min_sqnr is None else min_sqnr
        with live("running both models in onnxruntime"):
            found = bisect_models(a, b, samples, min_sqnr_db=least, custom_ops=running.custom_ops, seed=seed)
        show(found.to_json(), json_file, lambda out: print_divergence(out, found, title))
        passes, failure = found.passes, "not every tensor reaches" if found.compared else "no tensor is compared, so none reaches"
    else:
        with live("running both models in onnxruntime"):
            result = compare_models(a, b, samples, custom_ops=running.custom_ops, seed=seed, as_run=run_here)
        show(result.to_json(), json_file, lambda out: text.print_comparison(out, result, title))
        passes, failure = min_sqnr is None or result.passes(min_sqnr), "not every output reaches"
    if min_sqnr is None or passes:
        return 0
    print(f"onnxsparse: compare: {failure} {min_sqnr:g} dB", file=sys.stderr)
    return 1


def show(document: object, json_file: str | None, print_table: Callable[[Console], None]) -> None:
    """A table, and the same as JSON in a file; JSON alone where that is to go to standard output."""
    content = json.dumps(document, indent=1, allow_nan=False)
    if json_file == "-":
        print(content)
        return
    if json_file is not None:
        write_text(Path(json_file), content)
    print_table(text.console())


def write_text(path: Path, content: str) -> None:
    with Staging() as staging:
        staging.write(path, text_writer(f"{content}\n"))


def run(
    recipe: Path,
    model: Path,
    output: Path,
    /,
    *,
    saving: Saving = Saving(),
    running: Running = Running(),
    sizes: Sizes = Sizes(),
) -> None:
    """Run the passes of a recipe (YAML) one after the other; each is verified, and all is written together.

    Parameters
    ----------
    recipe
        A YAML file with a list of passes and their options; see 'onnxsparse passes'.
    model
        The ONNX model to read; it is not changed.
    output
        The model to write.
    """
    found = load_recipe(recipe)
    both = Sizes(input_shape=(*found.input_shape, *sizes.input_shape), dim=(*found.dim, *sizes.dim))
    run_passes("run", found.passes, Job(model, output, both, saving, running))


def show_passes(*, json_file: Annotated[str | None, Parameter(name="--json")] = None) -> None:
    """Show the passes there are, and the options of each.

    Parameters
    ----------
    json_file
        Write them as JSON with a JSON schema of the options to this file; - for standard output.
    """
    classes = [find_pass(name) for name in passes()]
    show(passes_json(classes), json_file, lambda out: text.print_passes(out, classes))


def view(
    model: Path,
    /,
    *,
    heat: Annotated[bool, Parameter(negative="")] = False,
    backend: str = "cv22",
    port: int | None = None,
    browse: bool = True,
    sizes: Sizes = Sizes(),
) -> None:
    """Open an annotated temporary copy of a model in Netron; the model itself is not changed.

    Parameters
    ----------
    model
        The ONNX model.
    heat
        Put rank, bound and share of the latency in front of the copy's node names, for Netron's search (type #1).
    backend
        Whose predicted cost to show: cv22, cv22-skiplimit, cv22-stream, or a TOML file of your own.
    port
        Serve at this port (default: any that is free).
    browse
        Open a browser.
    """
    try:
        import netron
    except ImportError:
        raise ParamError("view needs Netron: pip install 'onnxsparse[view]'") from None
    from onnxsparse.viewing import for_viewing

    shown = for_viewing(sizes.load(model), heat=heat, target=backend)
    with TemporaryDirectory(prefix="onnxsparse-view-") as folder:
        copy = Path(folder) / model.name
        shown.save(copy)
        host, number = netron.start(str(copy), port, browse=browse)
        print(f"Netron shows {model.name} at http://{host}:{number}; Ctrl-C ends it", flush=True)
        netron.wait()


def pass_command(name: str) -> Callable[..., None]:
    """The command of a pass: IN, OUT, its fields as options, and how to run."""
    pass_class = find_pass(name)

    def command(
        model: Path,
        output: Path | None = None,
        /,
        *,
        options: Pass,
        saving: Saving = Saving(),
        running: Running = Running(),
        sizes: Sizes = Sizes(),
    ) -> None:
        run_passes(name, [options], Job(model, output, sizes, saving, running))

    command.__annotations__["options"] = Annotated[pass_class, Parameter(name="*")]
    if any(f.name == "data" for f in fields(pass_class)):  # type: ignore[arg-type]  # every pass is a dataclass
        # data of its own, on some of which the outputs are compared as well
        command.__annotations__["running"] = CustomOps
        command.__kwdefaults__ = {**(command.__kwdefaults__ or {}), "running": CustomOps()}
    if not any(f.default is MISSING and f.default_factory is MISSING for f in fields(pass_class)):  # type: ignore[arg-type]  # every pass is a dataclass
        command.__kwdefaults__ = {**(command.__kwdefaults__ or {}), "options": pass_class()}
    command.__doc__ = f"""{pass_class.__doc__}

    Parameters
    ----------
    model
        The ONNX model to read; it is not changed.
    output
        The model to write.
    """
    return command


@dataclass(frozen=True)
class Job:
    """What to read and write, for which sizes, and how to check it."""

    source: Path
    target: Path | None
    sizes: Sizes
    saving: Saving
    running: CustomOps


def run_passes(command: str, steps: Sequence[Pass], job: Job) -> None:
    if job.target is not None:
        check_target(job.target)
    model = job.sizes.load(job.source)
    data = job.running.data if isinstance(job.running, Running) else None
    comparing = Comparing(data, job.running.custom_ops) if job.saving.check else None
    with live(command):
        report = Pipeline(steps).run(model, comparing)
    made = [path for step in report.steps for path in step.artifacts]
    dry = any(step.dry for step in report.steps)
    if job.target is None and not made and not dry:
        raise ParamError(f"{command}: name the file to write, as in 'onnxsparse {command} {job.source} out.onnx'")
    records = []
    if job.saving.record is not None:
        content = json.dumps(run_json(report, steps, model.name), indent=1, allow_nan=False)
        records.append((job.saving.record, f"{content}\n"))
    target = None if dry else job.target
    check_names(job, steps, made)
    write(model, target, report, records)
    out = text.console()
    text.print_run(out, report, model.binding)
    changed = {step.pass_name for step in report.steps if step.changes or step.rewrote}
    if "prune" in changed and not changed & {"prune-channels", "quantize"}:
        text.note(out, PRUNE_ADVICE)
    text.print_written(out, [path for path in (*made, job.saving.record, target) if path is not None])


def check_names(job: Job, steps: Sequence[Pass], made: Sequence[Path]) -> None:
    """Raises ParamError for a file that two things would be written to, or that is read. `made`: what passes make besides."""
    options = [Path(str(value)).resolve() for step in steps for value in vars(step).values() if isinstance(value, str | Path)]
    read = Counter(options) - Counter(path.resolve() for path in made) + Counter([job.source.resolve()])
    written = [path for path in (*made, job.saving.record) if path is not None]
    named = Counter(path.resolve() for path in (*written, *filter(None, [job.target])))
    for path in written:
        if named[path.resolve()] > 1 or read[path.resolve()]:
            raise ParamError(f"{path} is named twice; what is written needs a file of its own")


def __getattr__(name: str) -> Callable[..., None]:
    """Pass commands are made when asked for."""
    if name in passes():
        return pass_command(name)
    raise AttributeError(name)
