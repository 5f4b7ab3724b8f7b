"""The command line: commands by name, so that `--help` imports none of them, and one line for every error."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, Parameter, ValidationError

from onnxsparse.errors import OnnxSparseError, ParamError
from onnxsparse.pipeline.registry import passes

INTERRUPTED = 130
"""What shells say of a program ended by Ctrl-C: 128 + SIGINT."""


def make_app() -> App:
    app = App(
        name="onnxsparse",
        help="Prune, quantize, annotate, inspect and compare ONNX models, on the ONNX file alone.",
        help_epilogue="Every command has its own --help. --debug shows the traceback of an error.",
        help_format="plaintext",
        version=lambda: version("onnxsparse"),
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative_iterable=(), consume_multiple=False),
    )
    app.command(
        "onnxsparse.cli.commands:inspect", name="inspect", help="Show what each layer of a model costs and how sparse it is."
    )
    app.command(
        "onnxsparse.cli.cost_commands:report", name="report", help="Predict what a model costs on a target, layer by layer."
    )
    app.command(
        "onnxsparse.cli.commands:compare",
        name="compare",
        help="Run two models on the same inputs and show how far they are apart.",
    )
    app.command("onnxsparse.cli.commands:view", name="view", help="Open an annotated temporary copy of a model in Netron.")
    app.command("onnxsparse.cli.commands:run", name="run", help="Run the passes of a recipe (YAML) one after the other.")
    app.command("onnxsparse.cli.commands:show_passes", name="passes", help="Show the passes there are, and the options of each.")
    app.command(
        "onnxsparse.cli.cost_commands:calibrate_backend",
        name="calibrate-backend",
        help="Fit a target's numbers to measurements of your own.",
    )
    for name, entry in passes().items():
        if name == "report":  # its command compares models and prints tables
            continue
        app.command(f"onnxsparse.cli.commands:{name}", name=name, help=entry.summary)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for a model that cannot be used, 2 for a wrong option, 130 interrupted."""
    tokens = join_hyphens(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens
    try:
        result = make_app()(
            [t for t in tokens if t != "--debug"], exit_on_error=False, print_error=False, result_action="return_value"
        )
        if sys.stdout is not None:  # a shell may close it
            sys.stdout.flush()  # a full disk is found here, not when Python exits
    except CycloptsError as error:
        return fail(one_line(error), ParamError.exit_code, debug)
    except OnnxSparseError as error:
        return fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return fail("interrupted; nothing was written", INTERRUPTED, debug)
    except BrokenPipeError:
        silence()  # whoever read our output has seen enough
        return 0
    except MemoryError as error:
        return fail(f"there is not enough memory: {error}", OnnxSparseError.exit_code, debug)
    except OSError as error:
        # of what no file's own message covers: a temporary folder, standard output, a port that is taken
        silence()
        where = f"{error.filename}: " if error.filename else "cannot read or write: "
        return fail(f"{where}{error.strerror or error}", OnnxSparseError.exit_code, debug)
    return result if isinstance(result, int) else 0


def silence() -> None:
    """Give up standard output: Python would complain once more when it closes what cannot be written."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        return  # it is not a file, or closed already


def join_hyphens(arguments: Sequence[str]) -> list[str]:
    """`--json -` as `--json=-`: a hyphen alone stands for standard output, and is no option."""
    tokens: list[str] = []
    for argument in arguments:
        if argument == "-" and tokens and tokens[-1].startswith("--"):
            tokens[-1] += "=-"
        else:
            tokens.append(argument)
    return tokens


def fail(message: str, exit_code: int, debug: bool) -> int:
    if debug:
        raise
    print(f"onnxsparse: {' '.join(message.split())}", file=sys.stderr)
    return exit_code


def one_line(error: CycloptsError) -> str:
    """What a person can act on, without the library's frame around it."""
    errors = getattr(error.__cause__, "errors", None)  # pydantic's, which the library wraps
    if isinstance(error, ValidationError) and errors is not None:
        found = errors()[0]
        option = "--" + "-".join(str(part) for part in found["loc"]).replace("_", "-")
        return f"{option}: {found['msg']} (got {found['input']})"
    return str(error)


def run() -> None:
    """The console script."""
    sys.exit(main())
