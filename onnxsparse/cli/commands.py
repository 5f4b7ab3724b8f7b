"""The commands about models as they are: bind sizes, call the library, print."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from onnxsparse.analysis.layers import layers
from onnxsparse.annotations import is_stale
from onnxsparse.cli.jobs import Json, Sizes
from onnxsparse.cli.render import text
from onnxsparse.cli.render.records import layers_json
from onnxsparse.cost.registry import backend_names, find_backend
from onnxsparse.errors import ParamError
from onnxsparse.passes.report import DEFAULT_TARGET
from onnxsparse.pipeline.base import OLD_NAME, named_target


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
