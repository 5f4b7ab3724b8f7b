"""The commands about models as they are: bind sizes, call the library, print."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from onnxsparse.analysis.layers import layers
from onnxsparse.annotations import is_stale
from onnxsparse.cli.jobs import Json, Measuring, Running, Sizes
from onnxsparse.cli.log import complain
from onnxsparse.cli.render import text
from onnxsparse.cli.render.divergence_text import print_divergence
from onnxsparse.cli.render.live import live
from onnxsparse.cli.render.records import layers_json
from onnxsparse.cost.registry import backend_names, find_backend
from onnxsparse.errors import ParamError
from onnxsparse.ir.option_roles import Role
from onnxsparse.passes.report import DEFAULT_TARGET
from onnxsparse.pipeline.base import OLD_NAME, described, named_target
from onnxsparse.quantization.plan.target import load_target, names
from onnxsparse.runtime.as_run import AsRun, run_here
from onnxsparse.runtime.bisect import MIN_SQNR_DB
from onnxsparse.runtime.bisect import bisect as bisect_models
from onnxsparse.runtime.judge import drop_failure
from onnxsparse.targets.files import target_paths


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunningInts(Running):
    """How to run models that may compute in integers."""

    target: Annotated[str, Role(lambda target, _option: load_target(target, "compare"), reads=target_paths)] | None = field(
        default=None,
        metadata=described(
            f"Target that the models are for: {', '.join(names())}, or a TOML file; models for onnxruntime on a PC are also run "
            "with its integer kernels (default: all models are)."
        ),
    )

    def as_run(self) -> AsRun | None:
        """How to run the models as this processor does; None for a target that is another device. Raises ParamError."""
        return run_here if self.target is None or load_target(self.target, "compare").runs_here else None


def inspect(
    model: Path,
    /,
    *,
    top: int | None = None,
    sort: Literal["graph", "macs", "weights", "sparsity", "sparsity_op"] = "graph",
    json_out: Json = Json(),
    sizes: Sizes = Sizes(),
) -> None:
    """Show what each layer of a model costs and how sparse it is.

    Parameters
    ----------
    model
        The ONNX model.
    top
        Number of layers to show (default: all).
    sort
        Order of the layers.

    Raises
    ------
    ParamError
        For a negative `top`, sizes that do not fit the model, or a JSON file that cannot be written.
    ModelError
        For a model that cannot be read.
    """
    if top is not None and top < 0:
        raise ParamError("--top is a number of layers, 0 or more")
    json_out.check(model)
    loaded = sizes.load(model)
    facts = layers(loaded)

    def print_facts(out: Console) -> None:
        """Print the table, and a note if the file's annotations are stale."""
        text.print_layers(out, facts, loaded.name, top=top, sort=sort)
        if is_stale(loaded.proto):
            text.note(out, "the annotations in this file are older than its graph; annotate it again")

    json_out.show(layers_json(facts, loaded.name), print_facts)


def compare(
    first: Path,
    second: Path,
    /,
    *,
    bisect: Annotated[bool, Parameter(negative="")] = False,
    min_sqnr: float | None = None,
    seed: int = 0,
    json_out: Json = Json(),
    measuring: Measuring = Measuring(),
    running: RunningInts = RunningInts(),
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
        Compare inner tensors by name; show the first ones below --min-sqnr (default: 30 dB) and where most is lost.
    min_sqnr
        SQNR in dB that every output and its worst slice must reach, and the output has to depend on the input (else exit code
        1); with --bisect, every tensor.
    seed
        Seed of the random inputs.

    Raises
    ------
    ParamError
        For options that are out of range, or data that do not fit the models.
    ModelError
        For a model that cannot be read.
    BackendError
        If onnxruntime cannot run a model.
    """
    if min_sqnr is not None and math.isnan(min_sqnr):
        raise ParamError("--min-sqnr is a number of decibels")
    if seed < 0:
        raise ParamError("--seed is a whole number, 0 or more")
    measuring.check()
    if bisect and measuring.metric is not None:
        raise ParamError("--bisect compares inner tensors; give --metric without it")
    json_out.check(first, second, also=(running, measuring))
    judging = replace(running.judging, metric=measuring.metric, labels=measuring.labels)
    metric = judging.loaded_metric()
    a, b = sizes.load(first), sizes.load(second)
    title = f"{b.name} against {a.name}"
    judge = judging.judge((), a)
    if bisect:
        least = MIN_SQNR_DB if min_sqnr is None else min_sqnr
        with live("running both models in onnxruntime"):
            found = bisect_models(a, b, judge.samples, min_sqnr_db=least, custom_ops=running.custom_ops, seed=seed)
        json_out.show(found.to_json(), lambda out: print_divergence(out, found, title))
        failures = [] if min_sqnr is None else [found.shortfall]
    else:
        with live("running both models in onnxruntime"):
            measured = None if metric is None else judge.measure(metric, b)
            result = judge.compare(b, running.as_run(), seed=seed)
        document = result.to_json() | {"metric": None if measured is None else measured.to_json()}
        json_out.show(document, lambda out: text.print_judged(out, result, measured, title))
        failures = [] if min_sqnr is None else [result.shortfall(min_sqnr)]
        if measured is not None and measuring.max_drop is not None:
            failures.append(drop_failure(measured, measuring.max_drop))
    told = [failure for failure in failures if failure is not None]
    return complain(f"compare: {'; '.join(told)}", 1) if told else 0


def view(
    model: Path,
    /,
    *,
    heat: Annotated[bool, Parameter(negative="")] = False,
    target: Annotated[
        str, Parameter(help=f"Target whose predicted cost to show: {', '.join(backend_names())}, or a TOML file.")
    ] = DEFAULT_TARGET,
    backend: Annotated[str | None, OLD_NAME] = None,
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
        Begin the copy's node names with rank, bound and share of the latency, for Netron's search (type #1).
    backend
        Old name of --target.
    port
        Port to serve at (default: any that is free).
    browse
        Open a browser.

    Raises
    ------
    ParamError
        If Netron is not installed, or for an unknown target or a port that is out of range.
    """
    try:
        import netron
    except ImportError:
        raise ParamError("view needs Netron: pip install 'onnxsparse[view]'") from None
    from onnxsparse.cli.netron_view import for_viewing

    if port is not None and not 0 <= port < 1 << 16:
        raise ParamError("--port is a number from 0 to 65535")
    shown_on = named_target("view", DEFAULT_TARGET, target=target, backend=backend) or DEFAULT_TARGET
    find_backend(shown_on)
    shown = for_viewing(sizes.load(model), heat=heat, target=shown_on)
    with TemporaryDirectory(prefix="onnxsparse-view-") as folder:
        copy = Path(folder) / model.name
        shown.save(copy)
        host, number = netron.start(str(copy), port, browse=browse)
        print(f"Netron shows {model.name} at http://{host}:{number}; Ctrl-C ends it", flush=True)
        netron.wait()
