"""The commands about cost: the report, and the calibration of a target on measurements."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from onnxsparse.cli.jobs import Sizes, check_outputs, models_in, write_texts
from onnxsparse.cli.render import text
from onnxsparse.cli.render.deployment_text import print_comparison_of, print_curves, print_deployment, print_fit, print_operation
from onnxsparse.cli.render.live import live
from onnxsparse.cost.backends.base import Precision
from onnxsparse.cost.backends.hardware import load_hardware, names
from onnxsparse.cost.backends.layer_model import make_backend
from onnxsparse.cost.estimate import Deployment, is_measuring
from onnxsparse.cost.fit import Measured, calibrated_toml, check_free, default_free, fit, read_measurements
from onnxsparse.cost.registry import HardwareTarget
from onnxsparse.cost.report.outputs import contents
from onnxsparse.cost.report.records import comparison_json, exceeded
from onnxsparse.cost.report.tables import comparison_markdown
from onnxsparse.cost.sparsity_sweep import curves
from onnxsparse.cost.workload import workload
from onnxsparse.errors import ParamError
from onnxsparse.ir.files import STDOUT
from onnxsparse.ir.option_roles import OutputFile, check_clashes, reading
from onnxsparse.parallel.executor import in_order, local
from onnxsparse.passes.report import DEFAULT_TARGET, Report
from onnxsparse.pipeline.base import OLD_NAME, named_target
from onnxsparse.records import json_text
from onnxsparse.targets.files import other_sections


def report(
    *models: Path,
    options: Annotated[Report, Parameter(name="*")] = Report(),
    top: int | None = None,
    sort: Literal["graph", "latency"] = "latency",
    curve: Annotated[bool, Parameter(negative="")] = False,
    jobs: Annotated[int, Parameter(validator=Number(gt=0))] = 1,
    sizes: Sizes = Sizes(),
) -> int:
    """Predict what a model costs on a target, layer by layer, and what would make it cheaper; or compare several models.

    Parameters
    ----------
    models
        The ONNX model; with several, the others are compared with the first. A folder stands for the models in it.
    top
        Number of layers to show (default: all).
    sort
        Order of the layers.
    curve
        Also show latency over sparsity_op, for the model and for narrower ones, and up to which sparsity pruning pays.
    jobs
        Number of models to predict at the same time.

    Raises
    ------
    ParamError
        For no model, a negative `top`, an unknown target, files that do not go with several models, or, with `strict`, unknown
        costs.
    ModelError
        For a model that cannot be read.
    """
    models = models_in(models)
    if not models:
        raise ParamError("report: name a model, as in 'onnxsparse report model.onnx'")
    if top is not None and top < 0:
        raise ParamError("--top is a number of layers, 0 or more")
    if len(models) > 1 and replace(options.files, json=None, markdown=None):
        raise ParamError("report: csv, html, svg and curve files are of one model; name one, or use --json or --markdown")
    check_outputs(models, options)
    backend = options.find_backend()
    if jobs > 1 and is_measuring(backend):
        raise ParamError(
            f"report: --target {backend.name} measures, so that models cannot run at the same time; leave --jobs out"
        )
    works = [Predicting(path, options, sizes) for path in models]
    with live("report"), local(min(jobs, len(models))) as executor:
        found = in_order(executor, predicted, works)
    if len(found) > 1:
        return report_several(found, options, top=top)
    return report_one(*found[0], options, Shown(top, sort, curve))


@dataclass(frozen=True)
class Predicting:
    """A model whose cost is to be predicted."""

    path: Path
    options: Report
    sizes: Sizes


def predicted(work: Predicting, _failures: int) -> tuple[str, Deployment]:
    """The name of a model, and what it costs. Raises ParamError and ModelError as `Sizes.load` and `Report.deploy` do."""
    model = work.sizes.load(work.path)
    return model.name, work.options.deploy(model, work.options.find_backend())


@dataclass(frozen=True)
class Shown:
    """What to print of a report: `top` layers (None: all), their order, and whether to print the curve."""

    top: int | None
    sort: str
    curve: bool


def report_one(name: str, found: Deployment, options: Report, shown: Shown) -> int:
    """Write and print the report of one model; returns the exit code of `tell_exceeded`."""
    drawn = curves(found.load, found.backend) if shown.curve or options.curve_csv is not None else ()
    operation = options.operation(found)
    write_texts(contents(options.files, found, name, operation, drawn))
    if not options.files.to_stdout:
        out = text.console()
        print_deployment(out, found, name, top=shown.top, sort=shown.sort)
        if operation is not None:
            print_operation(out, operation)
        if shown.curve:
            print_curves(out, drawn)
    return tell_exceeded(name, found, options)


def report_several(found: Sequence[tuple[str, Deployment]], options: Report, *, top: int | None) -> int:
    """Write and print the comparison of several (name, deployment) with the first; returns the largest exit code."""
    made = [(options.markdown, comparison_markdown(found)), (options.json, json_text(comparison_json(found)))]
    write_texts((path, content) for path, content in made if path is not None)
    if not options.files.to_stdout:
        print_comparison_of(text.console(), found, top=top)
    return max(tell_exceeded(name, deployment, options) for name, deployment in found)


def tell_exceeded(name: str, found: Deployment, options: Report) -> int:
    """Print the limits of --fail-if that a model exceeds on stderr; returns 1 if there are any, else 0."""
    reasons = exceeded(found, options.fail_if)
    if reasons:
        print(f"onnxsparse: report: {name}: {'; '.join(reasons)}", file=sys.stderr)
    return int(bool(reasons))


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """The files of a calibration, with their roles, so that they are checked like the options of a pass."""

    out: OutputFile
    measurements: Annotated[Path, reading(lambda path: list(read_measurements(path)))]
    target: HardwareTarget


def calibrate_backend(
    measurements: Path,
    /,
    *,
    out: Path,
    target: Annotated[
        str, Parameter(help=f"Target to start from, whose ranges bound the fit: {', '.join(names())}, or a TOML file.")
    ] = DEFAULT_TARGET,
    backend: Annotated[str | None, OLD_NAME] = None,
    free: tuple[str, ...] = (),
    name: str | None = None,
    activation_bits: Annotated[int, Parameter(validator=Number(gt=0))] = 8,
    coefficient_bits: Annotated[int, Parameter(validator=Number(gt=0))] = 8,
    sizes: Sizes = Sizes(),
) -> None:
    """Fit a target's numbers to measurements of your own.

    Parameters
    ----------
    measurements
        CSV file with the columns model (a path relative to the CSV) and latency_ms.
    out
        TOML file to write the fitted target to, for --target.
    backend
        Old name of --target.
    free
        Name of a number to fit (default: rate, bandwidth and overhead).
    activation_bits
        Width of float activations in bits during the measurement; integers have the width of their type.
    coefficient_bits
        Width of float coefficients in bits during the measurement; integers have the width of their type.
    name
        Name of the fitted target (default: the name of the file).
    """
    start_from = named_target("calibrate-backend", DEFAULT_TARGET, target=target, backend=backend) or DEFAULT_TARGET
    check_outputs((), Fitting(out=out, measurements=measurements, target=start_from))
    start = make_backend(load_hardware(start_from), Precision(activation_bits, coefficient_bits))
    given = list(read_measurements(measurements))
    free = free or default_free(start)
    check_free(start, free, len(given))
    check_clashes([path for _, path, _ in given], [out])
    rows = [Measured(label, workload(sizes.load(path)), ms) for label, path, ms in given]
    fitted = fit(start, rows, free)
    beside = other_sections(start_from, "cost")
    write_texts([(out, calibrated_toml(fitted, measurements.name, name or out.stem, beside))])
    shown = text.console(stderr=out == STDOUT)
    print_fit(shown, fitted)
    text.note(shown, f"wrote {out}; use it with --target {out}")
