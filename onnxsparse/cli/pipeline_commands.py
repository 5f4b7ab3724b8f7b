"""The commands that run passes: recipes, and one command per pass, generated from its class."""

import math
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from onnxsparse.cli.jobs import CustomOps, Job, Json, Measuring, Running, Saving, Sizes, run_passes, show_plan, write_texts
from onnxsparse.cli.render import text
from onnxsparse.cli.render.records import passes_json
from onnxsparse.cli.sweep import run_on_folder
from onnxsparse.errors import ParamError
from onnxsparse.ir.option_roles import OutputFile, check_clashes, check_output
from onnxsparse.pipeline.base import Pass
from onnxsparse.pipeline.cache import Cache, cache_folder
from onnxsparse.pipeline.check import Check
from onnxsparse.pipeline.learning import Judging
from onnxsparse.pipeline.recipe import load_recipe
from onnxsparse.pipeline.recipe_schema import recipe_schema
from onnxsparse.pipeline.registry import find_pass, passes
from onnxsparse.records import json_text


def run(
    recipe: Path,
    model: Path,
    output: Path | None = None,
    /,
    *,
    set_: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    cached: Annotated[bool, Parameter(name="--cache")] = True,
    min_sqnr: float | None = None,
    measuring: Measuring = Measuring(),
    saving: Saving = Saving(),
    running: Running = Running(),
    sizes: Sizes = Sizes(),
) -> int:
    """Run the passes of a recipe (YAML) one after the other; each is verified, and all files are written together.

    Parameters
    ----------
    recipe
        A YAML file with a list of passes and their options; see 'onnxsparse passes'.
    model
        The ONNX model to read; it is not changed.
    output
        The model to write.
    set_
        Value in place of the recipe's: prune.sparsity_op=0.8.
    dry_run
        Show the plan, with sizes and predicted cost after each pass that needs no data; write nothing.
    cached
        Reuse the results of passes that finished in an earlier run on the same files and options.
    min_sqnr
        SQNR in dB that every output and its worst slice must reach at the end (else exit code 1, and no model is written).

    Raises
    ------
    ParamError
        For a recipe or options that are invalid, or data that do not fit the model.
    ModelError
        For a model that cannot be read.
    """
    if min_sqnr is not None and not math.isfinite(min_sqnr):
        raise ParamError("--min-sqnr is a number of decibels")
    measuring.check()
    found = load_recipe(recipe, set_)
    steps = list(found.passes)
    gated = measuring.max_drop is not None
    if min_sqnr is not None or gated:
        metric = measuring.metric if gated else None
        steps.append(Check(min_sqnr=min_sqnr, metric=metric, max_drop=measuring.max_drop))
    judging = Judging(
        data=running.data or found.data,
        test=running.test or found.test,
        preprocess=running.preprocess or found.preprocess,
        metric=None if gated else measuring.metric,
        labels=measuring.labels or found.labels,
        custom_ops=running.custom_ops,
    )
    both = Sizes(input_shape=(*found.input_shape, *sizes.input_shape), dim=(*found.dim, *sizes.dim))
    job = Job(model, output, both, saving, judging, recipe, Cache(cache_folder()) if cached else None)
    return show_plan(steps, job) if dry_run else run_passes("run", steps, job)


def show_passes(*, schema: OutputFile | None = None, json_out: Json = Json()) -> None:
    """Show the available passes and their options; as JSON, with a JSON schema of the options.

    Parameters
    ----------
    schema
        File for the JSON schema of a whole recipe, for editors and checks; - for standard output.

    Raises
    ------
    ParamError
        For a file that cannot be written, or a pass of another package that cannot be loaded.
    """
    json_out.check()
    if schema is not None:
        check_output(schema, "--schema")
        check_clashes((), [path for path in (schema, json_out.json_file) if path is not None])
        write_texts([(schema, json_text(recipe_schema()))])
        if json_out.json_file is None:
            return
    classes = [find_pass(name) for name in passes()]
    json_out.show(passes_json(classes), lambda out: text.print_passes(out, classes))


def pass_command(name: str) -> Callable[..., int]:
    """The command of a pass: input and output model, the fields of its class as options, and how to save and compare."""
    pass_class = find_pass(name)

    def command(
        model: Path,
        output: Path | None = None,
        /,
        *,
        options: Pass,
        jobs: Annotated[int, Parameter(validator=Number(gt=0))] = 1,
        saving: Saving = Saving(),
        running: CustomOps = Running(),
        sizes: Sizes = Sizes(),
    ) -> int:
        """Replaced below by the docstring of the pass."""
        judging = running.judging if isinstance(running, Running) else Judging(custom_ops=running.custom_ops)
        job = Job(model, output, sizes, saving, judging)
        return run_on_folder(name, options, job, jobs) if model.is_dir() else run_passes(name, [options], job)

    command.__annotations__["options"] = Annotated[pass_class, Parameter(name="*")]
    # a pass that learns has options for data of its own
    learns = bool(names_of(pass_class) & (names_of(Running) - names_of(CustomOps)))
    command.__annotations__["running"] = CustomOps if learns else Running
    command.__kwdefaults__ = {**(command.__kwdefaults__ or {}), "running": CustomOps() if learns else Running()}
    if not any(f.default is MISSING and f.default_factory is MISSING for f in fields(pass_class)):  # type: ignore[arg-type]  # every pass is a dataclass
        command.__kwdefaults__ = {**(command.__kwdefaults__ or {}), "options": pass_class()}
    command.__doc__ = f"""{pass_class.__doc__}

    Parameters
    ----------
    model
        The ONNX model to read; it is not changed. Of a folder, every model in it is.
    output
        The model to write. Of a folder, {{model}} stands for the name of each model: out/{{model}}.onnx; so it does in all files.
    jobs
        Number of models of a folder to work on at the same time.
    """
    return command


def names_of(kind: type) -> set[str]:
    """The fields of a dataclass."""
    return {field.name for field in fields(kind)}


def __getattr__(name: str) -> Callable[..., int]:
    """Generate the command of a pass when it is looked up by name. Raises AttributeError for any other name."""
    if name in passes():
        return pass_command(name)
    raise AttributeError(name)
